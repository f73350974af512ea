-- Things and policies: the newest state, and what happened to them.
-- A deleted entity keeps its row without a document, so that its revision goes on when it is made anew.

CREATE TABLE things (
  thing_id  TEXT PRIMARY KEY,
  namespace TEXT NOT NULL,
  policy_id TEXT,
  revision  INTEGER NOT NULL,
  document  BLOB,
  created   TEXT NOT NULL,
  modified  TEXT NOT NULL
);

-- `snapshot` is the state after the event, kept with some events only: history replays from it.
CREATE TABLE thing_events (
  sequence  INTEGER PRIMARY KEY,
  thing_id  TEXT NOT NULL,
  revision  INTEGER NOT NULL,
  action    TEXT NOT NULL,
  path      TEXT NOT NULL,
  value     BLOB,
  facts     BLOB,
  timestamp TEXT NOT NULL,
  snapshot  BLOB
);
CREATE UNIQUE INDEX thing_events_by_thing ON thing_events (thing_id, revision);

CREATE TABLE policies (
  policy_id TEXT PRIMARY KEY,
  revision  INTEGER NOT NULL,
  document  BLOB,
  created   TEXT NOT NULL,
  modified  TEXT NOT NULL
);

CREATE TABLE policy_events (
  sequence  INTEGER PRIMARY KEY,
  policy_id TEXT NOT NULL,
  revision  INTEGER NOT NULL,
  action    TEXT NOT NULL,
  path      TEXT NOT NULL,
  value     BLOB,
  facts     BLOB,
  timestamp TEXT NOT NULL,
  snapshot  BLOB
);
CREATE UNIQUE INDEX policy_events_by_policy ON policy_events (policy_id, revision);
