"""Who may use the internal services and from where: permissions, certificates, the Unix socket, credit."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from proton import Message, SSLDomain

from gateway.config.internal import Internal
from gateway.errors import InvalidSetting
from gateway.hono.downstream import Messaging
from gateway.hono.service_assembly import make_users, tls_for
from gateway.hono.service_authorities import Authorities, parse_permissions, read_permissions
from gateway.hono.service_commands import CommandReceivers
from gateway.hono.service_routes import GONE_SECONDS, Routes
from gateway.hono.service_tokens import signing_key
from gateway.model.json import Json
from gateway.model.message import Command, Kind
from gateway.observe.metrics import Metrics
from gateway.runtime.listener import PortTaken
from gateway.store.memory_events import MemoryEvents
from tests.device_pki import Holder, issue, private_pem
from tests.hono_rig import a_core, a_fleet, until
from tests.integration.proton_peer import Peer
from tests.services_rig import Client, the_services

INSTANCE = "hono-mqtt-7"


# --- permissions ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("claim", "address", "is_allowed"),
    [
        ("r:telemetry/*", "telemetry/acme", True),
        ("r:telemetry/acme", "telemetry/acme", True),
        ("r:telemetry/other", "telemetry/acme", False),
        ("r:telemetry", "telemetry/acme", True),
        ("r:event/*", "telemetry/acme", False),
        ("r:*", "telemetry/acme", True),
        ("r:command_response/acme", "command_response/acme/one/two", True),
        ("r:command_response/acme/one", "command_response/acme/one/two", False),
        ("r:tenant", "tenant/reply", True),
        ("r:tenant/*", "tenant", True),
    ],
)
def test_a_right_to_a_resource(claim: str, address: str, is_allowed: bool) -> None:
    assert Authorities({claim: "W"}).may("W", address) is is_allowed
    assert not Authorities({claim: "R"}).may("W", address)
    assert Authorities({claim: "*"}).may("W", address) is is_allowed


@pytest.mark.parametrize(
    ("claim", "is_allowed"),
    [
        ("o:registration/*:assert", True),
        ("o:registration/acme:assert", True),
        ("o:registration/*:*", True),
        ("o:*:*", True),
        ("o:registration/*:get", False),
        ("o:registration/other:assert", False),
        ("r:registration/*", False),
    ],
)
def test_a_right_to_an_operation(claim: str, is_allowed: bool) -> None:
    authorities = Authorities({claim: "E"})
    assert authorities.may_execute("assert", "registration/acme") is is_allowed
    assert not Authorities({claim: "R"}).may_execute("assert", "registration/acme")


def test_rights_of_several_roles_add_up(tmp_path: Path) -> None:
    file = tmp_path / "permissions.json"
    document = {
        "roles": {
            "reader": [{"resource": "event/*", "activities": ["READ"]}],
            "writer": [{"resource": "event/*", "activities": ["WRITE"]}],
            "caller": [{"operation": "tenant:get", "activities": ["EXECUTE"]}],
        },
        "users": {
            "one": {
                "mechanism": "PLAIN",
                "password": "secret",
                "authorities": ["reader", "writer", "caller"],
            },
            "cn=One, o=Acme": {"mechanism": "EXTERNAL", "authorities": []},
        },
    }
    file.write_text(json.dumps(document))
    users = read_permissions(str(file), "hono.internal.permissions")
    assert users["one"].authorities.claims == {"r:event/*": "RW", "o:tenant:get": "E"}
    assert users["one"].has_password(b"secret")
    assert not users["one"].has_password(b"")
    assert not users["CN=One,O=Acme"].has_password(b"")


@pytest.mark.parametrize(
    ("document", "where"),
    [
        ([], "permissions"),
        ({"roles": {"r": {}}}, "roles.r"),
        ({"roles": {"r": [{"activities": ["READ"]}]}}, "roles.r[0]"),
        ({"roles": {"r": [{"resource": "x", "activities": ["FLY"]}]}}, "activities"),
        ({"roles": {"r": [{"operation": "x", "activities": ["EXECUTE"]}]}}, "roles.r[0]"),
        ({"users": {"u": {"mechanism": "MAGIC"}}}, "mechanism"),
        ({"users": {"u": {"mechanism": "PLAIN"}}}, "password"),
        ({"users": {"u": {"mechanism": "EXTERNAL", "authorities": ["x"]}}}, "no role"),
    ],
)
def test_a_permissions_file_that_is_none_says_where(
    tmp_path: Path, document: Any, where: str
) -> None:
    file = tmp_path / "permissions.json"
    file.write_text(json.dumps(document))
    with pytest.raises(InvalidSetting, match=r"hono\.internal\.permissions") as caught:
        read_permissions(str(file), "hono.internal.permissions")
    assert where in caught.value.message


def test_outside_of_a_demonstration_a_permissions_file_is_needed() -> None:
    with pytest.raises(InvalidSetting, match=r"hono\.internal\.permissions"):
        make_users(Internal(enabled=True), None)
    assert make_users(Internal(enabled=False, socket="s"), None) == {}
    assert "mqtt-adapter@HONO" in make_users(Internal(enabled=True), {})


@pytest.mark.parametrize("name", ["signing_key", "shared_secret"])
def test_a_key_that_is_none_is_a_bad_setting(tmp_path: Path, name: str) -> None:
    file = tmp_path / "key"
    for text in (None, "too short"):
        if text is not None:
            file.write_text(text)
        files = (str(file), "") if name == "signing_key" else ("", str(file))
        with pytest.raises(InvalidSetting, match=name):
            signing_key(*files)


# --- certificates ----------------------------------------------------------------------------------------


async def test_a_component_logs_in_with_its_certificate(tmp_path: Path) -> None:
    authority = issue("CN=Components", extensions=((x509.BasicConstraints(True, None), True),))
    (tmp_path / "ca.pem").write_bytes(authority.certificate.public_bytes(Encoding.PEM))
    server = issue("CN=localhost", authority)
    certificate, key = tmp_path / "server.crt", tmp_path / "server.key"
    certificate.write_bytes(server.certificate.public_bytes(Encoding.PEM))
    key.write_bytes(private_pem(server.key))
    rights: list[Json] = [{"resource": "tenant", "activities": ["READ", "WRITE"]}]
    users = parse_permissions(
        {
            "roles": {"r": [*rights, {"operation": "tenant:*", "activities": ["EXECUTE"]}]},
            "users": {"CN=mqtt,O=Hono": {"mechanism": "EXTERNAL", "authorities": ["r"]}},
        }
    )
    settings = Internal(enabled=True, client_ca=str(tmp_path / "ca.pem"))
    context = tls_for(settings, (certificate, key))

    def peer(address: str, holder: Holder, **more: Any) -> Peer:
        device = str(holder.save(tmp_path, "component"))
        domain = SSLDomain(SSLDomain.MODE_CLIENT)
        domain.set_credentials(device, device, None)
        domain.set_peer_authentication(SSLDomain.ANONYMOUS_PEER)
        return Peer(f"amqps://{address}", ssl_domain=domain, **more)

    async with a_core() as core, the_services(core, users=users, tls_context=context):
        await a_fleet(core)
        address = core.endpoints.get("hono.internals")
        async with peer(address, issue("CN=mqtt,O=Hono", authority), mechs="EXTERNAL") as known:
            answer = await Client(known, "tenant").ask("get", {"tenant-id": "acme"})
            assert answer.status == 200
        async with peer(address, issue("CN=other,O=Hono", authority), mechs="EXTERNAL") as other:
            assert (await other.expect("failed"))[1] == "amqp:unauthorized-access"
        async with peer(address, issue("CN=mqtt,O=Hono"), mechs="EXTERNAL") as stranger:
            await stranger.expect("failed")


def test_an_authority_that_is_none_is_a_bad_setting(tmp_path: Path) -> None:
    server = issue("CN=localhost").save(tmp_path, "server")
    settings = Internal(enabled=True, client_ca=str(tmp_path / "nothing"))
    with pytest.raises(InvalidSetting, match="client_ca"):
        tls_for(settings, (server, server))
    assert tls_for(Internal(), (server, server)) is None
    assert isinstance(tls_for(Internal(enabled=True), (server, server)), ssl.SSLContext)


# --- the Unix socket -------------------------------------------------------------------------------------


@asynccontextmanager
async def reached_by_tcp(path: Path) -> AsyncIterator[str]:
    """A port that leads to a Unix socket, for clients that know TCP only."""

    async def copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_unix_connection(path)
        await asyncio.gather(copy(reader, back), copy(there, writer))

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        host, port = server.sockets[0].getsockname()
        yield f"{host}:{port}"


async def test_the_same_user_needs_no_password_at_the_socket(tmp_path: Path) -> None:
    path = tmp_path / "services.sock"
    async with a_core() as core, the_services(core, enabled=False, socket=str(path)) as running:
        await a_fleet(core)
        assert path.stat().st_mode & 0o777 == 0o600
        assert "hono.internal" not in core.endpoints
        async with reached_by_tcp(path) as address:
            async with running.peer(url=f"amqp://{address}", mechs="ANONYMOUS") as neighbour:
                answer = await Client(neighbour, "tenant").ask("get", {"tenant-id": "acme"})
                assert answer.status == 200
            async with running.peer(url=f"amqp://nobody:x@{address}") as stranger:
                assert (await stranger.expect("failed"))[1] == "amqp:unauthorized-access"
    assert not path.exists()


async def test_a_socket_that_a_crash_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "services.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    async with a_core() as core, the_services(core, enabled=False, socket=str(path)):
        _, writer = await asyncio.open_unix_connection(path)
        writer.close()


async def test_a_socket_that_somebody_listens_at_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "services.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        with pytest.RaisesGroup(PortTaken, flatten_subgroups=True):
            async with a_core() as core, the_services(core, enabled=False, socket=str(path)):
                pass
    assert path.exists()


async def test_a_file_in_the_socket_s_place_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "services.sock"
    path.write_text("mine")
    with pytest.RaisesGroup(InvalidSetting, flatten_subgroups=True):
        async with a_core() as core, the_services(core, enabled=False, socket=str(path)):
            pass
    assert path.read_text() == "mine"


# --- credit ------------------------------------------------------------------------------------------------


async def test_telemetry_has_credit_once_somebody_is_there_for_it() -> None:
    class Taker:
        credit = 10

        def send(self, message: Any, outcome: Any) -> None:
            outcome(None)

        def send_event(self, event: Any, outcome: Any) -> None:
            raise AssertionError("no events here")

        def send_encoded(self, *_given: Any) -> None:
            raise AssertionError("nothing was encoded before")

    async with a_core() as core:
        await a_fleet(core)
        messaging = Messaging(MemoryEvents(), Metrics())
        async with (
            the_services(core, messaging) as running,
            running.peer() as peer,
            running.peer() as probe,
        ):
            message = Message(address="telemetry/acme", properties={"device_id": "d1"}, body=b"x")
            message.inferred = True
            peer.send("telemetry/acme", message, "1")
            await peer.expect("attached")
            answer = await Client(probe, "tenant").ask("get", {"tenant-id": "acme"})
            assert answer.status == 200
            assert all(entry[0] != "outcome" for entry in list(peer.log.queue))
            leave = messaging.add_consumer("acme", Kind.TELEMETRY, Taker())
            assert (await peer.expect("outcome"))[2] == "accepted"
            leave()
            peer.send("telemetry/acme", message, "2")
            assert (await peer.expect("outcome"))[2] == "released"


# --- registrations over restarts ---------------------------------------------------------------------------


async def test_registrations_outlive_a_restart() -> None:
    async with a_core() as core:
        await a_fleet(core)

        async def register(peer: Peer, device: str, lifespan: int) -> None:
            given = {
                "device_id": device,
                "adapter_instance_id": INSTANCE,
                "lifespan": lifespan,
            }
            client = Client(peer, "cmd_router/acme")
            assert (await client.ask("register-command-consumer", properties=given)).status == 204

        async with the_services(core) as first, first.peer() as peer:
            await register(peer, "d1", -1)
            await register(peer, "d2", 3_600)
            await register(peer, "gw-1", 60)
        async with the_services(core) as second, second.peer() as peer:
            assert len(second.module.rooms.routes) == 2
            peer.receive_from(f"command_internal/{INSTANCE}")
            await peer.expect("attached")
            outcome: list[Any] = []
            command = Command(tenant="acme", device="d1", name="do", payload=b"x")
            core.commands.route(command, outcome.append)
            await until(lambda: bool(outcome))
            assert outcome == [None]
            gone = {"device_id": "d1", "adapter_instance_id": INSTANCE}
            client = Client(peer, "cmd_router/acme")
            answer = await client.ask("unregister-command-consumer", properties=gone)
            assert answer.status == 204
        async with the_services(core) as third:
            assert len(third.module.rooms.routes) == 1


async def test_registrations_of_an_instance_that_is_gone_for_long_go() -> None:
    async with a_core() as core:
        routes = Routes(core.commands, CommandReceivers(), core.registry._database)
        routes.set("acme", "d1", INSTANCE, -1)
        routes.sweep(0.0)
        routes.sweep(GONE_SECONDS - 1)
        assert len(routes) == 1
        routes.sweep(GONE_SECONDS)
        assert len(routes) == 0
