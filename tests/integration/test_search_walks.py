"""Searches sorted by what they filter by: nothing is looked at that cannot match, nothing is missed."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import quote

import pytest

from gateway.store import search_sqlite
from tests.ditto_rig import Stack, a_ditto, curl, put

FLEET: dict[str, Any] = {
    "five": {"n": 5, "maker": "a"},
    "one": {"n": 1, "maker": "b"},
    "nothing": {"maker": "a"},
    "null": {"n": None, "maker": "a"},
    "text": {"n": "7", "maker": "b"},
    "nine": {"n": 9, "maker": "b"},
}
ARRAYS: dict[str, Any] = {"array": {"n": [3, 8]}, "deep": {"list": [{"n": 2}, {"n": 6}]}}


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto() as stack:
        await fill(stack, FLEET)
        yield stack


async def fill(ditto: Stack, things: dict[str, Any]) -> None:
    for name, attributes in things.items():
        made = await put(f"{ditto.api}/things/org.acme:{name}", {"attributes": attributes})
        assert made.status == 201


async def found(ditto: Stack, rql: str, sort: str) -> list[str]:
    """Names of the hits in order, read page by page."""
    names: list[str] = []
    option = f"sort({sort}),size(1)"
    while True:
        url = f"{ditto.api}/search/things?filter={quote(rql)}&option={quote(option)}"
        page = (await curl(url)).json
        names += [item["thingId"].removeprefix("org.acme:") for item in page["items"]]
        if "cursor" not in page:
            return names
        option = f"cursor({page['cursor']})"


@pytest.mark.parametrize(
    ("rql", "rising"),
    [
        ("gt(attributes/n,0)", ["one", "five", "nine"]),
        ("ge(attributes/n,5)", ["five", "nine"]),
        ("lt(attributes/n,9)", ["one", "five"]),
        ("eq(attributes/n,5)", ["five"]),
        ("in(attributes/n,9,1)", ["one", "nine"]),
        ('and(gt(attributes/n,0),eq(attributes/maker,"b"))', ["one", "nine"]),
        ("eq(attributes/n,null)", ["null"]),
        ('like(attributes/n,"7*")', ["text"]),
    ],
)
async def test_hits_come_in_order_of_what_they_are_filtered_by(
    ditto: Stack, rql: str, rising: list[str]
) -> None:
    assert await found(ditto, rql, "+attributes/n") == rising
    assert await found(ditto, rql, "-attributes/n") == rising[::-1]


async def test_what_arrays_hold_matches_and_stands_where_nothing_stands(ditto: Stack) -> None:
    await fill(ditto, ARRAYS)
    rql = "gt(attributes/n,2)"
    assert await found(ditto, rql, "+attributes/n") == ["array", "five", "nine"]
    assert await found(ditto, rql, "-attributes/n") == ["nine", "five", "array"]
    assert await found(ditto, "gt(attributes/list/n,2)", "+attributes/list/n") == ["deep"]


async def test_things_without_a_value_are_not_looked_for_where_the_filter_wants_one(
    ditto: Stack, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: Any) -> None:
        raise AssertionError("things without a value cannot match")

    monkeypatch.setattr(search_sqlite._Search, "_without_value", never)
    assert await found(ditto, "gt(attributes/n,0)", "+attributes/n") == ["one", "five", "nine"]
    assert await found(ditto, "gt(attributes/n,0)", "-attributes/n") == ["nine", "five", "one"]
