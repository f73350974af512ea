"""The book of nodes: what goes when a Node goes."""

from __future__ import annotations

import pytest

from cloud import issuing, nodebook
from cloud.certificates import Issued, NodeCertificate
from cloud.issuing import IssueRate
from cloud.nodebook import MAX_PER_NODE, NodeBook
from gateway.errors import QuotaExceeded
from gateway.model.message import SpoolId
from gateway.store import edge_sequences
from gateway.store.database import Database


async def test_with_a_node_goes_what_is_known_of_its_spools_and_nothing_else() -> None:
    database = Database(None, "gateway")
    async with database.running():
        book = NodeBook(database)
        await book.load(0.0)
        places = ("edge-1/a", "edge-1/b", "edge-10/a", "edge-1.x/a", "edge-2/a")
        for place in places:
            await database.write(
                lambda c, place=place: edge_sequences.advance(c, SpoolId(place, "t/d", 7))  # type: ignore[misc]
            )
        await book.unregister("edge-1")
        kept = await database.read(
            lambda c: c.execute("SELECT edge FROM edge_sequences ORDER BY 1").fetchall()
        )
        assert [edge for (edge,) in kept] == ["edge-1.x/a", "edge-10/a", "edge-2/a"]


def a_certificate(number: int, node: str = "edge-1") -> Issued:
    return Issued(b"", node, f"{number:x}", 1_000.0 + number, 1e12)


async def test_a_node_has_few_rows_however_many_certificates_it_had() -> None:
    database = Database(None, "gateway")
    async with database.running():
        book = NodeBook(database)
        await book.load(0.0)
        await book.issued(a_certificate(500, "edge-2"))
        for number in range(100):
            await book.issued(a_certificate(number))
        rows = await database.read(
            lambda c: c.execute("SELECT serial FROM node_certificate").fetchall()
        )
        assert len(rows) == MAX_PER_NODE + 1
        assert book.owner("0") == "edge-1", "the first may be of the old form"
        assert book.owner("63") == "edge-1"
        assert book.owner("20") is None
        assert book.owner("1f4") == "edge-2"
        dropped = NodeCertificate("edge-1", "20", 1_032.0)
        assert not book.is_revoked(dropped)
        await book.revoke("edge-1", 2_000.0)
        assert book.is_revoked(dropped)


async def test_rows_of_nodes_that_never_came_go_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodebook, "MAX_ROWS", 3)
    database = Database(None, "gateway")
    async with database.running():
        book = NodeBook(database)
        await book.load(0.0)
        await book.issued(a_certificate(0, "came"))
        await book.register("came", "u1")
        for number in range(1, 10):
            await book.issued(a_certificate(number, f"never-{number}"))
        assert [book.owner(f"{n:x}") for n in (0, 1, 7, 8, 9)] == [
            "came", None, None, "never-8", "never-9",
        ]  # fmt: skip


def test_a_node_that_asks_on_and_on_is_told_when_to_come_again() -> None:
    rate = IssueRate()
    for _ in range(issuing.BURST):
        rate.take("edge-1", 100.0)
    with pytest.raises(QuotaExceeded, match="again in 61 s") as refused:
        rate.take("edge-1", 100.0)
    assert refused.value.status == 429
    rate.take("edge-2", 100.0)
    rate.take("edge-1", 161.0)
    with pytest.raises(QuotaExceeded):
        rate.take("edge-1", 161.0)


def test_nodes_that_asked_long_ago_are_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issuing, "MAX_NODES", 5)
    rate = IssueRate()
    for number in range(50):
        rate.take(f"edge-{number}", 1.0)
    assert len(rate._used) == 5
