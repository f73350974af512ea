-- Managed connections, as their owners wrote them. `document` is the JSON with secrets: it never leaves unmasked.

CREATE TABLE connections (
  connection_id TEXT PRIMARY KEY,
  revision      INTEGER NOT NULL,
  document      BLOB NOT NULL,
  created       TEXT NOT NULL,
  modified      TEXT NOT NULL
) WITHOUT ROWID;
