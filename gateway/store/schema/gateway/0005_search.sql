-- The search index: one row per value of a thing (see gateway/store/leaves.py), and who may read under which policy.

-- `policy_id` is from now on the one in force, and NULL when the thing is deleted.
UPDATE things SET policy_id = CASE WHEN document IS NULL THEN NULL ELSE COALESCE(policy_id, thing_id) END;
CREATE INDEX things_by_policy ON things (policy_id, thing_id);
CREATE INDEX things_in_order ON things (thing_id, policy_id, namespace);
CREATE INDEX things_by_modified ON things (modified, thing_id);
CREATE INDEX things_by_created ON things (created, thing_id);

-- `pattern` is the path with `*` for the feature's id, NULL outside of features.
CREATE TABLE search_paths (
  id      INTEGER PRIMARY KEY,
  path    TEXT NOT NULL UNIQUE,
  pattern TEXT
);
CREATE INDEX search_paths_by_pattern ON search_paths (pattern) WHERE pattern IS NOT NULL;

-- `value` has no type on purpose: it keeps the one it was given.
CREATE TABLE search_rows (
  thing_id TEXT NOT NULL,
  path     INTEGER NOT NULL,
  position INTEGER NOT NULL,
  value,
  PRIMARY KEY (thing_id, path, position)
) WITHOUT ROWID;
CREATE INDEX search_rows_by_value ON search_rows (path, value);

-- Things without rows, looked at one by one: `is_waiting` until they are indexed, else they do not fit.
CREATE TABLE search_wide (
  thing_id   TEXT PRIMARY KEY,
  is_waiting INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX search_wide_waiting ON search_wide (is_waiting, thing_id);
INSERT INTO search_wide (thing_id, is_waiting) SELECT thing_id, 1 FROM things WHERE document IS NOT NULL;

-- What a policy lets a subject read, as a text that policies share; subject '' marks one that says more than that.
CREATE TABLE policy_signatures (
  signature INTEGER PRIMARY KEY,
  body      TEXT NOT NULL UNIQUE
);
CREATE TABLE policy_readers (
  policy_id TEXT NOT NULL,
  subject   TEXT NOT NULL,
  signature INTEGER NOT NULL,
  PRIMARY KEY (policy_id, subject)
) WITHOUT ROWID;
CREATE INDEX policy_readers_by_subject ON policy_readers (subject, signature, policy_id);

-- Policies written before are asked one by one until they are written into these tables.
CREATE TABLE policy_unread (policy_id TEXT PRIMARY KEY) WITHOUT ROWID;
INSERT INTO policy_unread (policy_id) SELECT policy_id FROM policies WHERE document IS NOT NULL;
INSERT INTO policy_signatures (signature, body) VALUES (1, '');
INSERT INTO policy_readers (policy_id, subject, signature) SELECT policy_id, '', 1 FROM policy_unread;
