"""What becomes of a message that has no form in the protocol that applications read.

It would have none tomorrow either, so it is not tried again: counted, told without its payload, refused where
somebody waits for its outcome, and dropped where it came from the event store.
"""

from __future__ import annotations

import logging

from gateway.errors import Unencodable
from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)


def note_unencodable(
    metrics: Metrics, kind: str, tenant: str, device: str, error: Unencodable
) -> None:
    """Count a message of `kind` (telemetry, event, command_response) and say whose it was."""
    metrics.northbound_unencodable.labels(kind).inc()
    log.warning(
        "message cannot be written for applications",
        extra={
            "type": kind,
            "tenant": tenant,
            "device": device,
            "cause": type(error.__cause__ or error).__name__,
        },
    )
