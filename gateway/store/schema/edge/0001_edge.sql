-- What an edge node keeps: cloud objects, devices and their twins, reports and uploads that wait for the cloud.

-- Facts about this store itself: the spool's uuid.
CREATE TABLE identity (
    name  TEXT PRIMARY KEY,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;

-- Objects from the cloud by wire resource, e.g. default/device/lamp; value is their JSON text.
CREATE TABLE meta (
    key   TEXT PRIMARY KEY,
    type  TEXT NOT NULL,
    value TEXT NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX meta_by_type ON meta (type, key);

CREATE TABLE device (
    id          TEXT PRIMARY KEY,
    name        TEXT NOT NULL,
    description TEXT NOT NULL DEFAULT '',
    state       TEXT NOT NULL DEFAULT '',
    last_online TEXT NOT NULL DEFAULT ''
) STRICT, WITHOUT ROWID;

-- Sides, versions and metadata are JSON text; NULL where a side was never set.
CREATE TABLE device_twin (
    deviceid         TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name             TEXT NOT NULL,
    expected         TEXT,
    actual           TEXT,
    expected_meta    TEXT,
    actual_meta      TEXT,
    expected_version TEXT,
    actual_version   TEXT,
    optional         INTEGER NOT NULL DEFAULT 1,
    metadata         TEXT NOT NULL DEFAULT '{}',
    PRIMARY KEY (deviceid, name)
) STRICT, WITHOUT ROWID;

-- Twin and state reports that the cloud has not answered yet, per device in order of id.
CREATE TABLE report (
    id       INTEGER PRIMARY KEY AUTOINCREMENT,
    deviceid TEXT NOT NULL,
    msg_id   TEXT NOT NULL,
    resource TEXT NOT NULL,
    content  TEXT NOT NULL,
    trace    TEXT NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX report_by_device ON report (deviceid, id);

-- Telemetry and events that wait for the cloud. The id is the sequence within every lane: it only rises.
CREATE TABLE spool (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    lane    TEXT    NOT NULL,
    event   INTEGER NOT NULL,
    size    INTEGER NOT NULL,
    topic   TEXT    NOT NULL,
    payload BLOB    NOT NULL,
    facts   TEXT    NOT NULL,
    trace   TEXT    NOT NULL DEFAULT ''
) STRICT;
CREATE INDEX spool_by_lane ON spool (lane, id);
CREATE INDEX spool_by_kind ON spool (event, id);

-- How much waits, kept in the same transaction as the rows; event is 0 for telemetry, 1 for events.
CREATE TABLE spool_total (
    event    INTEGER PRIMARY KEY,
    bytes    INTEGER NOT NULL DEFAULT 0,
    messages INTEGER NOT NULL DEFAULT 0
) STRICT;
INSERT INTO spool_total (event) VALUES (0), (1);

-- Messages that were lost or refused, by cause.
CREATE TABLE loss (
    cause    TEXT PRIMARY KEY,
    messages INTEGER NOT NULL DEFAULT 0
) STRICT, WITHOUT ROWID;

-- Topics that the cloud's router subscribed to, restored at start.
CREATE TABLE sub_topics (
    topic TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
