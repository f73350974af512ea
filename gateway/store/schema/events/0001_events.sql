-- Events wait here until every cursor of their tenant is done with them.

CREATE TABLE event (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  tenant TEXT NOT NULL,
  expires REAL,              -- seconds since the epoch; NULL: never
  size INTEGER NOT NULL,     -- bytes that count against the limit
  message BLOB NOT NULL      -- msgpack, see gateway/store/events.py
);
CREATE INDEX event_expires ON event (expires) WHERE expires IS NOT NULL;

CREATE TABLE cursor (
  id INTEGER PRIMARY KEY,
  tenant TEXT NOT NULL,
  name TEXT NOT NULL,
  UNIQUE (tenant, name)
);

-- One row per event and cursor that is not done with it.
CREATE TABLE owed (
  cursor INTEGER NOT NULL REFERENCES cursor (id) ON DELETE CASCADE,
  event INTEGER NOT NULL REFERENCES event (id) ON DELETE CASCADE,
  attempts INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (cursor, event)
) WITHOUT ROWID;
CREATE INDEX owed_event ON owed (event);
