-- What clouds of KubeEdge's first API versions say of a device beside its twins; value is JSON text.
CREATE TABLE device_attr (
    deviceid TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    value    TEXT NOT NULL,
    PRIMARY KEY (deviceid, name)
) STRICT, WITHOUT ROWID;
