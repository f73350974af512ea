"""Between AMQP delivery states and the gateway's errors, in both directions.

Source: Hono's mapping of outcomes; see the tables in `docs/compatibility.md` and `gateway.outcome`.
"""

from __future__ import annotations

from gateway.errors import (
    BadRequest,
    ConsumerFull,
    Forbidden,
    GatewayError,
    NotFound,
    NotProcessed,
    Rejected,
    Undeliverable,
)
from gateway.hono.consumers import EventOutcome
from gateway.outcome import BAD_REQUEST, RESOURCE_LIMIT, UNAUTHORIZED, Disposition, outcome_of
from gateway.wire.amqp import performatives as amqp
from gateway.wire.amqp.performatives import ACCEPTED, RELEASED, Error

UNDELIVERABLE_HERE = "consumer declared message as undeliverable, it should not be redelivered"
CONSUMER_LIMIT = ConsumerFull.default_message
INTERNAL_ERROR = "amqp:internal-error"


def error_of(state: object) -> GatewayError | None:
    """Return what a consumer's state means for the device; None for accepted."""
    match state:
        case amqp.Accepted():
            return None
        case amqp.Rejected(error):
            return _rejection(error if isinstance(error, Error) else None)
        case amqp.Modified(undeliverable_here=True):
            return NotFound(UNDELIVERABLE_HERE)
        case amqp.Modified(delivery_failed=failed):
            return NotProcessed(details={"delivery_failed": bool(failed)})
        case _:
            return NotProcessed()


def _rejection(error: Error | None) -> GatewayError:
    condition = None if error is None else error.condition
    text = None if error is None else error.description
    if condition == RESOURCE_LIMIT:
        return ConsumerFull()
    if condition == UNAUTHORIZED:
        return Forbidden(text)
    if condition == INTERNAL_ERROR:
        return GatewayError(text)
    return BadRequest(text)


def event_outcome_of(state: object) -> EventOutcome:
    """Return what becomes of an event that a consumer answered with `state`."""
    match state:
        case amqp.Accepted() | amqp.Rejected():
            return EventOutcome.DONE
        case amqp.Modified(undeliverable_here=True, delivery_failed=True):
            return EventOutcome.FAILED_HERE
        case amqp.Modified(undeliverable_here=True):
            return EventOutcome.NOT_HERE
        case amqp.Modified(delivery_failed=True):
            return EventOutcome.FAILED
        case _:
            return EventOutcome.RELEASED


def outcome_name(state: object) -> str:
    """Return the value of Hono's `outcome` label."""
    return _NAMES.get(type(state), "received")


_NAMES = {
    amqp.Accepted: "accepted",
    amqp.Rejected: "rejected",
    amqp.Released: "released",
    amqp.Modified: "modified",
}


def upload_state(error: GatewayError | None) -> object:
    """Return what a device is told about its upload."""
    outcome = outcome_of(error)
    if error is None or outcome.disposition is Disposition.ACCEPTED:
        return ACCEPTED
    if outcome.disposition is Disposition.REJECTED:
        return amqp.Rejected(Error(outcome.condition or BAD_REQUEST, error.message))
    return RELEASED


def command_state(error: GatewayError | None) -> object:
    """Return what an application is told about its command."""
    if error is None:
        return ACCEPTED
    if isinstance(error, NotProcessed) and "delivery_failed" in error.details:
        return _modified(error)
    if isinstance(error, Rejected):
        return amqp.Rejected(Error(BAD_REQUEST, error.message))
    return RELEASED


def _modified(error: NotProcessed) -> amqp.Modified:
    """A device's own `modified`, flags copied; other devices have no such word."""
    return amqp.Modified(
        delivery_failed=error.details.get("delivery_failed") is True or None,
        undeliverable_here=error.details.get("undeliverable_here") is True or None,
    )


def device_error(state: object) -> GatewayError | None:
    """Return what a device's state of a command means for the application."""
    match state:
        case amqp.Accepted():
            return None
        case amqp.Rejected(error):
            text = error.description if isinstance(error, Error) else None
            return Rejected(text or "the device rejected the command")
        case amqp.Modified(delivery_failed=failed, undeliverable_here=here):
            return NotProcessed(
                details={"delivery_failed": bool(failed), "undeliverable_here": bool(here)}
            )
        case _:
            return Undeliverable("the device released the command")


def link_error(error: GatewayError) -> Error:
    """Return the error that a refused or detached link carries."""
    return Error(outcome_of(error).condition or INTERNAL_ERROR, error.message)
