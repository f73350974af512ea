"""Control messages of a WebSocket session: what it wants to be sent, and in which frames.

Source: Ditto, WebSocket protocol binding.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from urllib.parse import parse_qsl

from gateway.ditto.fanout import Fanout, Interest, Outlet
from gateway.ditto.frames import CORRELATION
from gateway.ditto.outbox import text_frame
from gateway.ditto.subscriptions import Heard, Seen, Subscription
from gateway.errors import BadRequest
from gateway.model.thing import Headers, ThingCommand, ThingMessage
from gateway.wire.ditto.write import event_frame, live_command_frame, message_frame

JWT_TOKEN = "JWT-TOKEN"  # noqa: S105  the name of a control message
_EVENTS, _MESSAGES = "EVENTS", "MESSAGES"
_LIVE_COMMANDS, _LIVE_EVENTS = "LIVE-COMMANDS", "LIVE-EVENTS"
ANNOUNCEMENTS = "POLICY-ANNOUNCEMENTS"
_KINDS = (_EVENTS, _MESSAGES, _LIVE_COMMANDS, _LIVE_EVENTS, ANNOUNCEMENTS)
STREAMS = {f"{verb}-SEND-{kind}": (verb, kind) for kind in _KINDS for verb in ("START", "STOP")}
"""Control message to whether it starts or stops, and what."""

_NAMES = (*STREAMS, JWT_TOKEN)

End = Callable[[], None]


@dataclass(frozen=True, slots=True)
class Control:
    """A control message: `START-SEND-EVENTS?filter=...`."""

    name: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, text: str) -> Control | None:
        """Read one, None for what is none: the text begins with its name, as in Ditto.

        Errors: BadRequest `header.invalid` for parameters that cannot be read.
        """
        text = text.strip()
        name = next((one for one in _NAMES if text.startswith(one)), None)
        if name is None:
            return None
        _, _, query = text.partition("?")
        try:
            pairs = parse_qsl(query, keep_blank_values=True, errors="strict", max_num_fields=20)
        except ValueError as error:
            raise BadRequest(
                f"The parameters of {name} could not be read.", code="header.invalid"
            ) from error
        return cls(name, dict(pairs))

    @property
    def headers(self) -> Headers:
        """What an answer to it carries."""
        correlation_id = self.parameters.get(CORRELATION)
        return {CORRELATION: correlation_id} if correlation_id else {}


def seen_frame(seen: Seen) -> bytes:
    """The frame of an event."""
    return text_frame(event_frame(seen.event, seen.extra))


def heard_message(heard: Heard[ThingMessage]) -> bytes:
    """The frame of a live message."""
    return text_frame(message_frame(heard.signal, heard.extra))


def heard_command(heard: Heard[ThingCommand]) -> bytes:
    """The frame of a live command."""
    return text_frame(live_command_frame(heard.signal, heard.extra))


def join(fanout: Fanout, kind: str, subscription: Subscription, outlet: Outlet) -> End:
    """Send an outlet one kind of signals of things; returns the way to end it."""
    match kind:
        case "EVENTS":
            return fanout.join_events(Interest(subscription, seen_frame), outlet)
        case "MESSAGES":
            return fanout.join_messages(Interest(subscription, heard_message), outlet)
        case "LIVE-COMMANDS":
            return fanout.join_commands(Interest(subscription, heard_command), outlet)
        case "LIVE-EVENTS":
            return fanout.join_live_events(Interest(subscription, seen_frame), outlet)
    raise ValueError(kind)
