"""What a connection tells its shell, in the order in which it happened."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from gateway.wire.amqp.performatives import Error, Open

if TYPE_CHECKING:
    from gateway.wire.amqp.link import Incoming, Link, ReceiverLink, SenderLink, Sent


@dataclass(frozen=True, slots=True)
class SaslRequested:
    """The peer picked a mechanism; answer with `Connection.answer_sasl`.

    Shape:  `response` is the initial response as it came: `authzid NUL authcid NUL password` for PLAIN.
    """

    mechanism: str
    response: bytes
    hostname: str | None


@dataclass(frozen=True, slots=True)
class OpenRequested:
    """The peer wants to open the connection; answer with `Connection.accept` or `Connection.refuse`."""

    open: Open


@dataclass(frozen=True, slots=True)
class LinkRequested:
    """The peer attached a link; answer with the link's `accept` or `refuse`."""

    link: Link


@dataclass(slots=True)
class MessageArrived:
    """A whole message came in; answer with `link.settle(delivery, state)`, now or later."""

    link: ReceiverLink
    delivery: Incoming


@dataclass(slots=True)
class SendPossible:
    """A link has credit and window again, or the peer drains it (`link.draining`)."""

    link: SenderLink


@dataclass(slots=True)
class Disposed:
    """The peer told the state of deliveries that we sent; they are forgotten here.

    Shape:  `state` is an outcome, None (settled without a state) or a `Described` that is no outcome.
    """

    deliveries: list[Sent]
    state: object


@dataclass(frozen=True, slots=True)
class LinkDetached:
    """A link is gone: detached by either end, or lost with its session or connection.

    Shape:  `unsettled` are the deliveries sent on it that have no outcome, oldest first.
    """

    link: Link
    error: Error | None
    unsettled: tuple[Sent, ...]


@dataclass(frozen=True, slots=True)
class ConnectionEnded:
    """Nothing comes any more; `error` is what the peer said or what was wrong with its bytes."""

    error: Error | None


@dataclass(frozen=True, slots=True)
class ConnectionOpened:
    """The server let us in and links may be attached (the client's end only)."""

    open: Open


@dataclass(frozen=True, slots=True)
class LinkAttached:
    """The server took a link that we attached (the client's end only); a refused one is `LinkDetached`."""

    link: Link


Event: TypeAlias = (
    SaslRequested
    | OpenRequested
    | LinkRequested
    | MessageArrived
    | SendPossible
    | Disposed
    | LinkDetached
    | ConnectionEnded
    | ConnectionOpened
    | LinkAttached
)
