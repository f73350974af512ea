"""How an upload over CoAP that waits for a command is answered.

A command is accepted when the device has it: with the acknowledgement that carries the answer, or with the
device's own acknowledgement of an answer that was sent apart.
"""

from __future__ import annotations

from typing import Protocol

from gateway.errors import GatewayError
from gateway.hono.adapters.coap_exchanges import Exchange, Written
from gateway.hono.adapters.coap_messages import (
    DONE,
    Resource,
    Response,
    command_response,
    error_response,
)
from gateway.model.message import DeviceCommand


class Answers(Protocol):
    """What is needed of the adapter."""

    def answer(
        self, exchange: Exchange, response: Response, written: Written | None = None
    ) -> None: ...


class CoapAnswering:
    """The port `Answering` of one exchange."""

    __slots__ = ("_adapter", "_exchange", "_is_authenticated", "_resource")

    def __init__(
        self, adapter: Answers, exchange: Exchange, resource: Resource, *, is_authenticated: bool
    ) -> None:
        self._adapter = adapter
        self._exchange = exchange
        self._resource = resource
        self._is_authenticated = is_authenticated

    def command(self, command: DeviceCommand) -> Response:
        """Errors: Rejected where the names do not fit into CoAP's options."""
        is_authenticated = self._is_authenticated
        return command_response(command, self._resource, is_authenticated=is_authenticated)

    def nothing(self) -> Response:
        return DONE

    def refusal(self, error: GatewayError) -> Response:
        return error_response(error)

    def send(self, answer: Response, written: Written | None = None) -> None:
        self._adapter.answer(self._exchange, answer, written)
