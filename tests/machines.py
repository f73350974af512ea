"""Machines of every protocol in one process, as the documents have them: `python -m tests.machines FOLDER`.

It prints one line of JSON, protocol name -> port, and works until its standard input ends.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sys
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import aiocoap
from aiocoap import resource
from aiohttp import web
from asyncua import ua
from asyncua.crypto.permission_rules import SimpleRoleRuleset, User, UserRole
from asyncua.server.server import Server
from asyncua.server.user_managers import UserManager
from pymodbus.server import ModbusTcpServer
from pymodbus.simulator import DataType, SimData, SimDevice

from edge.mappers.configdata import ConfigData
from edge.mappers.opcua.addresses import server_of
from edge.mappers.opcua.certificates import Certificates
from tests.ports import free_port

PASSWORD = "pump-password"


async def meter(up: AsyncExitStack) -> int:
    """A Modbus meter of 230.5 V."""
    unit = SimDevice(
        1,
        (
            [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
            [SimData(0, values=[False] * 16, datatype=DataType.BITS)],
            [SimData(0, values=[0] * 20, datatype=DataType.REGISTERS)],
            [SimData(0, values=[0x4366, 0x8000], datatype=DataType.REGISTERS)],
        ),
    )
    server = ModbusTcpServer([unit], address=("127.0.0.1", 0))
    await server.serve_forever(background=True)
    up.push_async_callback(server.shutdown)
    listening: Any = server.transport
    port: int = listening.sockets[0].getsockname()[1]
    return port


class OneUser(UserManager):
    """Lets `edge` in."""

    def get_user(
        self, iserver: Any, username: Any = None, password: Any = None, certificate: Any = None
    ) -> User | None:
        is_ours = (username, password) == ("edge", PASSWORD)
        return User(role=UserRole.Admin) if is_ours else None


async def pump(up: AsyncExitStack, folder: Path) -> int:
    """An OPC UA pump that speaks signed and encrypted only."""
    server = Server(user_manager=OneUser())
    await server.init()
    server.set_endpoint("opc.tcp://127.0.0.1:0/plant")
    nothing = server_of(ConfigData("c", {"url": "opc.tcp://127.0.0.1:1/"}), "")
    made = Certificates(folder).own(nothing)
    await server.load_certificate(str(made.certificate))
    await server.load_private_key(str(made.private_key))
    await server.set_application_uri(made.application_uri)
    rules = SimpleRoleRuleset()  # type: ignore[no-untyped-call]
    policies = [ua.SecurityPolicyType.Basic256Sha256_SignAndEncrypt]
    server.set_security_policy(policies, permission_ruleset=rules)
    at = ua.Int16(await server.register_namespace("urn:acme:pumps"))
    for name, value, kind in (
        ("Temp", 61.5, ua.VariantType.Double),
        ("Speed", 900, ua.VariantType.Int16),
    ):
        node_id = ua.NodeId(ua.String(f"Pump.{name}"), at)
        node = await server.nodes.objects.add_variable(
            node_id, ua.QualifiedName(name, at), value, kind
        )
        await node.set_writable()
    await up.enter_async_context(server)
    listening: Any = server.bserver
    port: int = listening._server.sockets[0].getsockname()[1]
    return port


async def plug(up: AsyncExitStack) -> int:
    """An HTTP plug; EdgeX's core-command is at the same port."""
    state = {"on": False}

    async def handle(request: web.Request) -> web.Response:
        if request.path == "/relay/0":
            state["on"] = (await request.json())["on"]
        document = {"meters": [{"power": 12.5}], "relays": [{"ison": state["on"]}]}
        return web.json_response(document)

    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", handle)
    runner = web.AppRunner(app)
    await runner.setup()
    up.push_async_callback(runner.cleanup)
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    port: int = runner.addresses[0][1]
    return port


class Flow(resource.ObservableResource):  # type: ignore[misc]
    """What flows follows the valve's position."""

    litres = b"0.5"

    async def render_get(self, _request: Any) -> aiocoap.Message:
        return aiocoap.Message(payload=self.litres)


class Position(resource.Resource):  # type: ignore[misc]
    """The position of the valve, to be written."""

    def __init__(self, flow: Flow) -> None:
        super().__init__()
        self.flow, self.value = flow, b"10"

    async def render_put(self, request: Any) -> aiocoap.Message:
        self.value = request.payload
        self.flow.litres = b"%.1f" % (int(self.value) / 20)
        self.flow.updated_state()
        return aiocoap.Message(code=aiocoap.CHANGED)


class State(resource.Resource):  # type: ignore[misc]
    """All of it as JSON."""

    def __init__(self, position: Position) -> None:
        super().__init__()
        self.position = position

    async def render_get(self, _request: Any) -> aiocoap.Message:
        document = {"position": int(self.position.value)}
        message = aiocoap.Message(payload=json.dumps(document).encode())
        message.opt.content_format = 50
        return message


async def valve(up: AsyncExitStack) -> int:
    """A CoAP valve."""
    port = free_port()
    flow = Flow()
    position = Position(flow)
    site = resource.Site()
    site.add_resource(["flow"], flow)
    site.add_resource(["position"], position)
    site.add_resource(["state"], State(position))
    context = await aiocoap.Context.create_server_context(
        site, bind=("127.0.0.1", port), transports=["simplesocketserver"]
    )
    up.push_async_callback(context.shutdown)
    return port


async def main(folder: Path) -> None:
    logging.disable(logging.WARNING)
    async with AsyncExitStack() as up:
        ports = {
            "modbus": await meter(up),
            "opcua": await pump(up, folder),
            "http": await plug(up),
            "coap": await valve(up),
        }
        print(json.dumps(ports), flush=True)  # noqa: T201  for whoever started it
        await asyncio.to_thread(sys.stdin.read)


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
