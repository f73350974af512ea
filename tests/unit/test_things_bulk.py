"""Counting what became of many commands, with a server that answers as it likes."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, cast

import pytest

from gateway.cli.client import Api, Unreachable
from gateway.cli.exit_codes import FAILED, OK, UNREACHABLE
from gateway.cli.things_bulk import Envelope, Item, Tally, send


class Server:
    """Answers with these statuses, then ends, or breaks off."""

    def __init__(self, *statuses: int, breaks: bool = False) -> None:
        self.statuses = statuses
        self.breaks = breaks
        self.got: list[Any] = []

    async def lines(self, _path: str, body: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        async for chunk in body:
            self.got += [json.loads(line) for line in chunk.splitlines()]
        for status in self.statuses:
            value = {"error": "x:y", "message": "no"} if status >= 400 else None
            yield json.dumps({"status": status, "value": value}).encode()
        if self.breaks:
            raise Unreachable("http://x", "gone")


def judge(_item: Item, answer: Envelope) -> str | None:
    return "done" if answer["status"] < 400 else None


async def sent(server: Server, count: int) -> Tally:
    tally = Tally.of("done")
    items = [Item(n, f"a:{n}", {"n": n}) for n in range(1, count + 1)]
    await send(cast(Api, server), items, judge, tally)
    return tally


async def test_each_answer_belongs_to_the_command_in_its_place() -> None:
    server = Server(204, 403, 201)
    tally = await sent(server, 3)
    assert [one["n"] for one in server.got] == [1, 2, 3]
    assert tally.counts == {"done": 2, "failed": 1}
    assert [str(one) for one in tally.failures] == ["line 2: a:2: 403 x:y: no"]
    assert tally.exit_code == FAILED
    assert (await sent(Server(200), 1)).exit_code == OK


@pytest.mark.parametrize("breaks", [True, False])
async def test_what_was_not_answered_is_told(breaks: bool) -> None:
    tally = await sent(Server(204, breaks=breaks), 3)
    assert (tally.counts["done"], tally.unanswered) == (1, 2)
    assert tally.exit_code == UNREACHABLE
    assert tally.cut


async def test_an_answer_too_many_is_counted_as_failed() -> None:
    tally = await sent(Server(204, 408), 1)
    assert tally.counts == {"done": 1, "failed": 1}


async def test_failures_are_counted_beyond_those_that_are_kept() -> None:
    tally = await sent(Server(*([400] * 1_500)), 1_500)
    assert tally.counts["failed"] == 1_500
    assert len(tally.failures) == 1_000
