-- Devices at adapters elsewhere that listen for commands: adapters do not register them again when we restart.

-- `expires` NULL: for ever. No reference to device: that one is there is the adapter's business.
CREATE TABLE command_route (
  tenant TEXT NOT NULL,
  device TEXT NOT NULL,
  instance TEXT NOT NULL,
  expires REAL,
  PRIMARY KEY (tenant, device)
) WITHOUT ROWID;
