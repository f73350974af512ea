"""The book of nodes: what goes when a Node goes."""

from __future__ import annotations

from cloud.nodebook import NodeBook
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
