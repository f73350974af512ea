-- Telemetry and events that wait for the remote Hono. The id only rises, so it orders each device's messages.
CREATE TABLE waiting (
    id      INTEGER PRIMARY KEY AUTOINCREMENT,
    tenant  TEXT    NOT NULL,
    event   INTEGER NOT NULL,
    device  TEXT    NOT NULL,
    expires REAL,
    size    INTEGER NOT NULL,
    message BLOB    NOT NULL
) STRICT;
CREATE INDEX waiting_by_lane ON waiting (tenant, event, device, id);
CREATE INDEX waiting_by_kind ON waiting (tenant, event, id, size);
CREATE INDEX waiting_by_expiry ON waiting (expires) WHERE expires IS NOT NULL;

-- Up to which id messages of a tenant may have been sent already: after a crash they may come twice.
CREATE TABLE sent (
    tenant TEXT PRIMARY KEY,
    up_to  INTEGER NOT NULL
) STRICT, WITHOUT ROWID;
