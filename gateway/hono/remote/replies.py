"""Where the answer to a remote's command goes, written into the reply id that the device echoes.

Nothing is remembered: a device may answer after we were started anew, over another adapter. The device can
read and change it, as it can Hono's own request ids; the remote checks what a gateway may answer for.
"""

from __future__ import annotations

import binascii
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Final

import msgspec

from gateway.errors import BadRequest

PREFIX: Final = "remote."
_decode = msgspec.json.Decoder(list[str]).decode


def encode_reply(*facts: str) -> str:
    """Write facts into a reply id."""
    return PREFIX + urlsafe_b64encode(msgspec.json.encode(facts)).decode().rstrip("=")


def is_reply(reply_id: str) -> bool:
    """True for a reply id that `encode_reply` wrote."""
    return reply_id.startswith(PREFIX)


def decode_reply(reply_id: str, count: int) -> list[str]:
    """Read the facts of a reply id.

    Errors: BadRequest.
    """
    text = reply_id.removeprefix(PREFIX)
    try:
        facts = _decode(urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    except (binascii.Error, ValueError, msgspec.MsgspecError) as error:
        raise BadRequest("command request id: not one of this remote's") from error
    if len(facts) != count:
        raise BadRequest("command request id: not one of this remote's")
    return facts
