-- The Hono device registry: tenants, devices, credentials.

CREATE TABLE tenant (
  id TEXT PRIMARY KEY,
  alias TEXT UNIQUE,
  trust_anchor_group TEXT,
  document TEXT NOT NULL,
  version TEXT NOT NULL
) WITHOUT ROWID;

-- Which tenants trust a certificate authority, by its canonical subject DN.
CREATE TABLE tenant_anchor (
  subject_dn TEXT NOT NULL,
  tenant TEXT NOT NULL REFERENCES tenant (id) ON DELETE CASCADE,
  PRIMARY KEY (subject_dn, tenant)
) WITHOUT ROWID;
CREATE INDEX tenant_anchor_tenant ON tenant_anchor (tenant);

-- No reference to tenant: devices outlive their tenant until somebody deletes them.
CREATE TABLE device (
  tenant TEXT NOT NULL,
  id TEXT NOT NULL,
  document TEXT NOT NULL,
  status TEXT NOT NULL,
  version TEXT NOT NULL,
  credentials_version TEXT NOT NULL,
  PRIMARY KEY (tenant, id)
) WITHOUT ROWID;

-- Gateways that a device names, for "is this device a gateway".
CREATE TABLE device_via (
  tenant TEXT NOT NULL,
  gateway TEXT NOT NULL,
  device TEXT NOT NULL,
  PRIMARY KEY (tenant, gateway, device),
  FOREIGN KEY (tenant, device) REFERENCES device (tenant, id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX device_via_device ON device_via (tenant, device);

-- Gateway groups and their members.
CREATE TABLE device_member (
  tenant TEXT NOT NULL,
  group_id TEXT NOT NULL,
  device TEXT NOT NULL,
  PRIMARY KEY (tenant, group_id, device),
  FOREIGN KEY (tenant, device) REFERENCES device (tenant, id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX device_member_device ON device_member (tenant, device);

CREATE TABLE credential (
  tenant TEXT NOT NULL,
  type TEXT NOT NULL,
  auth_id TEXT NOT NULL,
  device TEXT NOT NULL,
  position INTEGER NOT NULL,
  document TEXT NOT NULL,
  PRIMARY KEY (tenant, type, auth_id),
  FOREIGN KEY (tenant, device) REFERENCES device (tenant, id) ON DELETE CASCADE
) WITHOUT ROWID;
CREATE INDEX credential_device ON credential (tenant, device, position);

-- What a tenant used of its limits in one accounting period.
CREATE TABLE tenant_usage (
  tenant TEXT NOT NULL,
  period_start INTEGER NOT NULL,
  bytes INTEGER NOT NULL DEFAULT 0,
  connected_seconds REAL NOT NULL DEFAULT 0,
  PRIMARY KEY (tenant, period_start)
) WITHOUT ROWID;
