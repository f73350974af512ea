"""Topic names, topic filters, and which filters a topic matches.

Source: MQTT 5.0, sections 4.7 and 4.8.2.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass
from typing import Generic, TypeVar

from gateway.errors import MalformedTopic

MAX_BYTES = 65_535
MAX_LEVELS = 128
_SHARE = "$share/"

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


def check_topic(topic: str) -> str:
    """Return a topic name that messages may be published to.

    Errors: MalformedTopic, saying what is wrong with it.
    """
    if not topic:
        raise MalformedTopic("topic name: expected at least one character")
    if "+" in topic or "#" in topic:
        raise MalformedTopic(f"topic name: wildcards are for filters, got {topic[:64]!r}")
    _check_text(topic, "topic name")
    return topic


def _check_text(text: str, what: str) -> None:
    if len(text) > MAX_BYTES or len(text.encode()) > MAX_BYTES:
        raise MalformedTopic(f"{what}: longer than {MAX_BYTES} bytes")
    if "\0" in text:
        raise MalformedTopic(f"{what}: holds U+0000")
    if text.count("/") >= MAX_LEVELS:
        raise MalformedTopic(f"{what}: more than {MAX_LEVELS} levels")


@dataclass(frozen=True, slots=True)
class TopicFilter:
    """What a client subscribes to, e.g. `command/+/req/#`.

    Shape:  `group` is the share name of `$share/{group}/{filter}`, None for an ordinary filter; `levels`
            never hold the share's part.
    """

    levels: tuple[str, ...]
    group: str | None = None

    @classmethod
    def parse(cls, text: str) -> TopicFilter:
        """Read a filter.

        Shape:  text of 1 to 65,535 UTF-8 bytes -> levels; `#` only last, `+` only alone.
        Errors: MalformedTopic, naming the level at fault.
        Source: MQTT 5.0, section 4.7.
        """
        group = None
        if text.startswith(_SHARE):
            group, _, text = text.removeprefix(_SHARE).partition("/")
            if not group or "+" in group or "#" in group:
                raise MalformedTopic(f"shared filter: expected $share/name/filter, got {group!r}")
        if not text:
            raise MalformedTopic("topic filter: expected at least one character")
        _check_text(text, "topic filter")
        levels = tuple(text.split("/"))
        for at, level in enumerate(levels):
            _check_level(at, level, is_last=at == len(levels) - 1)
        return cls(levels, group)

    @property
    def text(self) -> str:
        """The filter without its share."""
        return "/".join(self.levels)

    @property
    def has_wildcard(self) -> bool:
        return "+" in self.levels or self.levels[-1] == "#"

    def matches(self, topic: str) -> bool:
        """Return whether a message to `topic` is for this filter."""
        name = topic.split("/")
        if name[0].startswith("$") and self.levels[0] in ("+", "#"):
            return False  # MQTT 5.0, 4.7.2: wildcards never reach into $-topics
        for at, level in enumerate(self.levels):
            if level == "#":
                return True
            if at >= len(name) or level not in ("+", name[at]):
                return False
        return len(name) == len(self.levels)


def _check_level(at: int, level: str, *, is_last: bool) -> None:
    if level == "#" and not is_last:
        raise MalformedTopic(f"topic filter: '#' may only be the last level, not level {at + 1}")
    if level in ("#", "+"):
        return
    if "#" in level or "+" in level:
        raise MalformedTopic(f"topic filter: a wildcard must fill level {at + 1}, got {level!r}")


class _Node(Generic[K, V]):
    """One level of the tree: what hangs below it, and who ends here (`here`, or with `/#`: `below`)."""

    __slots__ = ("below", "children", "here")

    def __init__(self) -> None:
        self.children: dict[str, _Node[K, V]] = {}
        self.here: dict[K, V] = {}
        self.below: dict[K, V] = {}

    @property
    def is_empty(self) -> bool:
        return not (self.children or self.here or self.below)


class FilterTree(Generic[K, V]):
    """Many filters with a value per (filter, key), asked which of them a topic matches.

    Filters without a wildcard are found with one look-up; the others in a tree of levels. What was
    found is remembered for up to `remember` topics, until a filter comes or goes.
    """

    def __init__(self, *, remember: int = 1_000) -> None:
        self._exact: dict[str, dict[K, V]] = {}
        self._root: _Node[K, V] = _Node()
        self._found: dict[str, tuple[tuple[K, V], ...]] = {}
        self._remember = remember

    def add(self, topic_filter: TopicFilter, key: K, value: V) -> bool:
        """Put `value` under filter and key; True when the pair is new, False when it was replaced."""
        self._found.clear()
        entries = self._entries(topic_filter)
        is_new = key not in entries
        entries[key] = value
        return is_new

    def _entries(self, topic_filter: TopicFilter) -> dict[K, V]:
        if not topic_filter.has_wildcard:
            return self._exact.setdefault(topic_filter.text, {})
        node = self._root
        for level in topic_filter.levels:
            if level == "#":
                return node.below
            node = node.children.setdefault(level, _Node())
        return node.here

    def remove(self, topic_filter: TopicFilter, key: K) -> bool:
        """Take filter and key out; False when they were not there."""
        self._found.clear()
        if topic_filter.has_wildcard:
            return self._remove_below(topic_filter.levels, key)
        entries = self._exact.get(topic_filter.text, {})
        if key not in entries:
            return False
        del entries[key]
        if not entries:
            del self._exact[topic_filter.text]
        return True

    def _remove_below(self, levels: tuple[str, ...], key: K) -> bool:
        path = [self._root]
        for level in levels:
            if level == "#":
                break
            child = path[-1].children.get(level)
            if child is None:
                return False
            path.append(child)
        last = path[-1]
        entries = last.below if levels[-1] == "#" else last.here
        if key not in entries:
            return False
        del entries[key]
        for at in range(len(path) - 1, 0, -1):
            if not path[at].is_empty:
                break
            del path[at - 1].children[levels[at - 1]]
        return True

    def match(self, topic: str) -> tuple[tuple[K, V], ...]:
        """Return (key, value) of every filter that matches; a key stands once per matching filter."""
        found = self._found.get(topic)
        if found is None:
            found = tuple(self._search(topic))
            if len(self._found) >= self._remember:
                self._found.clear()
            if len(topic) <= 256:
                self._found[topic] = found
        return found

    def _search(self, topic: str) -> Iterator[tuple[K, V]]:
        yield from self._exact.get(topic, {}).items()
        levels = topic.split("/")
        nodes = [self._root]
        for depth, level in enumerate(levels):
            wild = depth > 0 or not level.startswith("$")
            following: list[_Node[K, V]] = []
            for node in nodes:
                if wild:
                    yield from node.below.items()
                if (child := node.children.get(level)) is not None:
                    following.append(child)
                if wild and (child := node.children.get("+")) is not None:
                    following.append(child)
            nodes = following
        for node in nodes:
            yield from node.here.items()
            yield from node.below.items()  # `a/#` also matches `a`
