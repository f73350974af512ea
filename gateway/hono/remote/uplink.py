"""What the two ways to a remote Hono, AMQP and MQTT, have in common.

| an outcome | means |
|---|---|
| none | the remote has accepted (QoS 0: we have sent) |
| Rejected | the remote has refused for good: the same message would fail again |
| Undeliverable | the remote could not take it now |
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from gateway.errors import GatewayError, QuotaExceeded, Rejected, Undeliverable
from gateway.model.message import Command, CommandResponse, Message
from gateway.model.ports import Done

MAX_TEXT = 256
QUOTA = 429


class Refused(Rejected):
    """The remote refused a message for good."""

    code = "remote.refused"
    default_message = "the remote refused the message"


class NotTaken(Undeliverable):
    """The remote could not take a message now."""

    code = "remote.nottaken"
    default_message = "the remote did not take the message"


class Uplink(Protocol):
    """A connection that the remote has let in."""

    @property
    def can_send(self) -> bool:
        """False without credit, and while the socket is full."""

    def fits(self, message: Message) -> bool:
        """False for a message that the remote has said is too large."""

    def send(self, message: Message, done: Done) -> None:
        """Send a message; after the end of the connection `done` is not called any more."""

    def respond(self, response: CommandResponse, done: Done) -> None:
        """Send the answer to a command that came from the remote."""

    def end(self, cause: str) -> None:
        """Give the connection up."""


class Hub(Protocol):
    """Who the connections work for."""

    def up(self, link: Uplink) -> None:
        """The remote has let us in."""

    def has_room(self) -> None:
        """The link may be able to send again."""

    def down(self, link: Uplink, *, by_peer: bool) -> None:
        """The connection is over; what was under way has no outcome."""

    def command(self, command: Command, done: Done) -> None:
        """An application of the remote wants a device of ours to do something."""


@dataclass(frozen=True, slots=True)
class Remote:
    """Facts about the remote as they are shown: nothing secret."""

    tenant: str
    address: str
    username: str


def refusal(status: int, text: str) -> GatewayError:
    """Return the outcome for a refusal with a status of HTTP's meaning."""
    text = text[:MAX_TEXT]
    if status >= 500:
        return NotTaken(text or None)
    if status == QUOTA:  # there is room again once the period is over
        return NotTaken(text or QuotaExceeded.default_message)
    return Refused(text or None, status=status)
