"""What a run of hollow edges found, as numbers that programs read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from edge.hollow.plan import Snapshot
from edge.hollow.spread import Spread
from gateway.model.json import JsonObject

HOUR = 3_600.0
HEADERS = 52
"""Bytes of IPv4 and TCP headers of a segment, with timestamps."""


@dataclass(frozen=True, slots=True)
class Moment:
    """The fleet and, where it can be seen, CloudCore's process at one time."""

    at: float
    fleet: Snapshot
    resident: int | None = None
    cpu: float | None = None


def steady(before: Moment, after: Moment, nodes: int) -> JsonObject:
    """Return what happened between two moments; the spreads are those of `after`."""
    seconds = after.at - before.at
    old, new = before.fleet, after.fleet
    each_hour = HOUR / seconds / nodes
    segments = (new.segments - old.segments) * HEADERS
    return {
        "seconds": round(seconds, 1),
        "links_lost": new.lost - old.lost,
        "frames_up_per_second": round((new.frames_out - old.frames_out) / seconds, 1),
        "frames_down_per_second": round((new.frames_in - old.frames_in) / seconds, 1),
        "bytes_per_node_hour": {
            "up": round((new.bytes_out - old.bytes_out) * each_hour),
            "down": round((new.bytes_in - old.bytes_in) * each_hour),
            "headers": round(segments * each_hour),
        },
        "reports_per_second": round((new.reports_answered - old.reports_answered) / seconds, 1),
        "telemetry_per_second": round((new.uploads_answered - old.uploads_answered) / seconds, 1),
        "lease_renewal_seconds": percentiles(new.renewals, 1_000),
        "lease_answer_ms": percentiles(new.lease_times),
        "node_answer_ms": percentiles(new.node_times),
        "report_answer_ms": percentiles(new.answer_times),
        "hollow_cpu": round((new.cpu - old.cpu) / seconds, 3),
    }


def cloud(empty: Moment, before: Moment, after: Moment, nodes: int) -> JsonObject:
    """Return what CloudCore's process needed; {} where it was not looked at."""
    if empty.resident is None or after.resident is None or after.cpu is None:
        return {}
    started = before.cpu or 0.0
    return {
        "resident_mb": round(after.resident / 1e6, 1),
        "kilobytes_per_node": round((after.resident - empty.resident) / 1e3 / nodes, 1),
        "kilobytes_per_node_at_first": round(
            ((before.resident or 0) - empty.resident) / 1e3 / nodes, 1
        ),
        "cpu": round((after.cpu - started) / (after.at - before.at), 3),
        "connect_cpu_ms": round((started - (empty.cpu or 0.0)) * 1e3 / nodes, 2),
    }


def percentiles(cells: Mapping[int, int], divisor: float = 1.0) -> JsonObject:
    """Return p50, p99 and the largest; {} without any."""
    spread = Spread(dict(cells))
    found = {name: spread.at(part) for name, part in (("p50", 0.5), ("p99", 0.99), ("max", 1.0))}
    return {name: round(value / divisor, 2) for name, value in found.items() if value is not None}
