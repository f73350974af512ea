-- The configuration of WoT validation that operators put; `document` is NULL while there is none.

CREATE TABLE wot_validation_config (
  config_id TEXT PRIMARY KEY,
  revision  INTEGER NOT NULL,
  document  BLOB,
  created   TEXT NOT NULL,
  modified  TEXT NOT NULL
) WITHOUT ROWID;
