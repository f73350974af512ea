-- Objects as the edge's MetaServer serves them, by KubeEdge's key `/core/v1/pods/default/p1`. Written in one
-- transaction with `meta`.
CREATE TABLE meta_v2 (
    key                    TEXT    PRIMARY KEY,
    group_version_resource TEXT    NOT NULL,
    namespace              TEXT    NOT NULL,
    name                   TEXT    NOT NULL,
    resource_version       INTEGER NOT NULL,
    value                  TEXT    NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX meta_v2_by_resource ON meta_v2 (group_version_resource, namespace, name);
