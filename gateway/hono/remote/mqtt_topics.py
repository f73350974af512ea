"""The topics that a gateway device uses at a remote Hono's MQTT adapter.

| topic | what |
|---|---|
| `telemetry//{device}/?...`, `event//{device}/?...` | an upload |
| `command//{device}/req/{request id}/{name}` | a command; without request id it wants no answer |
| `command//{device}/res/{request id}/{status}/?...` | the answer |
| `error//{device}/{endpoint}/{packet id}/{status}` | the remote refused what we sent with that packet id |

Source: Hono, MQTT Adapter user guide.
"""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import blake2b
from typing import Final
from urllib.parse import quote

import msgspec

from gateway.errors import BadRequest, GatewayError
from gateway.hono.remote.replies import decode_reply, encode_reply
from gateway.hono.remote.uplink import refusal
from gateway.model.message import DUPLICATE, Command, CommandResponse, Kind, Message
from gateway.model.trace import TraceContext
from gateway.wire.mqtt.filters import check_topic
from gateway.wire.mqtt.packets import Publish

COMMANDS: Final = "command//+/req/#"
ERRORS: Final = "error//+/#"
CORRELATION_BYTES: Final = 8


def upload_topic(message: Message) -> str:
    """Return the topic of an upload; what the message says beside its payload is in the property bag."""
    bag: list[tuple[str, str]] = []
    if message.content_type is not None:
        bag.append(("content-type", message.content_type))
    if message.kind is Kind.EVENT and message.ttl is not None:
        bag.append(("hono-ttl", str(max(1, int(message.ttl)))))
    if message.duplicate:
        bag.append((DUPLICATE, "true"))
    return f"{message.kind.value}//{message.device}" + _bag(bag, message.trace)


def response_topic(response: CommandResponse) -> str:
    """Return the topic of a device's answer.

    Errors: BadRequest for a reply id that is none.
    """
    (request_id,) = decode_reply(response.reply_id, 1)
    if "/" in request_id:  # the device's own word: it must not make another topic of it
        raise BadRequest("command request id: not one of this remote's")
    bag = [] if response.content_type is None else [("content-type", response.content_type)]
    topic = f"command//{response.device}/res/{request_id}/{response.status}"
    return check_topic(topic + _bag(bag, response.trace))


def _bag(entries: list[tuple[str, str]], trace: TraceContext | None) -> str:
    if trace is not None and trace.is_sampled:  # it makes each topic another one
        entries.append(("traceparent", trace.traceparent))
        if trace.state:
            entries.append(("tracestate", trace.state))
    if not entries:
        return ""
    return "/?" + "&".join(f"{name}={quote(value, safe='')}" for name, value in entries)


def command_of(packet: Publish, tenant: str) -> Command:
    """Read a command for a device of ours.

    Errors: BadRequest.
    """
    parts = packet.topic.split("/", 5)
    if len(parts) != 6 or not parts[2] or not parts[5]:
        raise BadRequest("malformed command topic")
    _, _, device, _, request_id, name = parts
    reply_to = None
    if request_id:
        reply_to = f"command_response/{tenant}/{encode_reply(request_id)}"
    said = packet.properties
    return Command(
        tenant=tenant,
        device=device,
        name=name,
        payload=packet.payload,
        content_type=said.content_type,
        correlation_id=_correlation(request_id) if request_id else None,
        reply_to=reply_to,
        trace=TraceContext.parse(said.user_value("traceparent"), said.user_value("tracestate")),
    )


def _correlation(request_id: str) -> str:
    """Return something short that differs from command to command; the request id itself says all."""
    return blake2b(request_id.encode(), digest_size=CORRELATION_BYTES).hexdigest()


@dataclass(frozen=True, slots=True)
class Failure:
    """The remote's word about something that it refused; `packet_id` None for QoS 0."""

    packet_id: int | None
    error: GatewayError


class _ErrorBody(msgspec.Struct):
    message: str = ""


def failure_of(packet: Publish) -> Failure | None:
    """Read a message of the error topic; None where it is not one."""
    parts = packet.topic.split("/")
    if len(parts) < 6 or parts[0] != "error" or not parts[-1].isdigit():
        return None
    try:
        text = msgspec.json.decode(packet.payload, type=_ErrorBody).message
    except msgspec.MsgspecError:
        text = ""
    packet_id = int(parts[-2]) if parts[-2].isdigit() else None
    return Failure(packet_id, refusal(int(parts[-1][:3]), text))
