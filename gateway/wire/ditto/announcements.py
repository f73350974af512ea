"""Announcements of policies as envelopes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from gateway.wire.ditto.envelope import encode
from gateway.wire.ditto.headers import JSON
from gateway.wire.ditto.topic import policy_topic

SUBJECT_DELETION: Final = "subjectDeletion"


def subject_deletion_frame(
    policy_id: str,
    subject_ids: Sequence[str],
    delete_at: str,
    *,
    correlation_id: str,
    timestamp: str,
    labels: Sequence[str] = (),
    timeout: float = 0.0,
) -> bytes:
    """The announcement that subjects are, or were, deleted at an instant.

    Shape:  `timeout` seconds during which acknowledgements with `labels` are waited for.
    Source: Eclipse Ditto, protocol specification, policy announcements.
    """
    headers: dict[str, Any] = {
        "correlation-id": correlation_id,
        "content-type": JSON,
        "response-required": False,
        "version": 2,
    }
    if labels:
        headers["requested-acks"] = list(labels)
        headers["timeout"] = f"{round(timeout * 1_000)}ms"
    value = {"deleteAt": delete_at, "subjectIds": list(subject_ids)}
    topic = policy_topic(policy_id, "announcements", SUBJECT_DELETION)
    return encode(topic, "/", headers, value, timestamp=timestamp)
