"""Golden transcripts of the cloud-edge link: how they are written, matched and played against either end.

A transcript is a text file. Lines of `#` and empty ones are for people; a line that begins with a blank goes
on with the one before. The rest:

    against: edge, cloud     which ends it can be played against; the player takes the other part
    awaits: cloud            of these, ends whose part is not built yet; strike the word out once it is
    from: connect            it begins with the connection; without it, once the node is registered
    ignore: PATTERN          messages of the end under test that may come at any time, any number of times
    > PATTERN                a message of the edge
    < PATTERN                a message of the cloud
    ! END ACTION [JSON]      something that happens at an end, done only when that end is under test

Messages of the end under test that stand together may come in any order; everything else is in order. At
the end nothing may be left over that is not ignored.

Patterns are JSON. `"*"` is anything (but absence), `"*=x"` anything that the player sends as `x` (read as
JSON if it is); `"$name"` is bound where it is met first and the same everywhere else, `"$name=x"` with what
the player sends; a member `"...": "*"` of an object allows more members; `{"$text": PATTERN}` is a JSON
string that holds the JSON. The player fills a `$name` of a `msg_id` and the `*` of a `timestamp` by itself.
"""

from __future__ import annotations

import asyncio
import json
import time
import uuid
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

GOLDEN = Path(__file__).parent / "golden"
EDGE, CLOUD = "edge", "cloud"
MORE = "..."
OWN_HEADERS = ("traceparent", "tracestate", "spool", "upload")
"""Header members of ours that Go's decoder drops."""
SECONDS = 15.0

Bindings = dict[str, Any]
Action = Callable[[Any], Awaitable[None]]


@dataclass(frozen=True)
class Line:
    """One message or action; `number` is where it stands in the file."""

    number: int
    who: str
    pattern: Any = None
    action: str = ""


@dataclass
class Transcript:
    """A file, read."""

    name: str
    against: tuple[str, ...] = (EDGE, CLOUD)
    awaits: tuple[str, ...] = ()
    from_connect: bool = False
    ignored: list[Any] = field(default_factory=list)
    lines: list[Line] = field(default_factory=list)

    @classmethod
    def read(cls, path: Path) -> Transcript:
        script = cls(path.stem)
        for number, text in _joined(path.read_text("utf-8")):
            try:
                script._take(number, text)
            except ValueError as error:
                raise ValueError(f"{path.name}:{number}: {error}: {text[:200]}") from error
        return script

    def _take(self, number: int, text: str) -> None:
        word, _, rest = text.partition(" ")
        if word == "against:":
            self.against = tuple(part.strip() for part in rest.split(","))
        elif word == "awaits:":
            self.awaits = tuple(part.strip() for part in rest.split(","))
        elif word == "from:":
            self.from_connect = rest.strip() == "connect"
        elif word == "ignore:":
            self.ignored.append(json.loads(rest))
        elif word in "<>":
            self.lines.append(Line(number, EDGE if word == ">" else CLOUD, json.loads(rest)))
        elif word == "!":
            who, action, *body = rest.split(" ", 2)
            value = json.loads(body[0]) if body else None
            self.lines.append(Line(number, who, value, action))
        else:
            raise ValueError("not a line of a transcript")

    def blocks(self) -> Iterator[list[Line]]:
        """Messages of one end that stand together; actions stand alone."""
        block: list[Line] = []
        for line in self.lines:
            if block and (line.action or block[-1].action or line.who != block[-1].who):
                yield block
                block = []
            block.append(line)
        if block:
            yield block


def transcripts(end: str) -> list[Path]:
    """The files that can be played against an end."""
    scripts = [(path, Transcript.read(path)) for path in sorted(GOLDEN.glob("*.txt"))]
    return [path for path, script in scripts if end in script.against and end not in script.awaits]


def _joined(text: str) -> Iterator[tuple[int, str]]:
    number, pieces = 0, list[str]()
    for count, line in enumerate(text.splitlines(), 1):
        if line.startswith(" ") and pieces:
            pieces.append(line.strip())
            continue
        if pieces:
            yield number, " ".join(pieces)
        pieces = [line] if line and not line.startswith("#") else []
        number = count
    if pieces:
        yield number, " ".join(pieces)


# --- matching --------------------------------------------------------------------------------------


def match(pattern: Any, value: Any, known: Bindings) -> Bindings | None:
    """Return what `value` binds beside what is known, None when it does not fit."""
    if isinstance(pattern, str) and pattern.startswith("*"):
        return {}
    if isinstance(pattern, str) and pattern.startswith("$"):
        name = pattern[1:].partition("=")[0]
        if name in known:
            return {} if known[name] == value else None
        return {name: value}
    if isinstance(pattern, dict):
        return _match_object(pattern, value, known)
    if isinstance(pattern, list):
        if not isinstance(value, list) or len(pattern) != len(value):
            return None
        return _match_all(list(zip(pattern, value, strict=True)), known)
    return {} if pattern == value and type(pattern) is type(value) else None


def _match_object(pattern: dict[str, Any], value: Any, known: Bindings) -> Bindings | None:
    if pattern.keys() == {"$text"}:
        return match(pattern["$text"], _parsed(value), known) if isinstance(value, str) else None
    wanted = {key: item for key, item in pattern.items() if key != MORE}
    if not isinstance(value, dict) or not wanted.keys() <= value.keys():
        return None
    if MORE not in pattern and wanted.keys() != value.keys():
        return None
    return _match_all([(item, value[key]) for key, item in wanted.items()], known)


def _match_all(pairs: list[tuple[Any, Any]], known: Bindings) -> Bindings | None:
    found: Bindings = {}
    for pattern, value in pairs:
        more = match(pattern, value, {**known, **found})
        if more is None:
            return None
        found |= more
    return found


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


# --- what the player sends -------------------------------------------------------------------------


def filled(pattern: Any, known: Bindings, key: str = "") -> Any:
    """Return the message that a pattern stands for; new names are bound in `known`."""
    if isinstance(pattern, dict):
        if pattern.keys() == {"$text"}:
            return json.dumps(filled(pattern["$text"], known))
        return {k: filled(v, known, k) for k, v in pattern.items() if k != MORE}
    if isinstance(pattern, list):
        return [filled(item, known) for item in pattern]
    if not isinstance(pattern, str) or pattern[:1] not in ("*", "$"):
        return pattern
    name, has_default, default = pattern[1:].partition("=")
    if name not in known or not name:
        value = _parsed(default) if has_default else _own(pattern, key)
        if not name:
            return value
        known[name] = value
    return known[name]


def _own(pattern: str, key: str) -> Any:
    if key == "msg_id":
        return str(uuid.uuid4())
    if key in ("timestamp", "Timestamp"):
        return time.time_ns() // 1_000_000
    raise ValueError(f"{key}: {pattern} says nothing that could be sent")


# --- playing ---------------------------------------------------------------------------------------


class Wire(Protocol):
    """The player's end of a connection."""

    @property
    def received(self) -> Sequence[str]:
        """Frames of the end under test, as they came."""

    async def send(self, frame: str) -> None: ...


class Player:
    """Plays one transcript against one end."""

    def __init__(
        self,
        script: Transcript,
        end: str,
        wire: Wire,
        actions: Mapping[str, Action],
        known: Mapping[str, Any] = MappingProxyType({}),
    ) -> None:
        """`known`: names that are bound from the start, such as a port."""
        self._script = script
        self._end = end
        self._wire = wire
        self._actions = actions
        self._known: Bindings = dict(known)
        self._seen = 0
        self._left: list[Any] = []

    async def failure(self) -> str:
        """Play to the end; return what went wrong, with its line, "" when nothing did.

        Not raised: what runs around a player would wrap it.
        """
        try:
            await self.play()
        except AssertionError as error:
            return str(error) or repr(error)
        return ""

    async def play(self) -> None:
        """Play to the end. Errors: AssertionError that names the line."""
        for block in self._script.blocks():
            if block[0].action:
                await self._act(block[0])
            elif block[0].who == self._end:
                await self._expect(block)
            else:
                for line in block:
                    await self._wire.send(json.dumps(filled(line.pattern, self._known)))
        self._read()
        left = [message for message in self._left if not self._is_ignored(message)]
        assert left == [], f"{self._script.name}: nothing told of {_shown(left)}"

    async def _act(self, line: Line) -> None:
        if line.who == self._end:
            await self._actions[line.action](line.pattern)

    async def _expect(self, block: list[Line]) -> None:
        missing = list(block)
        try:
            async with asyncio.timeout(SECONDS):
                while missing:
                    self._read()
                    missing = [line for line in missing if not self._found(line)]
                    await asyncio.sleep(0.002 if missing else 0)
        except TimeoutError:
            line = missing[0]
            raise AssertionError(
                f"{self._script.name}:{line.number}: did not come: {json.dumps(line.pattern)};"
                f" bound: {self._known}; came instead: {_shown(self._left)}"
            ) from None

    def _read(self) -> None:
        frames, self._seen = self._wire.received[self._seen :], len(self._wire.received)
        for frame in frames:
            message = json.loads(frame)
            for name in OWN_HEADERS:
                message["header"].pop(name, None)
            self._left.append(message)

    def _is_ignored(self, message: Any) -> bool:
        return any(match(pattern, message, {}) is not None for pattern in self._script.ignored)

    def _found(self, line: Line) -> bool:
        for index, message in enumerate(self._left):
            more = match(line.pattern, message, self._known)
            if more is not None:
                self._known |= more
                del self._left[index]
                return True
        return False


def _shown(messages: Sequence[Any]) -> str:
    return "\n".join(json.dumps(message)[:1_000] for message in messages) or "nothing"
