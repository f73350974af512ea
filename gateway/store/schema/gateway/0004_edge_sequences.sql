-- How far each lane of an edge's spool has been taken; written in the transaction of the change it causes.
CREATE TABLE edge_sequences (
  edge TEXT NOT NULL,
  lane TEXT NOT NULL,
  sequence INTEGER NOT NULL,
  PRIMARY KEY (edge, lane)
) WITHOUT ROWID;

-- Certificates given to edge nodes, until they expire.
CREATE TABLE node_certificate (
  serial TEXT PRIMARY KEY,
  node TEXT NOT NULL,
  issued_at REAL NOT NULL,
  expires_at REAL NOT NULL,
  revoked_at REAL
) WITHOUT ROWID;
CREATE INDEX node_certificate_node ON node_certificate (node);

-- Nodes whose Node object has been seen, so that a deletion while CloudCore was down is noticed.
CREATE TABLE edge_node (
  node TEXT PRIMARY KEY,
  registered INTEGER NOT NULL DEFAULT 0,
  revoked_at REAL
) WITHOUT ROWID;

-- What the controller and the thing last agreed on, per property; `desired` is JSON, NULL for none.
CREATE TABLE device_base (
  uid TEXT NOT NULL,
  property TEXT NOT NULL,
  desired TEXT,
  generation INTEGER NOT NULL,
  revision INTEGER NOT NULL,
  PRIMARY KEY (uid, property)
) WITHOUT ROWID;

-- Which thing stands for a Device, and whether the controller made it.
CREATE TABLE device_thing (
  uid TEXT PRIMARY KEY,
  thing_id TEXT NOT NULL,
  made INTEGER NOT NULL,
  keep INTEGER NOT NULL
) WITHOUT ROWID;
