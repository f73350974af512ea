"""The one mapping from an error class to what each protocol says.

A boundary calls `outcome_of(error)` and reads its column; the class is looked up along its method
resolution order, so a new error needs a row only where it differs from its parent. Bodies are the
boundary's business (Ditto, Hono, Kubernetes `Status`). Source: Hono's adapters for AMQP conditions and
CONNACK codes, Hono `MetricsTags.ProcessingOutcome` for the metric label.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from gateway import errors


class Disposition(enum.Enum):
    """What an AMQP 1.0 sender is told about its delivery."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    RELEASED = "released"


class Processing(enum.StrEnum):
    """The `status` label of Hono's meters."""

    FORWARDED = "forwarded"
    UNPROCESSABLE = "unprocessable"
    UNDELIVERABLE = "undeliverable"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One row of the table.

    Shape:  `connack5` and `connack3` are the MQTT 5 reason code and the 3.1.1 return code of a refused
            CONNECT; `condition` is the AMQP error condition of a rejected delivery or a closed link.
    """

    status: int
    disposition: Disposition
    condition: str | None
    connack5: int
    connack3: int
    metric: Processing


BAD_REQUEST = "hono:bad-request"
UNAUTHORIZED = "amqp:unauthorized-access"
NOT_FOUND = "amqp:not-found"
PRECONDITION_FAILED = "amqp:precondition-failed"
RESOURCE_LIMIT = "amqp:resource-limit-exceeded"


def _rejected(status: int, condition: str, connack5: int, connack3: int) -> Outcome:
    return Outcome(
        status, Disposition.REJECTED, condition, connack5, connack3, Processing.UNPROCESSABLE
    )


def _released(status: int, connack5: int, connack3: int) -> Outcome:
    return Outcome(status, Disposition.RELEASED, None, connack5, connack3, Processing.UNDELIVERABLE)


ACCEPTED = Outcome(202, Disposition.ACCEPTED, None, 0x00, 0x00, Processing.FORWARDED)

_TABLE: dict[type[BaseException], Outcome] = {
    errors.Rejected: _rejected(400, BAD_REQUEST, 0x87, 5),
    errors.Unauthenticated: _rejected(401, UNAUTHORIZED, 0x86, 4),
    errors.Forbidden: _rejected(403, UNAUTHORIZED, 0x87, 5),
    errors.NotFound: _rejected(404, NOT_FOUND, 0x86, 4),
    errors.Conflict: _rejected(409, PRECONDITION_FAILED, 0x87, 5),
    errors.PreconditionFailed: _rejected(412, PRECONDITION_FAILED, 0x87, 5),
    errors.TooLarge: _rejected(413, PRECONDITION_FAILED, 0x87, 5),
    errors.QuotaExceeded: _rejected(429, RESOURCE_LIMIT, 0x97, 5),
    errors.ConnectionLimitExceeded: _rejected(403, UNAUTHORIZED, 0x97, 5),
    errors.AdapterFull: _rejected(503, UNAUTHORIZED, 0x9C, 3),
    errors.Undeliverable: _released(503, 0x88, 3),
    errors.CommandTimeout: _released(408, 0x80, 5),
    errors.GatewayError: _released(500, 0x80, 5),
    BaseException: _released(500, 0x80, 5),
}


def outcome_of(error: BaseException | None) -> Outcome:
    """Return what each protocol says about `error`; None means that all went well."""
    if error is None:
        return ACCEPTED
    for cls in type(error).__mro__:
        row = _TABLE.get(cls)
        if row is not None:
            return row
    raise AssertionError("BaseException is in the table")
