"""What a thing says about its reported values: how far they can be trusted, and when they are from.

It stands in Ditto's metadata: `_metadata/features/<f>/properties/<key>/{quality,sourceTime}`, set by the
command that writes the value. Pure.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping
from datetime import UTC, datetime

from cloud.mapping import Layout
from cloud.statuses import quality_of, reported_at
from gateway.model.json import JsonObject, format_pointer
from gateway.model.thing import NO_HEADERS, Headers
from gateway.twin.metadata import MAX_KEYS, PUT

QUALITY, SOURCE_TIME = "quality", "sourceTime"
MAX_PROPERTIES = MAX_KEYS // 2
"""Values of one command that something is said of; Ditto's header has so many keys."""
_LATEST = 253_402_300_799_999
_UNSAYABLE = frozenset("*~")
"""What a key of the header would take for a wildcard or an escape."""


def requalified(
    before: Mapping[str, JsonObject], after: Mapping[str, JsonObject | None]
) -> list[str]:
    """Return the properties whose reported value is trusted more or less than before."""
    return [
        name
        for name, entry in after.items()
        if entry is not None and quality_of(before.get(name)) != quality_of(entry)
    ]


def said_of(
    layout: Layout, names: Collection[str], entries: Mapping[str, JsonObject | None]
) -> Headers:
    """Return the header that says it of these properties; none where there is nothing to say."""
    pairs = []
    for name in list(names)[:MAX_PROPERTIES]:
        entry, place = entries.get(name), layout.place(name)
        at = reported_at(entry)
        if entry is None or not 0 < at <= _LATEST or _UNSAYABLE & set(place.feature + place.key):
            continue
        where = format_pointer(place.reported)
        pairs += [
            {"key": f"{where}/{QUALITY}", "value": quality_of(entry)},
            {"key": f"{where}/{SOURCE_TIME}", "value": _instant(at)},
        ]
    return {PUT: json.dumps(pairs)} if pairs else NO_HEADERS


def _instant(millis: int) -> str:
    written = datetime.fromtimestamp(millis / 1_000, UTC).isoformat(timespec="milliseconds")
    return written.replace("+00:00", "Z")
