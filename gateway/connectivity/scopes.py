"""What placeholders stand for: a message's headers, a signal's topic and path, the connection."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from gateway.twin.rql import Comparison, TimeValue, parse
from gateway.twin.rql_predicate import resolved
from gateway.wire.ditto.placeholders import Lookup, Scope


def header_scope(headers: Mapping[str, str]) -> Lookup:
    """`header:<name>`, whatever the case."""
    return lambda name: headers.get(name.lower())


def texts(headers: Mapping[str, object]) -> dict[str, str]:
    """Headers of a signal as texts, under lower-case names; lists are joined by commas."""
    return {
        name.lower(): header_text(value) for name, value in headers.items() if value is not None
    }


def header_text(value: object) -> str:
    """One header's value as text."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, list):
        return ",".join(map(str, value))
    return str(value)


def time_scope(name: str) -> str | None:
    """`time:now`, `time:now_epoch_millis`, with arithmetic and truncation."""
    if name == "now_epoch_millis":
        return str(int(time.time() * 1_000))
    node = parse(f"eq(a,time:{name})")
    value = node.values[0] if isinstance(node, Comparison) else None
    return str(resolved(value, datetime.now(UTC))) if isinstance(value, TimeValue) else None


def source_scope(headers: Mapping[str, str], address: str, connection_id: str) -> dict[str, Lookup]:
    """What is known of a message before it is mapped."""
    return {
        "header": header_scope(headers),
        "source": {"address": address}.get,
        "connection": {"id": connection_id}.get,
        "time": time_scope,
    }


def signal_scope(topic: str, path: str) -> dict[str, Lookup]:
    """What topic and path say: `thing:`, `entity:`, `policy:`, `topic:`, `resource:`, `feature:`."""
    parts = topic_parts(topic)
    kind = parts.get("entityType", "thing")
    entity = {
        "id": parts.get("entityId"),
        "namespace": parts.get("namespace"),
        "name": parts.get("entityName"),
    }
    scope: dict[str, Lookup] = {
        "topic": parts.get,
        "resource": {"path": path, "type": _resource_type(parts)}.get,
    }
    if kind != "connection":
        scope |= {"entity": entity.get, kind: entity.get}
    segments = path.split("/")
    if len(segments) > 2 and segments[1] == "features":
        feature_id = segments[2].replace("~1", "/").replace("~0", "~")
        scope["feature"] = {"id": feature_id}.get
    return scope


def with_request(scope: Scope, subjects: Sequence[str]) -> Scope:
    """Adds `request:subjectId`, the first subject."""
    return {**scope, "request": {"subjectId": subjects[0] if subjects else None}.get}


_ENTITY_TYPES = {"things": "thing", "policies": "policy", "connections": "connection"}


def topic_parts(topic: str) -> dict[str, str]:
    """A topic taken apart, under the names of `topic:`; only things have a channel."""
    parts = topic.split("/")
    if len(parts) < 4:
        return {}
    namespace, name, group, *rest = parts
    channel = rest.pop(0) if group == "things" else ""
    criterion, tail = (rest[0] if rest else ""), "/".join(rest[1:])
    found = {
        "full": topic,
        "namespace": namespace,
        "entityName": name,
        "entityId": f"{namespace}:{name}",
        "entityType": _ENTITY_TYPES.get(group, "thing"),
        "group": group,
        "channel": channel,
        "criterion": criterion,
        "action-subject": tail,
        "subject" if criterion == "messages" else "action": tail,
    }
    return {key: value for key, value in found.items() if value}


def _resource_type(parts: Mapping[str, str]) -> str:
    return "message" if parts.get("criterion") == "messages" else parts.get("entityType", "thing")
