"""What mappers see of the edge's own MQTT: messages on topics of theirs, and publishing.

It stands before EventBus and hands every message on to it. With the edge's broker, what is published here
does not come back; with an external broker it does, as to any client, and what that one retains is not heard.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gateway.model.ports import Done
from gateway.wire.mqtt.filters import FilterTree, TopicFilter
from gateway.wire.mqtt.packets import Publish

Heard = Callable[[str, bytes], None]
"""Topic and payload of a message; short, never raises."""


class OwnBroker(Protocol):
    """The edge's broker."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None: ...
    def retained(self, topic_filter: TopicFilter) -> list[tuple[str, bytes]]: ...


class OtherBroker(Protocol):
    """A broker that the edge is a client of."""

    def publish(
        self, topic: str, payload: bytes, *, qos: int = 0, retain: bool = False
    ) -> None: ...
    def subscribe(self, topic_filter: str) -> None: ...
    def unsubscribe(self, topic_filter: str) -> None: ...


class LocalTopics:
    """Listeners by topic filter, in front of `follow`."""

    def __init__(
        self,
        follow: Callable[[Publish, Done], None],
        own: OwnBroker | None,
        other: OtherBroker | None,
    ) -> None:
        self._follow = follow
        self._own = own
        self._other = other
        self._tree: FilterTree[int, Heard] = FilterTree()
        self._listeners: dict[int, tuple[TopicFilter, Heard]] = {}
        self._users: dict[str, int] = {}
        self._next = 0

    def take(self, message: Publish, done: Done) -> None:
        """A client has published: tell who listens, then hand on."""
        for _, heard in self._tree.match(message.topic):
            heard(message.topic, message.payload)
        self._follow(message, done)

    def listen(self, topic_filter: str, heard: Heard, *, retained: bool = True) -> int:
        """Hear messages, first what the edge's broker retains, where that is wanted.

        Errors: BadRequest for no filter.
        """
        parsed = TopicFilter.parse(topic_filter)
        key, self._next = self._next, self._next + 1
        self._tree.add(parsed, key, heard)
        self._listeners[key] = (parsed, heard)
        self._users[parsed.text] = self._users.get(parsed.text, 0) + 1
        if self._other is not None and self._users[parsed.text] == 1:
            self._other.subscribe(parsed.text)
        if self._own is not None and retained:
            for topic, payload in self._own.retained(parsed):
                heard(topic, payload)
        return key

    def forget(self, key: int) -> None:
        """Stop hearing; `key` is what `listen` returned."""
        parsed, _ = self._listeners.pop(key)
        self._tree.remove(parsed, key)
        self._users[parsed.text] -= 1
        if not self._users[parsed.text]:
            del self._users[parsed.text]
            if self._other is not None:
                self._other.unsubscribe(parsed.text)

    def publish(self, topic: str, payload: bytes, *, qos: int, retain: bool) -> None:
        """Publish to local clients."""
        for broker in (self._own, self._other):
            if broker is not None:
                broker.publish(topic, payload, qos=qos, retain=retain)
