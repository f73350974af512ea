-- Commands that wait for their devices, and through which gateway a device was heard last.

-- `due` is when somebody has to look at a row: when it expires, at once when it has failed, later when the
-- application could not be told yet. `failure_status` NULL: it waits for its device. No reference to device:
-- the application hears of commands whose device was deleted, too.
CREATE TABLE stored_command (
  sequence INTEGER PRIMARY KEY,
  id TEXT NOT NULL UNIQUE,
  tenant TEXT NOT NULL,
  device TEXT NOT NULL,
  stored REAL NOT NULL,
  expires REAL NOT NULL,
  due REAL NOT NULL,
  size INTEGER NOT NULL,
  attempts INTEGER NOT NULL DEFAULT 0,
  failure_status INTEGER,
  failure_text TEXT,
  body TEXT NOT NULL,
  payload BLOB NOT NULL
);
CREATE INDEX stored_command_line ON stored_command (tenant, device, sequence);
CREATE INDEX stored_command_due ON stored_command (due);

-- `seen` is a day (seconds since the epoch): entries that nobody renewed for four weeks go.
CREATE TABLE last_gateway (
  tenant TEXT NOT NULL,
  device TEXT NOT NULL,
  gateway TEXT NOT NULL,
  seen INTEGER NOT NULL,
  PRIMARY KEY (tenant, device),
  FOREIGN KEY (tenant, device) REFERENCES device (tenant, id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX last_gateway_seen ON last_gateway (seen);
