"""Announcements of policies and connections as envelopes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from gateway.model.json import Json
from gateway.wire.ditto.envelope import encode
from gateway.wire.ditto.headers import JSON
from gateway.wire.ditto.topic import policy_topic

SUBJECT_DELETION: Final = "subjectDeletion"
OPENED: Final = "opened"
CLOSED: Final = "closed"


@dataclass(frozen=True, slots=True)
class Announcement:
    """An announcement on its way out: its envelope, and what stands in it.

    Shape:  `entity_id` is that of the policy or connection; the path is `/`.
    """

    entity_id: str
    topic: str
    headers: Mapping[str, Any]
    frame: bytes


def subject_deletion(
    policy_id: str,
    subject_ids: Sequence[str],
    delete_at: str,
    *,
    correlation_id: str,
    timestamp: str,
    labels: Sequence[str] = (),
    timeout: float = 0.0,
) -> Announcement:
    """The announcement that subjects are, or were, deleted at an instant.

    Shape:  `timeout` seconds during which acknowledgements with `labels` are waited for.
    Source: Eclipse Ditto, protocol specification, policy announcements.
    """
    headers = _headers(correlation_id)
    if labels:
        headers["requested-acks"] = list(labels)
        headers["timeout"] = f"{round(timeout * 1_000)}ms"
    value: dict[str, Json] = {"deleteAt": delete_at, "subjectIds": list(subject_ids)}
    topic = policy_topic(policy_id, "announcements", SUBJECT_DELETION)
    return _announcement(policy_id, topic, headers, value, timestamp)


def connection_state(
    connection_id: str, state: str, instant: str, correlation_id: str
) -> Announcement:
    """The announcement that a connection was opened or closed at an instant.

    Source: Eclipse Ditto, protocol specification, connection announcements.
    """
    topic = f"_/{connection_id}/connections/announcements/{state}"
    value: dict[str, Json] = {f"{state}At": instant}
    return _announcement(connection_id, topic, _headers(correlation_id), value, instant)


def _headers(correlation_id: str) -> dict[str, Any]:
    return {
        "correlation-id": correlation_id,
        "content-type": JSON,
        "response-required": False,
        "version": 2,
    }


def _announcement(
    entity_id: str,
    topic: str,
    headers: dict[str, Any],
    value: dict[str, Json],
    timestamp: str,
) -> Announcement:
    frame = encode(topic, "/", headers, value, timestamp=timestamp)
    return Announcement(entity_id, topic, headers, frame)
