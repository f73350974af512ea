"""What arrives from devices, as a connection's mappers and placeholders know it."""

from __future__ import annotations

from gateway.connectivity.mappers.base import External
from gateway.connectivity.scopes import header_text
from gateway.model.message import CommandResponse, Message


def external_of(message: Message) -> External:
    """A device's message as a connection's placeholders know it."""
    headers = {name.lower(): header_text(value) for name, value in message.properties.items()}
    headers |= {
        "device_id": message.device,
        "tenant_id": message.tenant,
        "qos": str(message.qos),
        "to": f"{message.kind}/{message.tenant}",
        "orig_adapter": message.adapter,
        "orig_address": message.address,
        "creation-time": str(int(message.at * 1_000)),
    }
    if message.content_type is not None:
        headers["content-type"] = message.content_type
    if message.ttd is not None:
        headers["ttd"] = str(message.ttd)
    if message.via is not None:
        headers["gateway_id"] = message.via
    return External(headers, message.payload, message.content_type, headers["to"])


def external_of_response(response: CommandResponse) -> External:
    """A device's answer to a command, likewise."""
    headers = {name.lower(): header_text(value) for name, value in response.properties.items()}
    headers |= {
        "device_id": response.device,
        "tenant_id": response.tenant,
        "correlation-id": response.correlation_id,
        "status": str(response.status),
    }
    if response.content_type is not None:
        headers["content-type"] = response.content_type
    address = f"command_response/{response.tenant}/{response.reply_id}"
    return External(headers, response.payload, response.content_type, address)
