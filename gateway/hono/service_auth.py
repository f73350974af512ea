"""The authentication service: who logged in gets a token that says what it may do.

Its receiver from `cbs` gets one message and is closed then. Message routers that ask for `ADDRESS-AUTHZ` are
told in the open frame what the user whose password they pass on may do; they open no link.
Source: Hono, Authentication API.
"""

from __future__ import annotations

from typing import Final
from uuid import uuid4

from gateway.hono.amqp_shell import AmqpProtocol
from gateway.hono.service_authorities import ServiceUser
from gateway.hono.service_tokens import Tokens
from gateway.wire.amqp.link import SenderLink, Sent
from gateway.wire.amqp.message import AmqpMessage, Properties, Value, encode_message
from gateway.wire.amqp.performatives import Open

ADDRESS: Final = "cbs"
ADDRESS_AUTHZ: Final = "ADDRESS-AUTHZ"
TOKEN_TYPE: Final = "amqp:jwt"  # noqa: S105  a type name


def asks_for_addresses(opened: Open) -> bool:
    """True for a message router that wants to know what the user may do."""
    return ADDRESS_AUTHZ in (opened.desired_capabilities or ())


def address_properties(user: ServiceUser) -> dict[object, object]:
    """Return what such a router is told."""
    return {
        "authenticated-identity": {"sub": user.name},
        "address-authz": user.authorities.addresses(),
    }


class TokenLink:
    """A client's receiver of its token."""

    def __init__(
        self, protocol: AmqpProtocol, link: SenderLink, tokens: Tokens, user: ServiceUser
    ) -> None:
        self._protocol = protocol
        self._link = link
        self._tokens = tokens
        self._user = user

    def on_credit(self) -> None:
        """Send the token, and close the link behind it."""
        if self._link.sendable <= 0:
            return
        message = AmqpMessage(
            properties=Properties(message_id=str(uuid4())),
            application_properties={"type": TOKEN_TYPE},
            body=Value(self._tokens.issue(self._user)),
        )
        self._link.send(encode_message(message))
        self._link.detach()
        self._protocol.flush_soon()

    def lost(self, _unsettled: tuple[Sent, ...]) -> None:
        """Nothing to do: it asks again."""
