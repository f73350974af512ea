"""The player of golden transcripts itself: what it accepts, and what it must not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import transcripts
from tests.transcripts import EDGE, Player, Transcript, filled, match


@pytest.mark.parametrize(
    ("pattern", "value", "fits"),
    [
        ("*", None, True),
        ("*=x", 7, True),
        ("a", "a", True),
        (1, True, False),
        (1, 1.0, False),
        ({"a": 1}, {"a": 1, "b": 2}, False),
        ({"a": 1, "...": "*"}, {"a": 1, "b": 2}, True),
        ({"a": "*"}, {}, False),
        ({"a": "$x", "b": "$x"}, {"a": 1, "b": 1}, True),
        ({"a": "$x", "b": "$x"}, {"a": 1, "b": 2}, False),
        (["*", 2], [1, 2], True),
        (["*"], [1, 2], False),
        ({"$text": {"a": "*"}}, '{"a": 1}', True),
        ({"$text": {"a": "*"}}, {"a": 1}, False),
    ],
)
def test_patterns(pattern: Any, value: Any, fits: bool) -> None:
    assert (match(pattern, value, {}) is not None) is fits


def test_a_name_that_is_bound_must_be_the_same() -> None:
    assert match("$x", 1, {"x": 1}) == {}
    assert match("$x=5", 2, {"x": 1}) is None
    assert match("$x=5", 2, {}) == {"x": 2}


def test_what_is_sent_has_defaults_names_and_own_values() -> None:
    known: dict[str, Any] = {}
    pattern = {
        "msg_id": "$id",
        "timestamp": "*",
        "a": "*=[1]",
        "b": "$b=text",
        "...": "*",
        "t": {"$text": {"c": "$b"}},
    }
    message = filled(pattern, known)
    assert message["msg_id"] == known["id"]
    assert isinstance(message["timestamp"], int)
    assert (message["a"], message["b"]) == ([1], "text")
    assert json.loads(message["t"]) == {"c": "text"}
    assert "..." not in message
    with pytest.raises(ValueError, match="says nothing"):
        filled({"a": "*"}, {})


class Peer:
    """An end under test that has said all it says."""

    def __init__(self, *bodies: Any) -> None:
        self._frames = [json.dumps({"header": {"spool": 1}, "content": body}) for body in bodies]
        self.got: list[Any] = []

    @property
    def received(self) -> list[str]:
        return self._frames

    async def send(self, frame: str) -> None:
        self.got.append(json.loads(frame))


def a_script(folder: Path, *lines: str) -> Transcript:
    path = folder / "script.txt"
    path.write_text("\n".join(lines))
    return Transcript.read(path)


def said(body: str) -> str:
    return f'> {{"header": {{}},\n  "content": {body}}}'


async def test_messages_that_stand_together_come_in_any_order(tmp_path: Path) -> None:
    script = a_script(tmp_path, "# words", said('"a"'), said('"b"'), '< {"content": 1}')
    peer = Peer("b", "a")
    assert await Player(script, EDGE, peer, {}).failure() == ""
    assert peer.got == [{"content": 1}]


@pytest.mark.parametrize(
    ("bodies", "told"),
    [
        (["a"], "script:3: did not come"),
        (["a", "x"], 'came instead: {"header": {}, "content": "x"}'),
        (["a", "b", "c"], "nothing told of"),
        (["a", "b", "a"], "nothing told of"),
    ],
)
async def test_what_is_missing_or_too_much_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bodies: list[str], told: str
) -> None:
    monkeypatch.setattr(transcripts, "SECONDS", 0.02)
    script = a_script(tmp_path, said('"a"'), said('"b"'))
    assert told in await Player(script, EDGE, Peer(*bodies), {}).failure()


async def test_ignored_messages_may_come_at_any_time(tmp_path: Path) -> None:
    script = a_script(tmp_path, 'ignore: {"header": "*", "content": "x"}', said('"a"'))
    assert await Player(script, EDGE, Peer("x", "a", "x"), {}).failure() == ""


async def test_actions_are_done_at_the_end_under_test_alone(tmp_path: Path) -> None:
    done: list[Any] = []

    async def note(what: Any) -> None:
        done.append(what)

    script = a_script(tmp_path, '! edge note {"a": "$x"}', "! cloud other", "! edge note")
    assert await Player(script, EDGE, Peer(), {"note": note}).failure() == ""
    assert done == [{"a": "$x"}, None]


def test_a_line_that_is_none_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"script\.txt:2"):
        a_script(tmp_path, "# fine", "what is this")


def test_every_golden_transcript_is_played_by_somebody() -> None:
    paths = sorted(transcripts.GOLDEN.glob("*.txt"))
    assert paths
    for path in paths:
        script = Transcript.read(path)
        assert set(script.against) & {"edge", "cloud"}
        assert script.lines
