"""What a process of hollow edges is told, and what it tells back each second."""

from __future__ import annotations

from msgspec import Struct


class Plan(Struct, frozen=True, kw_only=True):
    """The nodes of one process and what they do.

    Shape:  nodes are `<prefix>-<number>` from `first` on; `folder` keeps each node's key and certificate.
    Units:  `ramp` new nodes a second, `churn` broken links a minute, both of this process; `telemetry`
            messages and `reports` twin reports a second of each device.
    """

    cloud: str
    hub: str
    token: str
    folder: str
    prefix: str
    first: int
    count: int
    ramp: float
    churn: float = 0.0
    telemetry: float = 0.0
    reports: float = 0.0
    payload: int = 150
    keepalive: float = 15.0


class Order(Struct, frozen=True):
    """What the parent asks while it runs.

    Shape:  `drop` breaks all links at once; `mark` starts the times anew.
    """

    do: str


class Snapshot(Struct, kw_only=True):
    """Counters of one process since its start, gauges of now.

    Units:  bytes as TCP carries them, with TLS and without headers; spreads in milliseconds since the last
            `mark`, `renewals` the pauses between two renewals of a Lease.
    """

    joined: int = 0
    up: int = 0
    registered: int = 0
    links: int = 0
    lost: int = 0
    bound: int = 0
    """Devices that the cloud has brought."""
    frames_in: int = 0
    frames_out: int = 0
    bytes_in: int = 0
    bytes_out: int = 0
    segments: int = 0
    """TCP segments in both directions."""
    reports_made: int = 0
    reports_answered: int = 0
    reports_waiting: int = 0
    """Devices with reports that the cloud has not answered."""
    uploads_spooled: int = 0
    uploads_answered: int = 0
    deltas: int = 0
    """Times that a device was behind what is wanted of it."""
    renewals: dict[int, int] = {}
    lease_times: dict[int, int] = {}
    node_times: dict[int, int] = {}
    answer_times: dict[int, int] = {}
    """From sending a twin report or telemetry to the cloud's answer."""
    errors: dict[str, int] = {}
    resident: int = 0
    cpu: float = 0.0
