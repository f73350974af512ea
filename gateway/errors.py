"""The one hierarchy of errors that cross a boundary.

Inner code raises these and never maps them; `gateway.outcome` holds the one table that turns a class
into an HTTP status, an AMQP disposition or an MQTT reason code, and each boundary renders the body of
the server that was asked (Ditto, Hono, Kubernetes).

Two children matter: `Rejected` says that the sender must change something, `Undeliverable` that the
same message may succeed later. What is neither is a bug: status 500, logged once with its traceback.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar


class GatewayError(Exception):
    """What a peer is told when something failed.

    Shape:  `status` has HTTP meaning; `code` is the Ditto-style error id, e.g. `things:thing.notfound`;
            `message` says what was expected, what came and where; `description` says how to mend it;
            `details` are facts for the boundary (an id, a field path), never secrets.
    """

    status: int = 500
    code: str = "internalerror"
    default_message: ClassVar[str] = "Internal server error"
    default_description: ClassVar[str | None] = None

    def __init__(
        self,
        message: str | None = None,
        *,
        description: str | None = None,
        code: str | None = None,
        status: int | None = None,
        details: Mapping[str, object] | None = None,
    ) -> None:
        self.message = self.default_message if message is None else message
        self.description = self.default_description if description is None else description
        if code is not None:
            self.code = code
        if status is not None:
            self.status = status
        self.details: Mapping[str, object] = details or {}
        super().__init__(self.message)

    @property
    def is_terminal(self) -> bool:
        """True where a device connection cannot go on (tenant, adapter or own registration gone)."""
        return False


class Rejected(GatewayError):
    """The sender must change something; the same message would fail again."""

    status = 400
    code = "rejected"
    default_message = "The message was rejected"


class Undeliverable(GatewayError):
    """Nobody could take the message now; the same message may succeed later."""

    status = 503
    code = "service.unavailable"
    default_message = "Temporarily unavailable"


# --- 400 ---------------------------------------------------------------------------------------


class BadRequest(Rejected):
    """Well-formed bytes with a meaning that is not allowed."""

    code = "bad.request"
    default_message = "Bad request"


class MalformedPacket(BadRequest):
    """Bytes that are not what the protocol allows at this place; says which byte, field and rule."""

    code = "malformed"
    default_message = "Malformed packet"


class Unencodable(BadRequest):
    """A message that has no form in the protocol that it is to leave by."""

    code = "unencodable"
    default_message = "the message cannot be written as applications read it"


class MalformedTopic(BadRequest):
    """A topic name or filter that breaks its grammar; names the level at fault."""

    code = "malformed.topic"
    default_message = "Malformed topic"


class InvalidSetting(BadRequest):
    """A setting that is unknown or has a bad value; names its full path."""

    code = "setting.invalid"
    default_message = "Invalid setting"


# --- 401, 403 ----------------------------------------------------------------------------------


class Unauthenticated(Rejected):
    """Credentials are missing, wrong, expired or unknown."""

    status = 401
    code = "unauthorized"
    default_message = "Unauthorized"


class Forbidden(Rejected):
    """The peer is known and may not do this."""

    status = 403
    code = "forbidden"
    default_message = "Forbidden"


class AdapterDisabled(Forbidden):
    """The tenant does not use this protocol adapter."""

    code = "adapter.disabled"
    default_message = "adapter is disabled"

    @property
    def is_terminal(self) -> bool:
        return True


class TenantDisabled(Forbidden):
    """The tenant exists and is switched off."""

    code = "tenant.disabled"
    default_message = "tenant is disabled or not registered"

    @property
    def is_terminal(self) -> bool:
        return True


class GatewayDisabled(Forbidden):
    """The gateway device that sent for another device is gone or switched off."""

    code = "gateway.disabled"
    default_message = "gateway is disabled or not registered"

    @property
    def is_terminal(self) -> bool:
        return True


# --- 404 ---------------------------------------------------------------------------------------


class NotFound(Rejected):
    """What was asked for is not there (or may not be seen)."""

    status = 404
    code = "not.found"
    default_message = "Not found"


class TenantNotFound(NotFound):
    """No such tenant."""

    code = "tenant.notfound"
    default_message = "tenant is disabled or not registered"

    @property
    def is_terminal(self) -> bool:
        return True


class DeviceNotFound(NotFound):
    """No such device, or it is switched off (Hono does not tell them apart)."""

    code = "device.notfound"
    default_message = "device is disabled or not registered"


class AuthenticatedDeviceNotFound(DeviceNotFound):
    """The device that owns the connection is gone or switched off: the connection ends."""

    @property
    def is_terminal(self) -> bool:
        return True


class ThingNotFound(NotFound):
    """No such thing, or the caller may not know of it."""

    code = "things:thing.notfound"

    def __init__(self, thing_id: str) -> None:
        super().__init__(
            f"The Thing with ID '{thing_id}' could not be found or requester had insufficient"
            " permissions to access it.",
            description="Check if the ID of your requested Thing was correct and you have"
            " sufficient permissions.",
            details={"thingId": thing_id},
        )


# --- 405 to 429 --------------------------------------------------------------------------------


class MethodNotAllowed(Rejected):
    """A known path, asked with a verb it does not have."""

    status = 405
    code = "method.notallowed"
    default_message = "Method not allowed"


class CommandTimeout(GatewayError):
    """Nobody answered a command in the time that the caller gave (Ditto side only)."""

    status = 408
    code = "command.timeout"
    default_message = "The command reached its timeout"


class Conflict(Rejected):
    """The state does not allow this: it exists already, or another writer was first."""

    status = 409
    code = "conflict"
    default_message = "Conflict"


class RevisionConflict(Conflict):
    """Compare-and-set failed: another writer was first. Read again, decide again."""

    code = "revision.conflict"
    default_message = "another writer was first"


class Gone(Rejected):
    """The asked-for point of a history is not kept any more."""

    status = 410
    code = "gone"
    default_message = "Gone"


class PreconditionFailed(Rejected):
    """A condition of the request does not hold."""

    status = 412
    code = "precondition.failed"
    default_message = "precondition failed"


class TooLarge(Rejected):
    """A payload or document over its limit."""

    status = 413
    code = "too.large"
    default_message = "payload too large"


class UnsupportedMediaType(Rejected):
    """The content type is not one this resource takes."""

    status = 415
    code = "mediatype.unsupported"
    default_message = "Unsupported media type"


class Unprocessable(Rejected):
    """Understood, and invalid for the object's schema (Kubernetes `Invalid`)."""

    status = 422
    code = "unprocessable"
    default_message = "Unprocessable"


class QuotaExceeded(Rejected):
    """A tenant's limit on data volume."""

    status = 429
    code = "quota.exceeded"
    default_message = "tenant's accumulated message data volume exceeds configured maximum value"


class ConnectionLimitExceeded(QuotaExceeded):
    """A tenant's limit on connections or on their duration."""

    status = 403
    code = "connection.limit"
    default_message = (
        "tenant's configured maximum number of simultaneously connected devices has been reached"
    )


class AdapterFull(Rejected):
    """The adapter's own connection limit."""

    status = 503
    code = "adapter.full"
    default_message = "adapter's configured maximum number of connections has been reached"


# --- 5xx ---------------------------------------------------------------------------------------


class NotBuilt(GatewayError):
    """A part of the protocol that Twinspan does not have; says so instead of pretending."""

    status = 501
    code = "notimplemented"
    default_message = "not built"


class NoConsumer(Undeliverable):
    """No application with credit and no open connection wants this."""

    code = "no.consumer"
    default_message = "no consumer available"


class ConsumerTimeout(Undeliverable):
    """The consumer gave no outcome in time."""

    code = "consumer.timeout"
    default_message = "consumer failed to indicate in time whether it has processed the message"


class NotProcessed(Undeliverable):
    """The consumer released or modified the message."""

    code = "consumer.released"
    default_message = "consumer didn't process the message"


class ConsumerFull(Undeliverable):
    """The consumer has no room for the message."""

    code = "consumer.full"
    default_message = (
        "consumer rejected the message because a resource limit was exceeded,"
        " possibly a (tenant-specific) queue size limit"
    )


class StoreUnavailable(Undeliverable):
    """The store cannot take writes now (disk full, queue full, shutting down)."""

    code = "store.unavailable"
    default_message = "Temporarily unavailable"
