"""Receivers with a dynamic source: proton applications that let the gateway name their reply address."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from proton import Delivery, Link, Message, symbol
from proton.reactor import DynamicNodeProperties, LinkOption
from proton.utils import BlockingConnection, LinkDetached, SendException

from gateway.errors import GatewayError, NoConsumer
from gateway.model.message import CommandResponse
from tests.integration.northbound_rig import AT, Rig, a_northbound
from tests.integration.proton_peer import until


class Application:
    """A blocking proton application; its calls run in threads."""

    def __init__(self, url: str) -> None:
        self.connection = BlockingConnection(url, timeout=10, allowed_mechs="PLAIN")

    def listen(self, *options: LinkOption) -> Any:
        return self.connection.create_receiver(None, credit=5, dynamic=True, options=list(options))

    def command(self, tenant: str, reply_to: str, sender: str | None) -> None:
        message = Message(
            address=f"command/{tenant}/4711",
            subject="ask",
            reply_to=reply_to,
            correlation_id="c-1",
            body=b"?",
        )
        message.inferred = True
        self.connection.create_sender(sender).send(message)


async def an_application(rig: Rig, **user: str) -> Application:
    return await asyncio.to_thread(Application, rig.url(**user))


def a_response(tenant: str, reply_id: str) -> CommandResponse:
    return CommandResponse(
        tenant=tenant,
        device="4711",
        reply_id=reply_id,
        correlation_id="c-1",
        status=200,
        payload=b"!",
        at=AT,
        trace=None,
    )


async def respond(rig: Rig, response: CommandResponse) -> GatewayError | None:
    answer: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
    rig.northbound.take(response, answer.set_result)
    async with asyncio.timeout(30):
        return await answer


@pytest.mark.parametrize("sender", ["command/acme", None])
async def test_a_dynamic_source_gets_a_name_that_works_as_reply_to(sender: str | None) -> None:
    async with a_northbound(patience=20.0) as rig:
        app = await an_application(rig)
        receiver = await asyncio.to_thread(app.listen)
        name = receiver.link.remote_source.address
        assert name
        assert receiver.link.remote_source.dynamic
        await asyncio.to_thread(app.command, "acme", name, sender)
        (command,) = rig.routing.commands
        assert command.reply_to == f"command_response/acme/{name}"
        assert rig.northbound.owns("acme", name)
        waiting = asyncio.ensure_future(respond(rig, a_response("acme", name)))
        message = await asyncio.to_thread(receiver.receive, 10)
        assert (message.correlation_id, bytes(message.body)) == ("c-1", b"!")
        await asyncio.to_thread(receiver.accept)
        await asyncio.to_thread(app.connection.close)  # proton writes when it is called, not before
        assert await waiting is None


async def test_every_dynamic_source_has_a_name_of_its_own_that_goes_with_its_link() -> None:
    async with a_northbound() as rig:
        app = await an_application(rig)
        links = [await asyncio.to_thread(app.listen) for _ in range(5)]
        names = [link.link.remote_source.address for link in links]
        assert len(set(names)) == 5
        await asyncio.to_thread(links[0].close)
        await until(lambda: not rig.northbound.owns("acme", names[0]))
        assert isinstance(await respond(rig, a_response("acme", names[0])), NoConsumer)
        assert rig.northbound.owns("acme", names[1])
        await asyncio.to_thread(app.connection.close)
        await until(lambda: not rig.northbound.nodes)


async def test_a_name_serves_all_tenants_of_its_user_and_no_other() -> None:
    async with a_northbound() as rig:
        app = await an_application(rig, user="ann", password="secret")
        receiver = await asyncio.to_thread(app.listen)
        name = receiver.link.remote_source.address
        assert rig.northbound.owns("acme", name)
        assert not rig.northbound.owns("other", name)
        assert isinstance(await respond(rig, a_response("other", name)), NoConsumer)
        await asyncio.to_thread(app.connection.close)


async def test_a_name_that_nobody_has_is_no_reply_to() -> None:
    async with a_northbound() as rig:
        app = await an_application(rig)
        receiver = await asyncio.to_thread(app.listen)
        name = receiver.link.remote_source.address
        await asyncio.to_thread(receiver.close)
        await until(lambda: not rig.northbound.nodes)
        with pytest.raises(SendException) as refused:
            await asyncio.to_thread(app.command, "acme", name, None)
        assert refused.value.state == Delivery.REJECTED
        assert rig.routing.commands == []
        await asyncio.to_thread(app.connection.close)


async def test_properties_asked_of_the_node_are_not_claimed() -> None:
    async with a_northbound() as rig:
        app = await an_application(rig)
        wish = DynamicNodeProperties({symbol("supported-dist-modes"): symbol("copy")})
        receiver = await asyncio.to_thread(app.listen, wish)
        given = receiver.link.remote_source
        assert given.address
        assert given.properties.get_object() is None
        await asyncio.to_thread(app.connection.close)


class DynamicTarget(LinkOption):
    """A sender that wants a node made for it."""

    def apply(self, link: Link) -> None:
        link.target.dynamic = True


async def test_a_dynamic_target_is_refused_in_words() -> None:
    async with a_northbound() as rig:
        app = await an_application(rig)
        with pytest.raises(LinkDetached, match="dynamic targets"):
            await asyncio.to_thread(
                lambda: app.connection.create_sender(None, options=DynamicTarget())
            )
        await asyncio.to_thread(app.connection.close)
