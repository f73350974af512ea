"""The request/response services as Hono's client uses them, and their rules for links and requests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from proton import Message
from proton.reactor import AtLeastOnce, AtMostOnce

from gateway.model.json import JsonObject
from tests.hono_rig import a_core, a_fleet
from tests.integration.proton_peer import Peer, until
from tests.services_rig import Client, Services, the_services


@pytest.fixture
async def services() -> AsyncIterator[Services]:
    async with a_core() as core:
        await a_fleet(core)
        async with the_services(core) as running:
            yield running


@pytest.fixture
async def adapter(services: Services) -> AsyncIterator[Peer]:
    async with services.peer() as peer:
        yield peer


async def test_an_adapter_reads_a_tenant_by_id(services: Services, adapter: Peer) -> None:
    answer = await Client(adapter, "tenant").ask("get", {"tenant-id": "acme"})
    assert (answer.status, answer.body) == (200, {"tenant-id": "acme", "enabled": True})
    assert answer.cache_control == "max-age = 180"
    assert answer.received.properties["tenant_id"] == "acme"
    assert answer.received.address == "tenant/acme"
    sample = services.core.sample(
        "twinspan_service_requests_total", endpoint="tenant", operation="get", status="200"
    )
    assert sample == 1


async def test_a_tenant_that_is_not_there_is_404_in_plain_text(adapter: Peer) -> None:
    answer = await Client(adapter, "tenant").ask("get", {"tenant-id": "nobody"})
    assert answer.status == 404
    assert answer.received.content_type == "text/plain"
    assert set(answer.received.properties) == {"status"}


async def test_a_registration_is_asserted_for_device_and_gateway(adapter: Peer) -> None:
    client = Client(adapter, "registration/acme")
    direct = await client.ask("assert", properties={"device_id": "d1"})
    assert (direct.status, direct.body) == (200, {"device-id": "d1"})
    behind = await client.ask("assert", properties={"device_id": "d2", "gateway_id": "gw-1"})
    assert behind.body == {"device-id": "d2", "via": ["gw-1"]}
    assert behind.received.address == "registration/acme/d2"
    wrong = await client.ask("assert", properties={"device_id": "d2", "gateway_id": "d1"})
    assert wrong.status == 403
    nobody = await client.ask("assert", properties={"device_id": "d9"})
    assert nobody.status == 404
    nothing = await client.ask("assert")
    assert nothing.status == 400


async def test_passwords_are_given_hashed_and_may_be_cached(adapter: Peer) -> None:
    client = Client(adapter, "credentials/acme")
    answer = await client.ask("get", {"type": "hashed-password", "auth-id": "sensor1"})
    body = answer.body
    assert (answer.status, body["device-id"], body["enabled"]) == (200, "d1", True)
    (secret,) = body["secrets"]
    assert secret["hash-function"] == "bcrypt"
    assert secret["pwd-hash"].startswith("$2a$")
    assert answer.cache_control == "max-age = 180"
    other = await client.ask("get", {"type": "hashed-password", "auth-id": "sensor9"})
    assert other.status == 404


async def test_keys_are_given_and_must_not_be_cached(services: Services, adapter: Peer) -> None:
    key: JsonObject = {"type": "psk", "auth-id": "sensor1", "secrets": [{"key": "c2VjcmV0"}]}
    await services.core.registry.update_credentials("acme", "d1", [key], None)
    answer = await Client(adapter, "credentials/acme").ask(
        "get", {k: key[k] for k in ("type", "auth-id")}
    )
    assert answer.body["secrets"] == [{"key": "c2VjcmV0"}]
    assert answer.cache_control == "no-cache"


async def test_the_context_of_a_login_must_fit_the_credentials(
    services: Services, adapter: Peer
) -> None:
    wanted: JsonObject = {
        "type": "hashed-password",
        "auth-id": "sensor1",
        "ext": {"client-id": "one"},
        "secrets": [{"pwd-plain": "pw"}],
    }
    await services.core.registry.update_credentials("acme", "d1", [wanted], None)
    client = Client(adapter, "credentials/acme")
    query = {"type": "hashed-password", "auth-id": "sensor1"}
    assert (await client.ask("get", {**query, "client-id": "one", "else": 5})).status == 200
    assert (await client.ask("get", {**query, "client-id": "two"})).status == 404
    assert (await client.ask("get", query)).status == 200


async def test_unknown_operations_and_bodies_that_are_no_json_are_400(adapter: Peer) -> None:
    client = Client(adapter, "tenant")
    assert (await client.ask("get", [1])).status == 400
    assert (await client.ask("get", {})).status == 400
    router = Client(adapter, "cmd_router/acme")
    assert (await router.ask("dance")).status == 400


@pytest.mark.parametrize(
    "body", [b'"\xff"', b"[" * 60_000, b"\xff\xfe", b'{"tenant-id":"\\ud800"}', b"NaN", b"{"]
)
async def test_a_hostile_body_is_400_and_the_connection_goes_on(adapter: Peer, body: bytes) -> None:
    client = Client(adapter, "tenant")
    message = client.request("get")
    message.body = body
    client.listen()
    client.is_listening = True
    await adapter.expect("attached")
    adapter.send(client.address, message, "1")
    _, _, received = await adapter.expect("message")
    assert received.properties["status"] == 400
    assert (await client.ask("get", {"tenant-id": "acme"})).status == 200


async def test_an_operation_without_the_right_is_403(services: Services) -> None:
    async with services.peer() as peer:
        answer = await Client(peer, "tenant").ask("update", {"tenant-id": "acme"})
        assert answer.status == 403


@pytest.mark.parametrize("missing", ["subject", "id", "reply_to"])
async def test_a_malformed_request_is_rejected(adapter: Peer, missing: str) -> None:
    client = Client(adapter, "registration/acme")
    message = client.request("assert", properties={"device_id": "d1"})
    setattr(message, missing, None)
    adapter.send(client.address, message, "1")
    outcome = await adapter.expect("outcome")
    assert outcome[2:] == ("rejected", "hono:bad-request", "malformed request message")


@pytest.mark.parametrize(
    "reply_to", ["registration/other/1", "registration/acme", "tenant/1", "registration/acme/"]
)
async def test_a_reply_address_of_another_service_is_rejected(adapter: Peer, reply_to: str) -> None:
    message = Client(adapter, "registration/acme").request("assert")
    message.reply_to = reply_to
    adapter.send("registration/acme", message, "1")
    assert (await adapter.expect("outcome"))[2] == "rejected"


async def test_a_request_without_a_receiver_of_answers_is_accepted_and_not_answered(
    services: Services, adapter: Peer
) -> None:
    client = Client(adapter, "registration/acme")
    for number in range(250):  # more than the credit of a link: it comes back
        message = client.request("assert", properties={"device_id": "d1"})
        adapter.send(client.address, message, str(number))
        assert (await adapter.expect("outcome"))[2] == "accepted"


async def test_an_answer_goes_by_the_correlation_id_where_there_is_one(adapter: Peer) -> None:
    client = Client(adapter, "tenant")
    message = client.request("get", {"tenant-id": "acme"})
    message.correlation_id = "mine"
    client.listen()
    await adapter.expect("attached")
    adapter.send(client.address, message, "1")
    _, _, received = await adapter.expect("message")
    assert received.correlation_id == "mine"


async def test_two_connections_cannot_share_a_reply_address(
    services: Services, adapter: Peer
) -> None:
    adapter.receive_from("tenant/shared")
    await adapter.expect("attached")
    async with services.peer() as other:
        other.receive_from("tenant/shared")
        assert (await other.expect("link-error"))[2] == "amqp:illegal-state"
    client = Client(adapter, "tenant", "shared")
    client.is_listening = True
    answer = await client.ask("get", {"tenant-id": "acme"})
    assert answer.status == 200


async def test_an_answer_goes_to_no_other_connection(services: Services, adapter: Peer) -> None:
    adapter.receive_from("tenant/mine")
    await adapter.expect("attached")
    async with services.peer() as other:
        message = Client(other, "tenant", "mine").request("get", {"tenant-id": "acme"})
        other.send("tenant", message, "1")
        assert (await other.expect("outcome"))[2] == "accepted"
    answer = await Client(adapter, "tenant", "own").ask("get", {"tenant-id": "acme"})
    assert answer.status == 200
    assert adapter.log.empty() or all(entry[0] != "message" for entry in list(adapter.log.queue))


@pytest.mark.parametrize(
    ("address", "condition"),
    [
        ("registration/acme", "amqp:invalid-field"),
        ("tenant", "amqp:invalid-field"),
        ("nothing/acme/1", "amqp:not-found"),
        ("notification/else", "amqp:not-found"),
        ("telemetry/acme", "amqp:not-found"),
    ],
)
async def test_a_source_that_is_none_is_refused(
    adapter: Peer, address: str, condition: str
) -> None:
    adapter.receive_from(address)
    assert (await adapter.expect("link-error"))[2] == condition


@pytest.mark.parametrize(
    ("address", "condition"),
    [
        (None, "amqp:not-allowed"),
        ("cbs", "amqp:not-allowed"),
        ("registration", "amqp:not-found"),
        ("registration/acme/1", "amqp:not-found"),
        ("tenant/acme", "amqp:not-found"),
        ("command/acme", "amqp:not-found"),
    ],
)
async def test_a_target_that_is_none_is_refused(
    adapter: Peer, address: str | None, condition: str
) -> None:
    adapter.send(address, Message(body=b""), "1")
    assert (await adapter.expect("link-error"))[2] == condition


async def test_requests_must_be_sent_at_least_once(adapter: Peer) -> None:
    def attach() -> None:
        adapter._container.create_sender(
            adapter._connection, "tenant", name="once", options=AtMostOnce()
        )

    adapter.do(attach)
    assert (await adapter.expect("link-error"))[2] == "amqp:precondition-failed"


async def test_a_user_without_the_right_gets_no_link(services: Services) -> None:
    async with services.peer("consumer%40HONO:verysecret") as peer:
        peer.send("registration/acme", Message(body=b""), "1")
        assert (await peer.expect("link-error"))[2] == "amqp:unauthorized-access"
        peer.receive_from("tenant/1", options=AtLeastOnce())
        assert (await peer.expect("link-error"))[2] == "amqp:unauthorized-access"


@pytest.mark.parametrize("who", ["http-adapter%40HONO:wrong", "nobody:secret", "x:"])
async def test_a_wrong_password_ends_at_the_login(services: Services, who: str) -> None:
    async with services.peer(who) as peer:
        failed = await peer.expect("failed")
        assert failed[1] == "amqp:unauthorized-access"


async def test_connections_above_the_limit_are_told_so() -> None:
    async with a_core() as core, the_services(core, max_connections=1) as running:
        async with running.peer() as first:
            await first.expect("opened")
            async with running.peer() as second:
                assert (await second.expect("closed"))[1] == "amqp:resource-limit-exceeded"
        await until(lambda: core.sample("twinspan_service_connections") == 0)


async def test_the_endpoint_says_goodbye_when_it_stops() -> None:
    async with a_core() as core:
        async with the_services(core) as running:
            peer = running.peer()
            await peer.__aenter__()
            await peer.expect("opened")
        condition = await until(lambda: peer._connection.remote_condition)
        assert condition.name == "amqp:connection:forced"
        await peer.__aexit__()
