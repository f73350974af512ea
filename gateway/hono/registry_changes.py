"""What a write says to those who cache registry entries or hold connections."""

from __future__ import annotations

from gateway.model.registry import Change, Device, RegistryChange, Subject


def device_change(change: Change, device: Device, before: Device | None = None) -> RegistryChange:
    """Return the change of a device that was `before`, None for a new one."""
    groups_before = device.member_of if before is None else before.member_of
    return RegistryChange(
        Subject.DEVICE,
        change,
        device.tenant_id,
        device.device_id,
        enabled=device.enabled,
        regroups=bool(groups_before or device.member_of),
    )
