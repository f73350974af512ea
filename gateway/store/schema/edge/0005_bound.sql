-- Which desired value of a Device was last made a twin's expected one, so that it is not made so again over a
-- wish that a client at the edge has said since. NULL where the Device wanted nothing; uid is the Device's.
CREATE TABLE device_bound (
    deviceid TEXT NOT NULL REFERENCES device (id) ON DELETE CASCADE,
    name     TEXT NOT NULL,
    uid      TEXT NOT NULL,
    desired  TEXT,
    PRIMARY KEY (deviceid, name)
) STRICT, WITHOUT ROWID;
