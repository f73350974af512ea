"""Push methods to databases: Debian's Redis and MariaDB, and a peer that answers as TDengine's REST does."""

from __future__ import annotations

import asyncio
import base64
import json
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from edge.mappers import pushing
from edge.mappers.pushaddress import read_address
from edge.mappers.pushmysql import MysqlServers, table_name
from edge.mappers.pushredis import RedisServers
from edge.mappers.pushtdengine import insert_text, make_tdengine
from edge.mappers.redisclient import RedisClient, command, error_of
from gateway.errors import Rejected, Undeliverable
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import DeviceKey
from gateway.wire.cloudedge.twins import MemberDevice
from tests.database_servers import PASSWORD, MariaDb, install, mariadb, redis, redis_cli
from tests.device_pki import issue
from tests.integration.edge_cloud import FakeCloud, a_cloud
from tests.integration.edge_node import LAMP_MODEL, Node, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.ports import free_port

KEY = DeviceKey("default", "lamp")


@pytest.fixture
async def cloud(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FakeCloud]:
    monkeypatch.setenv("PASSWORD", PASSWORD)
    monkeypatch.setenv("USERNAME", "root")
    monkeypatch.setattr(pushing, "RETRY_FIRST", 0.05)
    monkeypatch.setattr(pushing, "RETRY_CAP", 0.2)
    folder = tmp_path / "cloud"
    folder.mkdir()
    async with a_cloud(folder) as served:
        served.members = [MemberDevice(id="default/lamp", name="lamp")]
        yield served


@pytest.fixture
async def node(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Node]:
    await join_edge(cloud, tmp_path / "edge")
    async with a_node(tmp_path / "edge") as served:
        await linked(served, cloud)
        await cloud.push("devicemodel", "m1", LAMP_MODEL)
        yield served


def a_lamp(method: str, brightness: str | None = None, **client: Any) -> dict[str, Any]:
    """A virtual lamp whose `on` and `brightness` go to a database."""
    names = {"redis": "redisClientConfig", "mysql": "mysqlClientConfig"}
    config = {names.get(method, f"{method}ClientConfig"): client}
    lamp = a_device(protocol="virtual", on=None, brightness=brightness)
    for prop in lamp["spec"]["properties"]:
        prop["pushMethod"] = {"dbMethod": {method: config}}
    return lamp


def a_sample(text: str = "1", name: str = "on", device: DeviceKey = KEY) -> pushing.Sample:
    return pushing.Sample(device, name, text, text, 1_795_377_600_123)


def pushed(node: Node, method: str, outcome: str) -> float:
    labels = {"method": method, "outcome": outcome}
    name = "twinspan_edge_mapper_pushes_total"
    return node.metrics.registry.get_sample_value(name, labels) or 0.0


def server_certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate for localhost with its key in one file, and the file of who signed it."""
    authority = issue(
        "CN=ca", extensions=((x509.BasicConstraints(ca=True, path_length=None), True),)
    )
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    holder = issue("CN=localhost", authority, extensions=((names, False),))
    ca = folder / "ca.crt"
    ca.write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    return holder.save(folder, "server"), ca


# --- Redis -----------------------------------------------------------------------------------------


async def test_values_are_in_a_sorted_set_of_redis_by_their_time(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    async with redis(tmp_path) as address:
        at = f"127.0.0.1:{address.port}"
        await cloud.push("device", "lamp", a_lamp("redis", addr=at, db=3))
        await until(lambda: pushed(node, "redis", "ok") == 2)
        lines = await redis_cli(address, "-n", "3", "ZRANGE", "lamp", "0", "-1", "WITHSCORES")
        members = [json.loads(line) for line in lines[::2]]
        assert sorted((m["PropertyName"], m["Value"], m["Type"]) for m in members) == [
            ("brightness", "100", "int"),
            ("on", "false", "boolean"),
        ]
        assert {m["DeviceName"] + m["Namespace"] for m in members} == {"lampdefault"}
        assert [float(score) for score in lines[1::2]] == [m["TimeStamp"] for m in members]
        found = await redis_cli(address, "CLIENT", "LIST")
        assert len([line for line in found if " db=3 " in line]) == 1  # both share a connection


async def test_redis_is_reached_over_tls_by_a_certificate_that_is_trusted(
    cloud: FakeCloud, node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, ca = server_certificate(tmp_path)
    tls = free_port()
    files = ("--tls-cert-file", str(at), "--tls-key-file", str(at), "--tls-ca-cert-file", str(ca))
    more = ("--tls-port", str(tls), "--tls-auth-clients", "no", *files)
    async with redis(tmp_path, *more) as address:
        lamp = a_lamp("redis", addr=f"tls://localhost:{tls}")
        await cloud.push("device", "lamp", lamp)
        await until(lambda: pushed(node, "redis", "again") >= 1)
        fault = node.core.devices.faults.of(KEY)["push redis of on"]
        assert "certificate verify failed" in fault
        monkeypatch.setenv("SSL_CERT_FILE", str(ca))
        await until(lambda: pushed(node, "redis", "ok") == 2)
        assert await redis_cli(address, "ZCARD", "lamp") == ["2"]


async def test_what_redis_missed_comes_when_it_is_back(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    port = free_port()
    lamp = a_lamp("redis", addr=f"127.0.0.1:{port}")
    await cloud.push("device", "lamp", lamp)
    await until(lambda: pushed(node, "redis", "again") >= 2)
    await until(lambda: cloud.reported("brightness") == ["100"])  # the twin does not wait
    parts = node.core.devices.faults.of(KEY)
    assert "Redis is not reached" in parts["push redis of on"]
    async with redis(tmp_path, port=port) as address:
        await until(lambda: pushed(node, "redis", "ok") == 2)
        assert await redis_cli(address, "ZCARD", "lamp") == ["2"]
        assert not node.core.devices.faults.of(KEY)


async def test_a_password_that_redis_does_not_take_is_told_and_tried_again(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    async with redis(tmp_path) as address:
        await redis_cli(address, "CONFIG", "SET", "requirepass", "other")
        await cloud.push("device", "lamp", a_lamp("redis", addr=f"127.0.0.1:{address.port}"))
        await until(lambda: pushed(node, "redis", "again") >= 2)
        assert "WRONGPASS" in node.core.devices.faults.of(KEY)["push redis of on"]


async def test_what_redis_refuses_for_good_is_dropped(
    cloud: FakeCloud, node: Node, tmp_path: Path
) -> None:
    async with redis(tmp_path) as address:
        await redis_cli(address, "SET", "lamp", "a text")
        await cloud.push("device", "lamp", a_lamp("redis", addr=f"127.0.0.1:{address.port}"))
        await until(lambda: pushed(node, "redis", "refused") == 2)
        assert "WRONGTYPE" in node.core.devices.faults.of(KEY)["push redis of on"]


def test_commands_are_written_as_arrays_of_strings() -> None:
    assert command(("AUTH", "pä")) == b"*2\r\n$4\r\nAUTH\r\n$3\r\np\xc3\xa4\r\n"


@pytest.mark.parametrize(("text", "kind"), [("LOADING x", Undeliverable), ("ERR x", Rejected)])
def test_errors_that_may_pass_are_told_from_others(text: str, kind: type[Exception]) -> None:
    assert type(error_of(text)) is kind


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 no\r\n", b"+" + b"x" * 200_000, b"$99999999\r\n", b"$x\r\n", b"+OK", b""],
)
async def test_what_does_not_answer_as_redis_does_is_away(answer: bytes) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n")
        writer.write(answer)
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        port = server.sockets[0].getsockname()[1]
        client = await RedisClient.connect(read_address("addr", f"127.0.0.1:{port}", 1), "", 0)
        with pytest.raises(Undeliverable):
            await client.ask("PING")
        client.close()


# --- MariaDB ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("m")
    asyncio.run(install(folder))
    return folder


@pytest.fixture
async def database(installed: Path) -> AsyncIterator[MariaDb]:
    async with mariadb(installed) as server:
        await server.ask(
            "DROP DATABASE IF EXISTS plant",
            "CREATE DATABASE plant",
            f"CREATE OR REPLACE USER mapper IDENTIFIED BY '{PASSWORD}'",
            "GRANT ALL ON plant.* TO mapper",
        )
        yield server


def on_mariadb(port: int, brightness: str | None = None) -> dict[str, Any]:
    at = f"127.0.0.1:{port}"
    return a_lamp("mysql", brightness, addr=at, database="plant", userName="mapper")


async def test_values_are_rows_of_a_table_for_each_property(
    cloud: FakeCloud, node: Node, database: MariaDb
) -> None:
    await cloud.push("device", "lamp", on_mariadb(database.port))
    await until(lambda: pushed(node, "mysql", "ok") == 2)
    await cloud.push("device", "lamp", on_mariadb(database.port, "40"), Operation.UPDATE)
    await until(lambda: pushed(node, "mysql", "ok") >= 3)
    rows = await database.ask("SELECT field FROM plant.`default/lamp/brightness` ORDER BY id")
    assert rows == [("100",), ("40",)]
    ((at, far),) = await database.ask(
        "SELECT ts, TIMESTAMPDIFF(SECOND, ts, UTC_TIMESTAMP()) FROM plant.`default/lamp/on`"
    )
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d", str(at))
    assert abs(far) < 3_600
    ((users,),) = await database.ask(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE user = 'mapper'"
    )
    assert users == 1


async def test_mariadb_is_reached_over_tls_by_a_certificate_that_is_trusted(
    cloud: FakeCloud, node: Node, installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, ca = server_certificate(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(ca))
    async with mariadb(installed, f"--ssl-cert={at}", f"--ssl-key={at}") as server:
        await server.ask(
            "DROP DATABASE IF EXISTS plant",
            "CREATE DATABASE plant",
            f"CREATE OR REPLACE USER mapper IDENTIFIED BY '{PASSWORD}' REQUIRE SSL",
            "GRANT ALL ON plant.* TO mapper",
        )
        places = {"database": "plant", "userName": "mapper"}
        lamp = a_lamp("mysql", addr=f"tls://localhost:{server.port}", **places)
        await cloud.push("device", "lamp", lamp)
        await until(lambda: pushed(node, "mysql", "ok") == 2)
        rows = await server.ask("SELECT field FROM plant.`default/lamp/brightness`")
        assert rows == [("100",)]
        lamp = a_lamp("mysql", "40", addr=f"127.0.0.1:{server.port}", **places)
        await cloud.push("device", "lamp", lamp, Operation.UPDATE)
        await until(lambda: pushed(node, "mysql", "again") >= 1)  # without TLS it is not let in


async def test_what_mariadb_missed_comes_in_order_when_it_is_back(
    cloud: FakeCloud, node: Node, installed: Path
) -> None:
    port = free_port()
    await cloud.push("device", "lamp", on_mariadb(port))
    await until(lambda: pushed(node, "mysql", "again") >= 2)
    await until(lambda: cloud.reported("brightness") == ["100"])
    await cloud.push("device", "lamp", on_mariadb(port, "40"), Operation.UPDATE)
    await until(lambda: cloud.reported("brightness")[-1] == "40")
    async with mariadb(installed, port=port) as server:
        await server.ask(
            "DROP DATABASE IF EXISTS plant",
            "CREATE DATABASE plant",
            f"CREATE OR REPLACE USER mapper IDENTIFIED BY '{PASSWORD}'",
            "GRANT ALL ON plant.* TO mapper",
        )
        await until(lambda: pushed(node, "mysql", "ok") == 3)
        rows = await server.ask("SELECT field FROM plant.`default/lamp/brightness` ORDER BY id")
        assert rows == [("100",), ("40",)]


async def test_a_login_that_mariadb_does_not_take_is_told(
    cloud: FakeCloud, node: Node, database: MariaDb
) -> None:
    await database.ask("DROP USER mapper")
    await cloud.push("device", "lamp", on_mariadb(database.port))
    await until(lambda: pushed(node, "mysql", "again") >= 2)
    assert "Access denied" in node.core.devices.faults.of(KEY)["push mysql of on"]
    assert PASSWORD not in str(node.core.devices.faults.facts())


@pytest.mark.parametrize(
    "name", ["a`; DROP TABLE x; --", "a b", 'a"', "a\\", "x" * 64, "prop@1", "ä"]
)
def test_a_name_that_is_no_table_never_reaches_sql(name: str) -> None:
    with pytest.raises(Rejected, match="no table"):
        table_name(a_sample(name=name))
    with pytest.raises(Rejected, match="no table"):
        insert_text([a_sample("1", name * 3)])


# --- TDengine --------------------------------------------------------------------------------------


class Tdengine:
    """Answers `/rest/sql/<database>` as TDengine 3 does; knows which super tables there are."""

    def __init__(self) -> None:
        self.tables: set[str] = set()
        self.got: list[str] = []
        self.logins: set[str] = set()
        self.broken = 0
        self.port = 0

    async def take(self, request: web.Request) -> web.Response:
        login = request.headers["Authorization"].removeprefix("Basic ")
        self.logins.add(base64.b64decode(login).decode())
        sql = (await request.read()).decode()
        if self.broken:
            self.broken -= 1
            return web.json_response({"code": 0x000B, "desc": "Unable to establish connection"})
        found = re.match(r"CREATE STABLE IF NOT EXISTS `([^`]+)` \(ts TIMESTAMP, ", sql)
        if found:
            self.tables.add(found[1])
            return web.json_response({"code": 0, "rows": 0})
        found = re.fullmatch(
            r"INSERT INTO `([^`]+)/(\w+)` USING `\1` TAGS \('\2'\) VALUES (\(.*\))", sql
        )
        if found is None:
            return web.json_response({"code": 0x2600, "desc": "syntax error near ..."})
        if found[1] not in self.tables:
            return web.json_response({"code": 0x2603, "desc": "Table does not exist"})
        self.got.append(f"{found[2]} {found[3]}")
        return web.json_response({"code": 0, "rows": 1})


@pytest.fixture
async def tdengine() -> AsyncIterator[Tdengine]:
    peer = Tdengine()
    app = web.Application()
    app.router.add_post("/rest/sql/plant", peer.take)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    peer.port = runner.addresses[0][1]
    yield peer
    await runner.cleanup()


async def test_values_go_to_tdengine_by_rest(
    cloud: FakeCloud, node: Node, tdengine: Tdengine
) -> None:
    tdengine.broken = 1
    lamp = a_lamp("TDEngine", addr=f"127.0.0.1:{tdengine.port}", dbName="plant")
    await cloud.push("device", "lamp", lamp)
    await until(lambda: pushed(node, "TDEngine", "ok") == 2)
    assert pushed(node, "TDEngine", "again") == 1
    assert tdengine.tables == {"default/lamp"}
    assert tdengine.logins == {f"root:{PASSWORD}"}
    ours = r"\('20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z', 'default/lamp', "
    brightness, on = sorted(tdengine.got)
    assert re.fullmatch(rf"brightness {ours}'brightness', '100', 'int'\)", brightness)
    assert re.fullmatch(rf"on {ours}'on', 'false', 'boolean'\)", on)
    tdengine.tables.clear()  # somebody has dropped it
    lamp = a_lamp("TDEngine", "40", addr=f"127.0.0.1:{tdengine.port}", dbName="plant")
    await cloud.push("device", "lamp", lamp, Operation.UPDATE)
    await until(lambda: pushed(node, "TDEngine", "ok") == 3)
    assert "'40'" in tdengine.got[-1]


@pytest.mark.parametrize("text", ["it's", 'a"b', "a\\", "a\nb", "`"])
def test_a_text_that_could_end_its_quotes_never_reaches_sql(text: str) -> None:
    with pytest.raises(Rejected, match="not put into SQL"):
        insert_text([a_sample(text)])


def test_names_of_kubernetes_are_table_names_of_tdengine() -> None:
    sample = a_sample("5", "t-1", DeviceKey("plant-a", "pump.7"))
    assert insert_text([sample]) == (
        "INSERT INTO `plant_a/pump_7/t_1` USING `plant_a/pump_7` TAGS ('t-1')"
        " VALUES ('2026-11-22T20:00:00.123Z', 'plant-a/pump.7', 't-1', '5', 'string')"
    )


# --- configurations --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "client", "said"),
    [
        ("redis", {}, "addr: expected host:port"),
        ("redis", {"addr": "h", "db": -1}, "db: expected"),
        ("redis", {"addr": "redis.plant:6379"}, "the password would go to redis.plant"),
        ("mysql", {"addr": "h:3306", "database": "a`b"}, "database: expected"),
        ("mysql", {"addr": "db.plant", "database": "p"}, "the password would go to db.plant"),
        ("mysql", {"addr": "h:x", "database": "p"}, "addr: "),
        ("TDEngine", {"addr": "h", "dbName": "p;q"}, "dbName: expected"),
        ("TDEngine", {"addr": "http://h", "dbName": "p"}, "the password would go to h"),
    ],
)
def test_a_database_that_cannot_be_pushed_to_is_said(
    method: str, client: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PASSWORD", PASSWORD)
    makers = {"redis": RedisServers().make, "mysql": MysqlServers().make}
    make = makers.get(method, make_tdengine)
    with pytest.raises(Rejected, match=said):
        make({f"{method}ClientConfig": client})


def test_an_address_may_say_that_it_is_secure() -> None:
    address = read_address("addr", "tls://db.plant:1234", 1)
    assert (address.host, address.port, address.is_secure) == ("db.plant", 1234, True)
