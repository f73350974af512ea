-- Readers of policies are worked out with imports, references and root policies: whose documents were
-- looked at for them, and which of these have changed since.

CREATE TABLE policy_depends (
  policy_id TEXT NOT NULL,
  source    TEXT NOT NULL,
  PRIMARY KEY (policy_id, source)
) WITHOUT ROWID;
CREATE INDEX policy_depends_by_source ON policy_depends (source, policy_id);

-- `source` has changed; those that depend on it are worked out anew in order of their ids, up to `after` by now.
CREATE TABLE policy_stale (
  source TEXT PRIMARY KEY,
  after  TEXT NOT NULL
) WITHOUT ROWID;

-- What the index was made with, e.g. the root policies of the settings.
CREATE TABLE search_facts (
  name  TEXT PRIMARY KEY,
  value TEXT NOT NULL
) WITHOUT ROWID;

-- Changes whenever some thing gets or loses a value, not when it gets another one.
INSERT INTO search_facts (name, value) VALUES ('presence', '0');

-- Until now policies with imports had no readers.
INSERT OR IGNORE INTO policy_unread (policy_id) SELECT policy_id FROM policy_readers WHERE subject = '';

CREATE INDEX things_by_namespace ON things (namespace, thing_id);
CREATE INDEX things_by_revision ON things (revision, thing_id);
