"""Topic paths: `<namespace>/<name>/<group>/[<channel>/]<criterion>[/<action>]`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gateway.errors import BadRequest

MAX_TOPIC_CHARACTERS: Final = 2_048
PLACEHOLDER: Final = "_"
CHANNELS: Final = frozenset(("twin", "live"))
GROUPS: Final = frozenset(("things", "policies", "connections"))
CRITERIA: Final = frozenset(
    ("commands", "events", "messages", "acks", "errors", "search", "streaming", "announcements")
)


@dataclass(frozen=True, slots=True)
class Topic:
    """A parsed topic.

    Shape:  `channel` only for things; `action` is the verb, the message subject or the label; it may hold
            `/` and is None where there is none.
    """

    namespace: str
    name: str
    group: str
    criterion: str
    action: str | None = None
    channel: str | None = None

    @property
    def entity_id(self) -> str:
        """`<namespace>:<name>`."""
        return f"{self.namespace}:{self.name}"

    @property
    def is_for_many(self) -> bool:
        """True when the name is the placeholder."""
        return self.name == PLACEHOLDER

    def __str__(self) -> str:
        parts = (self.namespace, self.name, self.group, self.channel, self.criterion, self.action)
        return "/".join(part for part in parts if part is not None)

    @classmethod
    def parse(cls, text: str) -> Topic:
        """Read a topic path.

        Errors: BadRequest `protocoladapter:unknown.topicpath`, saying which segment is at fault.
        Source: Eclipse Ditto, protocol specification, topic.
        """
        if len(text) > MAX_TOPIC_CHARACTERS:
            raise _unknown(text, f"it is longer than {MAX_TOPIC_CHARACTERS} characters")
        namespace, slash, rest = text.partition("/")
        name, slash, rest = rest.partition("/")
        group, slash, rest = rest.partition("/")
        if not slash or not name:
            raise _unknown(text, "it has fewer than four segments")
        if group not in GROUPS:
            raise _unknown(text, f"the group '{group[:50]}' is unknown")
        channel: str | None = None
        if group == "things":
            channel, slash, rest = rest.partition("/")
            if channel not in CHANNELS:
                raise _unknown(text, f"the channel '{channel[:50]}' is unknown")
        criterion, slash, action = rest.partition("/")
        if criterion not in CRITERIA:
            raise _unknown(text, f"the criterion '{criterion[:50]}' is unknown")
        return cls(namespace, name, group, criterion, action if slash else None, channel)


def thing_topic(thing_id: str, channel: str, criterion: str, action: str | None = None) -> str:
    """The topic of something about a thing."""
    namespace, _, name = thing_id.partition(":")
    head = f"{namespace}/{name}/things/{channel}/{criterion}"
    return head if action is None else f"{head}/{action}"


def policy_topic(policy_id: str, criterion: str, action: str | None = None) -> str:
    """The topic of something about a policy."""
    namespace, _, name = policy_id.partition(":")
    head = f"{namespace}/{name}/policies/{criterion}"
    return head if action is None else f"{head}/{action}"


def _unknown(text: str, reason: str) -> BadRequest:
    return BadRequest(
        f"The topic path '{text[:200]}' is not known: {reason}.",
        code="protocoladapter:unknown.topicpath",
        description="It is '<namespace>/<name>/<group>/<channel>/<criterion>/<action>'.",
    )
