"""Whether a command is kept for a device that is away, and for how long.

Nothing is kept unless a tenant or a device says so in `ext.stored-commands`: `true`, or an object of

| member | meaning |
|---|---|
| `ttl` | seconds that a command without a time to live of its own is kept; not given: it is not kept |
| `max-ttl` | seconds that a command is kept at most |
| `max-per-device` | commands that may wait for one device |

What the device says wins over what its tenant says, member by member; `false` keeps nothing. The service's
settings bound all three.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from gateway.config.hono import StoredCommands as Settings
from gateway.model.json import Json
from gateway.model.registry import Assertion

EXT = "stored-commands"


@dataclass(frozen=True, slots=True)
class Terms:
    """How a command may wait.

    Units:  `seconds` from now.
    """

    seconds: float
    max_per_device: int


def terms_of(settings: Settings, found: Assertion, ttl: float | None) -> Terms | None:
    """Return the terms for a command with the time to live `ttl` (seconds); None where it is not kept."""
    of_tenant = _said(found.tenant.document.get("ext"))
    of_device = _said(found.device.document.get("ext"))
    said = of_tenant if of_device is None else of_device
    if said is None or said is False:
        return None
    members = {**_members(of_tenant), **_members(of_device)}
    wanted = _positive(members.get("ttl")) if ttl is None else ttl
    if wanted is None or wanted <= 0:
        return None
    longest = _positive(members.get("max-ttl")) or math.inf
    seconds = min(wanted, longest, settings.max_ttl)
    most = _positive(members.get("max-per-device")) or math.inf
    count = min(most, settings.max_per_device)
    return Terms(seconds, int(count)) if seconds > 0 and count >= 1 else None


def _said(ext: Json) -> Json:
    """What an `ext` says of stored commands: an object or a truth value; None for anything else."""
    found = ext.get(EXT) if isinstance(ext, dict) else None
    return found if isinstance(found, dict | bool) else None


def _members(said: Json) -> Mapping[str, Json]:
    return said if isinstance(said, dict) else {}


def _positive(value: Json) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return value if value > 0 else None
