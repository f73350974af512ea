"""OPC UA servers that say what cannot be: a fault of the property that it is about, and of nothing else."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from asyncua import ua
from asyncua.server.server import Server
from asyncua.ua.attribute_ids import AttributeIds

from edge.mappers.driver import Quality
from edge.mappers.family import Family, TakesOrders
from edge.mappers.opcua.family import make_opcua
from gateway.errors import Rejected
from tests.family_rig import World, a_family, bound, prop, read_until

pytestmark = pytest.mark.asyncio(loop_scope="module")

INVENTED = 77
"""A namespace that the server does not list."""


class Liar:
    """A server with one honest variable and one in a namespace that there is not."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = ""
        self._honest: list[tuple[Any, str, Any]] = []

    async def fill(self) -> None:
        at = ua.Int16(await self.server.register_namespace("urn:liar"))
        objects = self.server.nodes.objects
        for index, name in ((at, "Honest"), (ua.Int16(INVENTED), "Invented")):
            node_id = ua.NodeId(ua.String(name), index)
            node = await objects.add_variable(node_id, ua.QualifiedName(name, index), 7)
            await node.set_writable()

    def lie(self, service: str, method: str, change: Callable[[Any], Any]) -> None:
        """Change what a service of the server answers."""
        owner: Any = getattr(self.server.iserver, service)
        honest = getattr(owner, method)
        self._honest.append((owner, method, honest))

        async def later(*asked: Any) -> Any:
            return change(await honest(*asked))

        def at_once(*asked: Any) -> Any:
            return change(honest(*asked))

        is_slow = method == "create_monitored_items"
        setattr(owner, method, later if is_slow else at_once)

    def repent(self) -> None:
        """Take back all lies."""
        while self._honest:
            setattr(*self._honest.pop())


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server() -> AsyncIterator[Liar]:
    logging.getLogger("asyncua").setLevel(logging.CRITICAL)
    running = Server()
    await running.init()
    running.set_endpoint("opc.tcp://127.0.0.1:0/")
    running.set_security_policy([ua.SecurityPolicyType.NoSecurity])
    made = Liar(running)
    await made.fill()
    async with running:
        listening: Any = running.bserver
        port = listening._server.sockets[0].getsockname()[1]
        made.url = f"opc.tcp://127.0.0.1:{port}/"
        yield made


@pytest.fixture
def liar(server: Liar) -> Iterator[Liar]:
    yield server
    server.repent()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


@pytest_asyncio.fixture(loop_scope="module")
async def family(world: World) -> AsyncIterator[Family]:
    async with a_family(make_opcua, world) as running:
        yield running


def config(liar: Liar) -> dict[str, Any]:
    return {"url": liar.url, "publishingInterval": 50}


HONEST = prop("Honest", nodeID="nsu=urn:liar;s=Honest")


async def test_a_variable_of_an_invented_namespace_is_offered_by_its_index(
    family: Family, world: World, liar: Liar
) -> None:
    assert isinstance(family, TakesOrders)
    told = await family.order("browse", {"url": liar.url})
    assert told["found"] == 2
    found = {p.name: p.visitor["nodeID"] for p in world.seen[liar.url].properties}
    assert found["Honest"] == "nsu=urn:liar;s=Honest"
    assert found["Invented"] == f"ns={INVENTED};s=Invented"
    made = prop("Invented", nodeID=found["Invented"])
    driver = family.driver(*bound("opcua", config(liar), made, HONEST))
    await driver.connect()
    assert (await read_until(driver, "Invented", lambda _: True)).text == "7"
    await driver.close()


async def test_a_server_without_a_list_of_namespaces_is_read_by_index(
    family: Family, liar: Liar
) -> None:
    def unlisted(values: list[Any]) -> list[Any]:
        """Nothing, where it is the list of namespaces."""
        is_list = [v.Value is not None and "urn:liar" in str(v.Value.Value) for v in values]
        return [ua.DataValue() if yes else v for yes, v in zip(is_list, values, strict=True)]

    liar.lie("attribute_service", "read", unlisted)
    by_index = prop("byIndex", nodeID="ns=2;s=Honest")
    driver = family.driver(*bound("opcua", config(liar), by_index, HONEST))
    await driver.connect()
    assert (await read_until(driver, "byIndex", lambda _: True)).text == "7"
    reading = (await driver.read(["Honest"]))["Honest"]
    assert (reading.quality, reading.why) == (Quality.BAD, "the server has no namespace urn:liar")
    await driver.close()


@pytest.mark.parametrize("path", ["70000:Honest", "-1:Honest", "2:Honest/70000:x"])
async def test_a_step_in_a_namespace_that_cannot_be_is_a_fault_of_its_property(
    family: Family, liar: Liar, path: str
) -> None:
    wrong = prop("wrong", browsePath=path)
    driver = family.driver(*bound("opcua", config(liar), wrong, HONEST))
    await driver.connect()
    assert (await read_until(driver, "Honest", lambda _: True)).text == "7"
    reading = (await driver.read(["wrong"]))["wrong"]
    assert reading.quality is Quality.BAD
    assert reading.why
    await driver.close()


async def test_a_path_that_is_found_nowhere_is_a_fault_of_its_property(
    family: Family, liar: Liar
) -> None:
    def nowhere(results: list[Any]) -> list[Any]:
        for result in results:
            result.StatusCode, result.Targets = ua.StatusCode(), []
        return results

    liar.lie("view_service", "translate_browsepaths_to_nodeids", nowhere)
    lost = prop("lost", browsePath="2:Honest")
    driver = family.driver(*bound("opcua", config(liar), lost, HONEST))
    await driver.connect()
    assert (await read_until(driver, "Honest", lambda _: True)).text == "7"
    assert "cannot be" in (await driver.read(["lost"]))["lost"].why
    with pytest.raises(Rejected, match="cannot be"):
        await driver.write("lost", "1")
    await driver.close()


async def test_a_subscription_answered_in_part_is_heard_in_part(family: Family, liar: Liar) -> None:
    liar.lie("subscription_service", "create_monitored_items", lambda results: results[:1])
    second = prop("second", nodeID=f"ns={INVENTED};s=Invented")
    driver = family.driver(*bound("opcua", config(liar), HONEST, second))
    await driver.connect()
    assert (await read_until(driver, "Honest", lambda _: True)).text == "7"
    reading = (await driver.read(["second"]))["second"]
    assert (reading.quality, "BadNoDataAvailable" in reading.why) == (Quality.BAD, True)
    await driver.close()


async def test_a_subscription_with_more_answers_than_nodes_is_refused(
    family: Family, liar: Liar
) -> None:
    liar.lie("subscription_service", "create_monitored_items", lambda results: results * 3)
    driver = family.driver(*bound("opcua", config(liar), HONEST))
    with pytest.raises(Rejected, match="cannot be"):
        await driver.connect()
    await driver.close()


def _of_no_type(value: ua.DataValue) -> ua.DataValue:
    value.Value = ua.Variant(ua.NodeId(ua.Int32(999_999), ua.Int16(9)), ua.VariantType.NodeId)
    return value


async def test_a_variable_of_a_type_that_there_is_not_cannot_be_written(
    family: Family, liar: Liar
) -> None:
    node = liar.server.get_node(ua.NodeId(ua.String("Invented"), ua.Int16(INVENTED)))
    await node.write_attribute(AttributeIds.DataType, _of_no_type(ua.DataValue()))
    made = prop("Invented", nodeID=f"ns={INVENTED};s=Invented")
    driver = family.driver(*bound("opcua", config(liar), made, HONEST))
    await driver.connect()
    with pytest.raises(Rejected, match="Invented"):
        await driver.write("Invented", "8")
    await driver.write("Honest", "8")
    await read_until(driver, "Honest", lambda r: r.text == "8")
    await driver.close()
