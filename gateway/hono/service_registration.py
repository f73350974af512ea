"""The device registration service: may a device, or a gateway for it, be spoken for?

Source: Hono, Device Registration API.
"""

from __future__ import annotations

from functools import partial
from typing import Final

from gateway.errors import GatewayError
from gateway.hono.registry import Registry
from gateway.hono.service_requests import Answer, Operations, Request, Response
from gateway.model.json import JsonObject
from gateway.model.registry import Assertion

ENDPOINT: Final = "registration"
_SHOWN: Final = (
    "defaults",
    "downstream-message-mapper",
    "upstream-message-mapper",
    "command-endpoint",
)


class RegistrationService:
    """Answers from the registry, which provisions devices behind gateways; `max_age` in seconds."""

    def __init__(self, registry: Registry, *, max_age: int) -> None:
        self._registry = registry
        self._max_age = max_age
        self.operations: Operations = {"assert": self._assert}

    def _assert(self, request: Request, answer: Answer) -> None:
        device = request.text("device_id")
        gateway = request.optional_text("gateway_id")
        self._registry.assert_device(
            request.tenant, device, gateway, partial(self._asserted, answer)
        )

    def _asserted(self, answer: Answer, found: Assertion | GatewayError) -> None:
        if isinstance(found, GatewayError):
            answer(found)
        else:
            device = found.device
            body = assertion_body(found)
            answer(Response(body=body, device=device.device_id, max_age=self._max_age))


def assertion_body(found: Assertion) -> JsonObject:
    """Return what adapters get to know of a device."""
    document = found.device.document
    body: JsonObject = {"device-id": found.device.device_id}
    if found.via:
        body["via"] = list(found.via)
    body |= {name: document[name] for name in _SHOWN if name in document}
    return body
