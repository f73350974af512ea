"""A device as the coordinator knows it: a picture without a tie to the radio library."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Seen:
    """One device of the network.

    Shape:  `endpoints` its server clusters by endpoint; `last_seen` Unix ms, 0 for never; `rssi` dBm, 0 for
            unknown; `zone_type` and `colour_capabilities` 0 where they are not known.
    """

    ieee: str
    nwk: int
    manufacturer: str = ""
    model: str = ""
    is_sleepy: bool = False
    is_battery: bool = False
    is_ready: bool = False
    last_seen: int = 0
    rssi: int = 0
    endpoints: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    zone_type: int = 0
    colour_capabilities: int = 0

    def endpoint_with(self, cluster: int, wanted: int = 0) -> int:
        """Return the endpoint with a cluster, 0 where there is none."""
        if wanted:
            return wanted if cluster in self.endpoints.get(wanted, ()) else 0
        return next((at for at, has in sorted(self.endpoints.items()) if cluster in has), 0)
