-- Devices that were provisioned by themselves and whose notice has not gone out yet: few, and asked for often.

CREATE INDEX device_unannounced ON device (tenant, id)
  WHERE json_extract(status, '$."auto-provisioned"') = 1
    AND json_extract(status, '$."auto-provisioning-notification-sent"') = 0;
