-- Which Node of its name was seen: one that was deleted and made again while CloudCore was down is another.
ALTER TABLE edge_node ADD COLUMN uid TEXT NOT NULL DEFAULT '';
