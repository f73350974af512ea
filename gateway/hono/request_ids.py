"""The request id that a device echoes in its response, so that nothing need be remembered for it.

Two forms. Devices on MQTT, HTTP and CoAP get `{flag}{LL}{correlationId}{replyId}`; devices on AMQP get a
reply-to `command_response/{tenant}/{device}/{flag}{replyId}` and the correlation id beside it. Bit 0 of
`flag` says that the reply id began with `{device}/`, which was cut; bits 1 and 2 name the messaging system
(0 is AMQP, 2 is Kafka, whose reply id is empty).
Source: Hono `Commands.getRequestId` as seen from outside.
"""

from __future__ import annotations

import string

from gateway.errors import BadRequest
from gateway.model.message import Command, MessagingType

RESPONSE_ENDPOINT = "command_response"
MAX_CORRELATION_ID = 255
MAX_REQUEST_ID = 2_048

_HEX = frozenset(string.hexdigits)
_WITH_DEVICE = 1
_KAFKA = 0b010
_MESSAGING = 0b110


def reply_id_of(command: Command) -> str:
    """Return what follows `command_response/{tenant}/` in the reply address.

    Errors: BadRequest when the address has another form or tenant.
    """
    prefix = f"{RESPONSE_ENDPOINT}/{command.tenant}/"
    reply_to = command.reply_to or ""
    if not reply_to.startswith(prefix) or len(reply_to) == len(prefix):
        raise BadRequest(
            f"reply-to: expected {prefix}<reply id>, got {reply_to[:128]!r}",
            code="malformed.command",
        )
    return reply_to[len(prefix) :]


def encode_request_id(command: Command) -> str:
    """Make the request id for a command's device; empty for a one-way command.

    Errors: BadRequest for a reply address of another form, or a correlation id that is missing or longer
            than 255 characters.
    """
    if command.is_one_way:
        return ""
    flag, reply_id = _reply(command)
    correlation_id = command.correlation_id or ""
    if not 1 <= len(correlation_id) <= MAX_CORRELATION_ID:
        raise BadRequest(
            f"correlation-id: expected 1..{MAX_CORRELATION_ID} characters, got {len(correlation_id)}"
        )
    return f"{flag}{len(correlation_id):02x}{correlation_id}{reply_id}"


def parse_request_id(request_id: str, tenant: str, device: str) -> tuple[str, str]:
    """Read a request id that a device of `tenant` echoed.

    Shape:  -> (correlation id, reply id); the reply address is `command_response/{tenant}/{reply id}`; an
            empty reply id says that the command came over Kafka.
    Errors: BadRequest.
    """
    del tenant  # part of the address alone; named so that callers say whose id it is
    flag = _flag(request_id)
    digits = request_id[1:3]
    if len(digits) != 2 or not set(digits) <= _HEX:
        raise _bad(request_id, "expected two hex digits as length of the correlation id")
    length = int(digits, 16)
    end = 3 + length
    correlation_id, reply_id = request_id[3:end], request_id[end:]
    if not length or len(correlation_id) != length or bool(reply_id) == bool(flag & _KAFKA):
        raise _bad(request_id, "too short for its correlation id and a reply id")
    return correlation_id, _join_device(flag, reply_id, device)


def encode_amqp_reply_to(command: Command) -> str | None:
    """Make the reply-to that a device connected over AMQP gets; None for a one-way command.

    Errors: BadRequest for a reply address of another form.
    """
    if command.is_one_way:
        return None
    flag, reply_id = _reply(command)
    return f"{RESPONSE_ENDPOINT}/{command.tenant}/{command.device}/{flag}{reply_id}"


def parse_amqp_reply_to(address: str) -> tuple[str, str, str]:
    """Read the address of a response that came over AMQP.

    Shape:  `command_response/{tenant}/{device}/{flag}{replyId}` -> (tenant, device, reply id), the last one
            empty where the command came over Kafka.
    Errors: BadRequest.
    """
    parts = address.split("/", 3)
    if len(parts) != 4 or parts[0] != RESPONSE_ENDPOINT or not parts[2] or not parts[3]:
        raise _bad_address(address)
    _, tenant, device, tail = parts
    flag = _flag(tail)
    if (len(tail) > 1) == bool(flag & _KAFKA):
        raise _bad_address(address)
    return tenant, device, _join_device(flag, tail[1:], device)


def _reply(command: Command) -> tuple[int, str]:
    """Return flag and reply id of a command that waits for a response."""
    if command.messaging is MessagingType.KAFKA:
        return _KAFKA, ""
    return _cut_device(reply_id_of(command), command.device)


def _cut_device(reply_id: str, device: str) -> tuple[int, str]:
    prefix = f"{device}/"
    if reply_id.startswith(prefix) and len(reply_id) > len(prefix):
        return _WITH_DEVICE, reply_id[len(prefix) :]
    return 0, reply_id


def _join_device(flag: int, reply_id: str, device: str) -> str:
    return f"{device}/{reply_id}" if flag & _WITH_DEVICE and reply_id else reply_id


def _flag(text: str) -> int:
    if len(text) > MAX_REQUEST_ID or not text[:1].isascii() or not text[:1].isdigit():
        raise _bad(text, "expected a digit first")
    flag = int(text[0])
    if flag & _MESSAGING not in (0, _KAFKA) or flag > 7:
        raise _bad(text, "the command came over a messaging system that is not connected")
    return flag


def _bad_address(address: str) -> BadRequest:
    return BadRequest(
        f"to: expected {RESPONSE_ENDPOINT}/<tenant>/<device>/<request id>, got {address[:128]!r}"
    )


def _bad(text: str, rule: str) -> BadRequest:
    return BadRequest(f"command request id {text[:64]!r} is malformed: {rule}")
