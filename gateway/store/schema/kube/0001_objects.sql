-- Objects of the Kubernetes API, whole documents as JSON, and the last resourceVersion that was given out.
CREATE TABLE objects (
    kind      TEXT    NOT NULL, -- plural and group, e.g. devices.devices.kubeedge.io
    namespace TEXT    NOT NULL, -- empty for cluster-scoped kinds
    name      TEXT    NOT NULL,
    version   INTEGER NOT NULL, -- resourceVersion
    body      BLOB    NOT NULL,
    PRIMARY KEY (kind, namespace, name)
);

CREATE INDEX objects_by_namespace ON objects (namespace) WHERE namespace <> '';

CREATE TABLE clock (
    one     INTEGER PRIMARY KEY CHECK (one = 1),
    version INTEGER NOT NULL
);

INSERT INTO clock (one, version) VALUES (1, 1);
