"""`RawMessage`: the payload of a live message as it is, both ways; what else there is goes by headers."""

from __future__ import annotations

import re
from collections.abc import Sequence

from gateway.connectivity.mappers.base import (
    DittoMapper,
    External,
    Incoming,
    Outgoing,
    required,
    topic_of,
)
from gateway.model.json import JsonObject
from gateway.model.message import DITTO_PROTOCOL, OCTET_STREAM
from gateway.wire.ditto.placeholders import Scope, Template
from gateway.wire.ditto.write import payload_value

NAME = "RawMessage"
_DEFAULTS = {
    "content-type": f"{{{{ header:content-type | fn:default('{OCTET_STREAM}') }}}}",
    "ditto-message-subject": "{{ header:ditto-message-subject }}",
    "ditto-message-thing-id": "{{ header:ditto-message-thing-id }}",
    "ditto-message-direction": "{{ header:ditto-message-direction | fn:default('TO') }}",
    "ditto-message-feature-id": "{{ header:ditto-message-feature-id }}",
    "status": "{{ header:status }}",
}
_STATUS = re.compile(r"[1-9][0-9]{2}")
_BOXES = {"TO": "inbox", "FROM": "outbox"}


class RawMessageMapper:
    """Options: `outgoingContentType`, `incomingMessageHeaders`."""

    def __init__(self, options: JsonObject) -> None:
        given = options.get("incomingMessageHeaders")
        texts = {**_DEFAULTS, **(given if isinstance(given, dict) else {})}
        self._templates = {name: Template.parse(str(text)) for name, text in texts.items()}
        self._content_type = str(options.get("outgoingContentType", "text/plain; charset=UTF-8"))
        self._ditto = DittoMapper()

    def incoming(self, message: External, scope: Scope) -> Sequence[Incoming]:
        if message.media_type == DITTO_PROTOCOL:
            return self._ditto.incoming(message, scope)
        headers = {
            name: text
            for name, template in self._templates.items()
            if (text := template.resolve(scope))
        }
        subject = required(headers.get("ditto-message-subject"), NAME, "the message's subject")
        thing_id = required(headers.get("ditto-message-thing-id"), NAME, "the message's Thing ID")
        feature = headers.get("ditto-message-feature-id")
        box = _BOXES.get(headers["ditto-message-direction"].upper(), "inbox")
        status = headers.pop("status", "")
        made = Incoming.made(
            topic_of(thing_id, f"live/messages/{subject}"),
            f"{f'/features/{feature}' if feature else ''}/{box}/messages/{subject}",
            headers,
            payload_value(message.payload, headers["content-type"]),
            int(status) if _STATUS.fullmatch(status) else None,
        )
        return (made,)

    def outgoing(self, signal: Outgoing) -> External | None:
        if not signal.is_message:
            return self._ditto.outgoing(signal)
        return External({}, signal.payload, signal.content_type or self._content_type)
