"""RQL on changes of policies: streams of a policy's past events are narrowed by it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeAlias

from gateway.model.entity_id import name_of, namespace_of
from gateway.model.json import Json, JsonObject
from gateway.model.policy import PolicyEvent
from gateway.model.thing import EventAction
from gateway.twin.rql import parse
from gateway.twin.rql_predicate import document_lookup, predicate
from gateway.wire.ditto.topic import policy_topic
from gateway.wire.ditto.write import policy_pointer

PolicyFilter: TypeAlias = Callable[[PolicyEvent], bool]


def policy_filter(text: str) -> PolicyFilter:
    """Whether an event is wanted.

    Shape:  properties are those of the changed part, at its place in the policy; besides `topic:`,
            `resource:`, `policy:`, `entity:`, `header:` and `time:`.
    Errors: BadRequest `rql.expression.invalid`.
    """
    holds = predicate(parse(text))

    def wanted(event: PolicyEvent) -> bool:
        lookup = document_lookup(partial_policy(event), _placeholders(event))
        return holds(lookup, datetime.now(UTC))

    return wanted


def partial_policy(event: PolicyEvent) -> JsonObject:
    """What an event says about its policy, in the policy's own shape."""
    partial: JsonObject = {"policyId": event.policy_id}
    if event.action is EventAction.DELETED:
        return partial
    value = event.value
    for segment in reversed(event.path):
        value = {segment: value}
    return {**partial, **value} if isinstance(value, dict) else partial


def _placeholders(event: PolicyEvent) -> dict[str, Json]:
    namespace, name = namespace_of(event.policy_id), name_of(event.policy_id)
    action = event.action.value
    known: dict[str, Json] = {
        "topic:full": policy_topic(event.policy_id, "events", action),
        "topic:namespace": namespace,
        "topic:entityName": name,
        "topic:entityId": event.policy_id,
        "topic:entityType": "policy",
        "topic:group": "policies",
        "topic:criterion": "events",
        "topic:action": action,
        "topic:action-subject": action,
        "resource:type": "policy",
        "resource:path": policy_pointer(event.path),
    }
    parts = {"id": event.policy_id, "namespace": namespace, "name": name}
    known |= {
        f"{kind}:{part}": text for kind in ("policy", "entity") for part, text in parts.items()
    }
    texts = (str, bool, int)
    return known | {f"header:{k}": v for k, v in event.headers.items() if isinstance(v, texts)}
