-- When something of a policy's subjects may be due next (an announcement, an end); NULL for never.

ALTER TABLE policies ADD COLUMN due TEXT;
CREATE INDEX policies_by_due ON policies (due) WHERE due IS NOT NULL;

-- Policies written before are looked at when the service starts.
UPDATE policies SET due = '' WHERE document LIKE '%"expiry"%';
