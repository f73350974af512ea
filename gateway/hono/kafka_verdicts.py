"""What became of a command that came over Kafka, and how its application is told.

On Kafka there is no disposition: an application that wants a response gets a delivery failure notification
in its place; who sent a one-way command hears nothing.
Source: Hono, Command & Control API for Kafka, Delivery Failure Notification.
"""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from gateway.errors import GatewayError, NotProcessed, Rejected, Undeliverable
from gateway.hono.kafka_records import DELIVERY_FAILURE, CommandRecord
from gateway.model.message import CommandResponse


@dataclass(frozen=True, slots=True)
class Verdict:
    """An outcome: `status` and `text` are what the application is told."""

    name: str
    status: int = 0
    text: str = ""


ACCEPTED = Verdict("accepted")


def verdict_of(error: GatewayError | None) -> Verdict:
    """Return what routing a command came to."""
    if error is None:
        return ACCEPTED
    if isinstance(error, NotProcessed) and "delivery_failed" in error.details:
        return _modified(error)
    if isinstance(error, Rejected):
        status = error.status if 400 <= error.status < 500 else 400
        return Verdict("rejected", status, error.message or "Command message rejected")
    if isinstance(error, Undeliverable):
        return Verdict("released", error.status if error.status >= 500 else 503, error.message)
    status = error.status if error.status >= 500 else 503
    return Verdict("released", status, GatewayError.default_message)


def _modified(error: NotProcessed) -> Verdict:
    here = error.details.get("undeliverable_here") is True
    words = ["command not processed"]
    if error.details.get("delivery_failed") is True:
        words.append("delivery failed")
    if here:
        words.append("undeliverable here")
    return Verdict("modified", 404 if here else 503, "; ".join(words))


def notification_of(
    record: CommandRecord, correlation_id: str, verdict: Verdict, at: float
) -> CommandResponse:
    """Return the delivery failure notification for a command; `at` in seconds since the epoch."""
    return CommandResponse(
        tenant=record.tenant,
        device=record.device,
        reply_id="",
        correlation_id=correlation_id,
        status=verdict.status,
        payload=msgspec.json.encode({"error": verdict.text}),
        content_type=DELIVERY_FAILURE,
        at=at,
        trace=record.trace,
        properties=record.metadata,
    )
