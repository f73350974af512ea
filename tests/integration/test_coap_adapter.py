"""The CoAP adapter: what devices send and get, what applications see, what is counted.

Peers: datagrams of our own, aiocoap, libcoap's coap-client. Devices that have proved who they are come in by
a peer of the test's own here, by DTLS in `test_coap_dtls.py`.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

import aiocoap
import pytest

from gateway.errors import (
    ConsumerTimeout,
    GatewayError,
    InvalidSetting,
    NoConsumer,
    NotProcessed,
    StoreUnavailable,
)
from gateway.hono.adapters.coap import CoapAdapter
from gateway.hono.adapters.coap_dtls import why_not
from gateway.model.json import JsonObject
from gateway.model.message import EMPTY_NOTIFICATION, Command, CommandResponse, Kind, Principal
from gateway.model.ports import Done
from gateway.runtime import dtls_library
from gateway.runtime.datagrams import receiving
from gateway.runtime.listener import PortTaken
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import ACK, CON, GET, NON, POST, PUT, Message
from tests.coap_rig import CLIENT, a_coap_adapter, a_device, a_request, coap_client
from tests.hono_rig import Core, a_core, a_fleet, until

CHANGED = 0x44
JSON = ((options.CONTENT_FORMAT, b"\x32"),)
D1 = Principal("acme", "d1", "sensor1", "psk")
GW = Principal("acme", "gw-1", "gw", "psk")


@pytest.fixture
async def core() -> AsyncIterator[Core]:
    async with a_core() as core:
        await a_fleet(core)
        await core.tenant("other")
        await core.device("other", "d9")
        core.registry.find_tenant("acme", lambda _: None)  # refusals are counted for known tenants
        await until(lambda: core.registry.cached_tenant("acme") is not None)
        yield core


@pytest.fixture
async def adapter(core: Core) -> AsyncIterator[CoapAdapter]:
    async with a_coap_adapter(core, tls="off") as adapter:
        yield adapter


@dataclass(eq=False)
class Proved:
    """A peer that has proved to be a device, as DTLS hands it on."""

    adapter: CoapAdapter
    principal: Principal | None
    is_proved: bool = True
    raw: list[bytes] = field(default_factory=list)
    mids: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def key(self) -> object:
        return self

    def send(self, datagram: bytes) -> None:
        self.raw.append(datagram)

    async def ask(self, path: str, payload: bytes = b"", **more: object) -> Message:
        seen = len(self.raw)
        request = a_request(path, payload, mid=next(self.mids), **more)  # type: ignore[arg-type]
        self.adapter.exchanges.received(self, codec.encode(request))
        await until(lambda: len(self.raw) > seen)
        return codec.decode(self.raw[seen])


def dotted(code: int) -> str:
    return f"{code >> 5}.{code & 31:02}"


# --- the table -------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Row:
    """What comes in, who sends it, how the consumer is -> what each side sees.

    Shape:  `metric` is (type, qos, status), None where nothing is counted; `seen` the device that the
            consumer sees, None for nothing.
    """

    path: str
    payload: bytes = b"x"
    kind: int = CON
    code: int = POST
    more: tuple[codec.Option, ...] = ()
    sender: Principal | None = D1
    consumer: GatewayError | None = None
    answer: str = "2.04"
    text: bytes | None = None
    metric: tuple[str, str, str] | None = ("telemetry", "1", "forwarded")
    seen: str | None = "d1"
    content_type: str = "application/octet-stream"


GONE = b"device is disabled or not registered"
FORWARDED_EVENT = ("event", "1", "forwarded")
REFUSED = ("telemetry", "1", "unprocessable")
LOST = ("telemetry", "1", "undeliverable")
UNREGISTERED = ((options.CONTENT_FORMAT, b"\xea\x60"),)

TABLE = {
    "telemetry": Row(path="telemetry"),
    "telemetry, short": Row(path="t"),
    "telemetry, at most once": Row(path="t", kind=NON, metric=("telemetry", "0", "forwarded")),
    "event": Row(path="event", metric=FORWARDED_EVENT),
    "event, short": Row(path="e", metric=FORWARDED_EVENT),
    "for itself by its address": Row(path="t/acme/d1", code=PUT),
    "through a gateway": Row(path="t/acme/d2", code=PUT, sender=GW, seen="d2"),
    "through a gateway, no tenant": Row(path="t//d2", code=PUT, sender=GW, seen="d2"),
    "without login": Row(path="t/acme/d1", code=PUT, sender=None),
    "json": Row(path="t", more=JSON, content_type="application/json"),
    "a format that nobody knows": Row(path="t", more=UNREGISTERED, content_type="unknown/60000"),
    "a media type by its name": Row(
        path="t?hono-content-type=application/vnd.acme", content_type="application/vnd.acme"
    ),
    "empty notification": Row(path="t?empty", payload=b"", content_type=EMPTY_NOTIFICATION),
    "empty with a format": Row(path="t", payload=b"", more=JSON, content_type="application/json"),
    "ttd that is no time": Row(path="t?hono-ttd=soon"),
    # what the device has to change
    "empty without a format": Row(path="t", payload=b"", answer="4.00", metric=REFUSED, seen=None),
    "empty with a payload": Row(path="t?empty", answer="4.00", metric=REFUSED, seen=None),
    "event, at most once": Row(path="e", kind=NON, answer="4.00", metric=None, seen=None),
    "another tenant": Row(path="t/other/d9", code=PUT, answer="4.03", metric=REFUSED, seen=None),
    "unauthorised gateway": Row(path="t//gw-1", code=PUT, answer="4.03", metric=REFUSED, seen=None),
    "unknown device": Row(
        path="t//d8", code=PUT, sender=GW, answer="4.04", text=GONE, metric=REFUSED, seen=None
    ),
    "post without login": Row(path="t", sender=None, answer="4.01", metric=None, seen=None),
    "put without device": Row(path="t/acme", code=PUT, answer="4.04", metric=None, seen=None),
    "put without anything": Row(path="t", code=PUT, answer="4.04", metric=None, seen=None),
    "put with too much": Row(path="t/acme/d1/x", code=PUT, answer="4.04", metric=None, seen=None),
    "no tenant, no login": Row(
        path="t//d1", code=PUT, sender=None, answer="4.00", metric=None, seen=None
    ),
    "post for somebody": Row(path="t/acme/d1", answer="4.04", metric=None, seen=None),
    "unknown resource": Row(path="x", answer="4.04", metric=None, seen=None),
    "another method": Row(path="t", code=GET, answer="4.05", metric=None, seen=None),
    "too large": Row(path="t", payload=b"x" * 2_049, answer="4.13", metric=None, seen=None),
    "a media type that is none": Row(
        path="t?hono-content-type=gerät", answer="4.00", metric=None, seen=None
    ),
    "too many arguments": Row(
        path="t?" + "&".join("abcdefghijklmnopq"), answer="4.00", metric=None, seen=None
    ),
    # what the consumer does
    "no consumer": Row(
        path="t",
        consumer=NoConsumer(),
        answer="5.03",
        text=b"no consumer available",
        metric=LOST,
    ),
    "no consumer, at most once": Row(
        path="t",
        kind=NON,
        consumer=NoConsumer(),
        answer="5.03",
        metric=("telemetry", "0", "undeliverable"),
    ),
    "slow consumer": Row(
        path="t",
        consumer=ConsumerTimeout(),
        answer="5.03",
        text=b"consumer failed to indicate in time whether it has processed the message",
        metric=LOST,
    ),
    "releasing consumer": Row(
        path="t",
        consumer=NotProcessed(),
        answer="5.03",
        text=b"consumer didn't process the message",
        metric=LOST,
    ),
    "full store": Row(
        path="e",
        consumer=StoreUnavailable("the disk of /var is full"),
        answer="5.03",
        text=b"temporarily unavailable",
        metric=("event", "1", "undeliverable"),
    ),
}


@pytest.mark.parametrize("row", TABLE.values(), ids=TABLE.keys())
async def test_each_side_sees_what_the_table_says(
    core: Core, adapter: CoapAdapter, row: Row
) -> None:
    core.consumer.outcome = row.consumer
    peer = Proved(adapter, row.sender)
    answer = await peer.ask(row.path, row.payload, kind=row.kind, code=row.code, more=row.more)

    assert answer.type == (ACK if row.kind == CON else NON)
    assert answer.token == b"tk"
    assert dotted(answer.code) == row.answer
    if row.answer == "2.04":
        assert (answer.options, answer.payload) == ((), b"")
    else:
        assert answer.first(options.CONTENT_FORMAT) == b""
        assert answer.payload
    assert (answer.first(options.MAX_AGE) == b"\x02") == (row.answer == "5.03")
    if row.text is not None:
        assert answer.payload == row.text

    assert [m.device for m in core.consumer.messages] == ([] if row.seen is None else [row.seen])
    for message in core.consumer.messages:
        assert (message.tenant, message.adapter) == ("acme", "hono-coap")
        assert message.address == "/" + row.path.partition("?")[0]
        assert message.payload == row.payload
        assert message.content_type == row.content_type
        assert message.qos == (1 if row.kind == CON else 0)
        assert message.kind is (Kind.EVENT if row.path[0] == "e" else Kind.TELEMETRY)
        assert message.via == ("gw-1" if row.sender is GW else None)
    assert counted(core) == ({} if row.metric is None else {row.metric: 1})


def counted(core: Core) -> dict[tuple[str, str, str], float]:
    """Uploads over CoAP for `acme`, by (type, qos, status)."""
    found = {}
    for family in core.metrics.registry.collect():
        for sample in family.samples:
            labels = sample.labels
            if (
                sample.name == "hono_telemetry_processing_duration_seconds_count"
                and labels["tenant"] == "acme"
                and sample.value
            ):
                assert labels["component_name"] == "hono-coap"
                found[labels["type"], labels["qos"], labels["status"]] = sample.value
    return found


@pytest.mark.parametrize(
    ("change", "answer"),
    [
        ({"enabled": False}, "4.03"),
        ({"adapters": [{"type": "hono-coap", "enabled": False}]}, "4.03"),
        ({"adapters": [{"type": "hono-http", "enabled": True}]}, "4.03"),
        ({"adapters": [{"type": "hono-coap", "enabled": True}]}, "2.04"),
    ],
)
async def test_a_tenant_may_forbid_the_adapter(
    core: Core, adapter: CoapAdapter, change: JsonObject, answer: str
) -> None:
    await core.registry.update_tenant("acme", change, None)
    assert dotted((await Proved(adapter, D1).ask("t", b"x", code=POST)).code) == answer


async def test_disabled_devices_are_not_found_and_disabled_gateways_forbidden(
    core: Core, adapter: CoapAdapter
) -> None:
    device, gateway = Proved(adapter, D1), Proved(adapter, GW)
    assert dotted((await device.ask("t", b"x", code=POST)).code) == "2.04"
    await core.registry.update_device("acme", "d1", {"enabled": False}, None)
    assert dotted((await device.ask("t", b"x", code=POST)).code) == "4.04"
    await core.registry.update_device("acme", "gw-1", {"enabled": False}, None)
    assert dotted((await gateway.ask("t//d2", b"x", code=PUT)).code) == "4.03"


async def test_a_used_up_data_volume_is_429(core: Core, adapter: CoapAdapter) -> None:
    limit: JsonObject = {"effective-since": "2020-01-01T00:00:00Z", "max-bytes": 1}
    await core.registry.update_tenant("acme", {"resource-limits": {"data-volume": limit}}, None)
    answer = await Proved(adapter, D1).ask("t", b"xx", code=POST)
    assert dotted(answer.code) == "4.29"


@pytest.mark.parametrize(("path", "more"), [("t?hono-time", ()), ("t", ((options.TIME, b"any"),))])
async def test_the_servers_time_comes_on_request(
    adapter: CoapAdapter, path: str, more: tuple[codec.Option, ...]
) -> None:
    device = Proved(adapter, D1)
    before = int(time.time() * 1000)
    told = options.uint(
        (await device.ask(path, b"x", code=POST, more=more)).first(options.TIME) or b"", 8
    )
    assert before <= told <= time.time() * 1000
    refused = await device.ask(path, b"", code=POST, more=more)
    assert (dotted(refused.code), refused.first(options.TIME) is not None) == ("4.00", True)


async def test_authentication_may_be_required_of_everybody(core: Core) -> None:
    async with a_coap_adapter(core, tls="off", authentication_required=True) as adapter:
        assert "hono.coap" not in core.endpoints
        answer = await Proved(adapter, None).ask("t/acme/d1", b"x", code=PUT)
        assert dotted(answer.code) == "4.01"
    assert not core.consumer.messages


# --- acknowledgements ------------------------------------------------------------------------------


async def a_slow_upload(core: Core, adapter: CoapAdapter, path: str) -> tuple[Proved, Done]:
    held = core.consumer.hold()
    peer = Proved(adapter, D1)
    request = a_request(path, b"x", code=POST, mid=7)
    adapter.exchanges.received(peer, codec.encode(request))
    await until(lambda: len(held) == 1)
    return peer, held[0]


@pytest.mark.parametrize(
    ("ext", "path", "kinds"),
    [
        ({}, "t", [ACK]),
        ({"timeoutToAck": -1}, "t", [ACK]),
        ({"timeoutToAck": 0}, "t", [ACK, CON]),
        ({"timeoutToAck": 0}, "t?piggy", [ACK]),
        ({"timeoutToAck": 0, "deviceTriggeredTimeoutToAck": 0}, "t?piggy", [ACK, CON]),
        ({"timeoutToAck": 0, "deviceTriggeredTimeoutToAck": 60_000}, "t?piggy", [ACK]),
    ],
)
async def test_the_tenant_says_when_a_request_is_acknowledged_apart(
    core: Core, adapter: CoapAdapter, ext: JsonObject, path: str, kinds: list[int]
) -> None:
    entry: JsonObject = {"type": "hono-coap", "enabled": True, "ext": ext}
    await core.registry.update_tenant("acme", {"adapters": [entry]}, None)
    peer, done = await a_slow_upload(core, adapter, path)
    done(None)
    assert [codec.decode(data).type for data in peer.raw] == kinds
    assert dotted(codec.decode(peer.raw[-1]).code) == "2.04"


async def test_a_slow_consumer_is_answered_apart(core: Core) -> None:
    async with a_coap_adapter(core, tls="off", timeout_to_ack=0.01) as adapter:
        peer, done = await a_slow_upload(core, adapter, "e")
        await until(lambda: peer.raw == [codec.empty(ACK, 7)])
        done(NoConsumer())
        last = codec.decode(peer.raw[-1])
        assert (last.type, dotted(last.code), last.token) == (CON, "5.03", b"tk")
        assert adapter.exchanges.load == 1
        adapter.exchanges.received(peer, codec.empty(ACK, last.mid))
        assert adapter.exchanges.load == 0


# --- commands --------------------------------------------------------------------------------------


def a_command(device: str = "d1", *, reply: bool = True, **more: object) -> Command:
    values: dict[str, object] = {
        "tenant": "acme",
        "device": device,
        "name": "blink",
        "payload": b"twice",
        "content_type": "text/plain",
        "correlation_id": "c1" if reply else None,
        "reply_to": "command_response/acme/app" if reply else None,
    }
    return Command(**(values | more))  # type: ignore[arg-type]


class Application:
    """Waits for responses at reply address `app`."""

    def __init__(self) -> None:
        self.responses: list[CommandResponse] = []

    def owns(self, tenant: str, reply_id: str) -> bool:
        return (tenant, reply_id) == ("acme", "app")

    def take(self, response: CommandResponse, done: Done) -> None:
        self.responses.append(response)
        done(None)


async def with_command(
    core: Core, peer: Proved, path: str, command: Command, **more: object
) -> tuple[Message, list[GatewayError | None]]:
    """Poll at a path and get a command; returns the answer and what the application is told."""
    uploads = len(core.consumer.messages)
    asking = asyncio.ensure_future(peer.ask(path, b"x", **more))
    await until(lambda: len(core.consumer.messages) > uploads)
    outcomes: list[GatewayError | None] = []
    core.commands.route(command, outcomes.append)
    answer = await asking
    await until(lambda: bool(outcomes))
    return answer, outcomes


LOCATIONS = {
    "request": ("telemetry", POST, D1, "d1", True, "command_response 002c1app"),
    "request, short": ("t", POST, D1, "d1", True, "cr 002c1app"),
    "one-way": ("event", POST, D1, "d1", False, "command"),
    "one-way, short": ("e", POST, D1, "d1", False, "c"),
    "gateway polls for itself": ("t", POST, GW, "d2", True, "cr  d2 002c1app"),
    "gateway polls for its device": ("t//d2", PUT, GW, "d2", True, "cr  d2 002c1app"),
    "gateway polls, one-way": ("telemetry", POST, GW, "d2", False, "command  d2"),
    "gateway's own command": ("t", POST, GW, "gw-1", True, "cr 002c1app"),
    "no login": ("t/acme/d1", PUT, None, "d1", True, "cr acme d1 002c1app"),
    "no login, one-way": ("t/acme/d1", PUT, None, "d1", False, "c"),
}


@pytest.mark.parametrize(
    ("path", "code", "sender", "target", "reply", "location"),
    LOCATIONS.values(),
    ids=LOCATIONS.keys(),
)
async def test_a_command_tells_where_its_response_goes(
    core: Core,
    adapter: CoapAdapter,
    path: str,
    code: int,
    sender: Principal | None,
    target: str,
    reply: bool,
    location: str,
) -> None:
    app = Application()
    core.commands.add_sink(app)
    peer = Proved(adapter, sender)
    command = a_command(target, reply=reply)
    answer, outcomes = await with_command(core, peer, path + "?hono-ttd=20", command, code=code)
    assert (dotted(answer.code), answer.payload) == ("2.04", b"twice")
    assert answer.all(options.LOCATION_QUERY) == [b"hono-command=blink"]
    where = [segment.decode() for segment in answer.all(options.LOCATION_PATH)]
    assert where == location.split(" ")
    assert answer.first(options.CONTENT_FORMAT) == b""
    assert outcomes == [None]
    assert core.consumer.messages[-1].ttd == 20
    if reply:
        back = await peer.ask(
            "/".join(where) + "?hono-cmd-status=200",
            b"ok",
            code=PUT if len(where) > 2 else POST,
        )
        assert dotted(back.code) == "2.04"
        assert [(r.device, r.correlation_id, r.status, r.payload) for r in app.responses] == [
            (target, "c1", 200, b"ok")
        ]


async def test_a_wait_is_counted_by_how_it_ended(core: Core, adapter: CoapAdapter) -> None:
    entry: JsonObject = {
        "type": "hono-coap",
        "enabled": True,
        "ext": {"max-ttd": 1, "timeoutToAck": -1},
    }
    await core.registry.update_tenant("acme", {"adapters": [entry]}, None)
    device = Proved(adapter, D1)
    await with_command(core, device, "t?hono-ttd=20", a_command(), code=POST)
    answer = await device.ask("t?hono-ttd=20", b"x", code=POST)
    assert (dotted(answer.code), answer.options) == ("2.04", ())
    assert [m.ttd for m in core.consumer.messages] == [1, 1]
    for ttd in ("command", "expired"):
        labels = {"tenant": "acme", "type": "telemetry", "status": "forwarded", "qos": "1"}
        name = "hono_telemetry_processing_duration_seconds_count"
        assert core.sample(name, **labels, ttd=ttd, component_name="hono-coap") == 1
    assert not core.commands.is_listening("acme", "d1")


async def test_the_first_command_goes_and_the_second_is_released(
    core: Core, adapter: CoapAdapter
) -> None:
    held = core.consumer.hold()
    device = Proved(adapter, D1)
    asking = asyncio.ensure_future(device.ask("t?hono-ttd=20", b"x", code=POST))
    await until(lambda: bool(held))
    outcomes: list[GatewayError | None] = []
    core.commands.route(a_command(), outcomes.append)
    core.commands.route(a_command(), outcomes.append)
    assert [type(o) for o in outcomes] == [NoConsumer]
    held[0](None)
    assert (await asking).payload == b"twice"
    assert outcomes[1] is None


async def test_a_refused_upload_releases_its_command(core: Core, adapter: CoapAdapter) -> None:
    held = core.consumer.hold()
    device = Proved(adapter, D1)
    asking = asyncio.ensure_future(device.ask("t?hono-ttd=20", b"x", code=POST))
    await until(lambda: bool(held))
    outcomes: list[GatewayError | None] = []
    core.commands.route(a_command(), outcomes.append)
    held[0](NoConsumer())
    assert dotted((await asking).code) == "5.03"
    assert [o.status for o in outcomes if o] == [503]


async def test_a_device_that_is_gone_releases_its_command(core: Core, adapter: CoapAdapter) -> None:
    held = core.consumer.hold()
    peer = Proved(adapter, D1)
    request = a_request("t?hono-ttd=20", b"x", code=POST)
    adapter.exchanges.received(peer, codec.encode(request))
    await until(lambda: bool(held))
    outcomes: list[GatewayError | None] = []
    core.commands.route(a_command(), outcomes.append)
    adapter.exchanges.gone(peer)
    assert [o.status for o in outcomes if o] == [503]
    assert not core.commands.is_listening("acme", "d1")
    held[0](None)
    assert not peer.raw


async def test_a_command_in_an_answer_apart_is_accepted_when_the_device_has_it(core: Core) -> None:
    async with a_coap_adapter(core, tls="off", timeout_to_ack=0) as adapter:
        peer = Proved(adapter, D1)
        request = a_request("t?hono-ttd=20", b"x", code=POST)
        adapter.exchanges.received(peer, codec.encode(request))
        await until(lambda: core.commands.is_listening("acme", "d1"))
        outcomes: list[GatewayError | None] = []
        core.commands.route(a_command(), outcomes.append)
        await until(lambda: len(peer.raw) == 2)
        assert not outcomes
        adapter.exchanges.received(peer, codec.empty(ACK, codec.decode(peer.raw[1]).mid))
        assert outcomes == [None]


@pytest.mark.parametrize("what", ["name", "reply"])
async def test_a_command_whose_names_do_not_fit_is_rejected_and_the_wait_goes_on(
    core: Core, adapter: CoapAdapter, what: str
) -> None:
    long = (
        a_command(name="n" * 250)
        if what == "name"
        else a_command(correlation_id="c" * 250, reply_to="command_response/acme/app")
    )
    device = Proved(adapter, D1)
    asking = asyncio.ensure_future(device.ask("t?hono-ttd=20", b"x", code=POST))
    await until(lambda: core.commands.is_listening("acme", "d1"))
    await until(lambda: bool(core.consumer.messages))
    outcomes: list[GatewayError | None] = []
    core.commands.route(long, outcomes.append)
    await until(lambda: bool(outcomes))
    assert outcomes[0] is not None
    assert outcomes[0].status == 400
    core.commands.route(a_command(), outcomes.append)
    assert (await asking).payload == b"twice"


@pytest.mark.parametrize(
    ("path", "kind", "answer"),
    [
        ("cr/002c1app?hono-cmd-status=200", CON, "2.04"),
        ("command_response/002c1app?hono-cmd-status=404", CON, "2.04"),
        ("cr/002c1app?hono-cmd-status=200", NON, "4.00"),
        ("cr/002c1app", CON, "4.00"),
        ("cr/002c1app?hono-cmd-status=300", CON, "4.00"),
        ("cr/002c1app?hono-cmd-status=199", CON, "4.00"),
        ("cr/002c1app?hono-cmd-status=2x0", CON, "4.00"),
        ("cr/xyz?hono-cmd-status=200", CON, "4.00"),
        ("cr?hono-cmd-status=200", CON, "4.00"),
        ("cr/002c1nobody?hono-cmd-status=200", CON, "5.03"),
    ],
)
async def test_a_command_response_is_judged(
    core: Core, adapter: CoapAdapter, path: str, kind: int, answer: str
) -> None:
    core.commands.add_sink(Application())
    found = await Proved(adapter, D1).ask(path, b"ok", code=POST, kind=kind)
    assert dotted(found.code) == answer


# --- clients that are not ours ---------------------------------------------------------------------

needs_libcoap = pytest.mark.skipif(CLIENT is None, reason="libcoap3-bin is not installed")


async def test_aiocoap_sends_in_blocks_and_gets_a_long_command(
    core: Core, adapter: CoapAdapter
) -> None:
    host = core.endpoints.get("hono.coap")
    context = await aiocoap.Context.create_client_context()
    try:
        uri = f"coap://{host}/telemetry/acme/d1?hono-ttd=20"
        request = aiocoap.Message(code=aiocoap.PUT, uri=uri, payload=b"q" * 2_000)
        asking = asyncio.ensure_future(context.request(request).response)
        await until(lambda: bool(core.consumer.messages))
        assert core.consumer.messages[0].payload == b"q" * 2_000
        outcomes: list[GatewayError | None] = []
        core.commands.route(a_command(payload=b"w" * 5_000), outcomes.append)
        answer = await asking
        assert (str(answer.code), answer.payload) == ("2.04 Changed", b"w" * 5_000)
        assert answer.opt.location_path == ("command_response", "acme", "d1", "002c1app")
        assert answer.opt.location_query == ("hono-command=blink",)
        assert outcomes == [None]
    finally:
        await context.shutdown()


async def test_aiocoap_waits_for_an_answer_apart(core: Core) -> None:
    async with a_coap_adapter(core, tls="off", timeout_to_ack=0.01) as adapter:
        held = core.consumer.hold()
        context = await aiocoap.Context.create_client_context()
        try:
            uri = f"coap://{core.endpoints.get('hono.coap')}/event/acme/d1"
            request = aiocoap.Message(code=aiocoap.PUT, uri=uri, payload=b"x")
            asking = asyncio.ensure_future(context.request(request).response)
            await until(lambda: bool(held))
            exchange = next(iter(next(iter(adapter.exchanges._open.values()))))
            await until(lambda: exchange.is_acked)
            held[0](None)
            assert str((await asking).code) == "2.04 Changed"
            await until(lambda: adapter.exchanges.load == 0)
        finally:
            await context.shutdown()


@needs_libcoap
@pytest.mark.parametrize("more", [(), ("-N",)], ids=["CON", "NON"])
async def test_libcoap_puts_telemetry(
    core: Core, adapter: CoapAdapter, more: tuple[str, ...]
) -> None:
    url = f"coap://{core.endpoints.get('hono.coap')}/telemetry/acme/d1"
    text = await coap_client("-m", "put", "-t", "50", "-e", '{"t":1}', "-v", "6", *more, url)
    assert "c:2.04" in text
    (message,) = core.consumer.messages
    assert (message.payload, message.content_type) == (b'{"t":1}', "application/json")
    assert message.qos == (0 if more else 1)


@needs_libcoap
async def test_libcoap_sends_in_blocks_and_gets_a_long_command(
    core: Core, adapter: CoapAdapter, tmp_path: object
) -> None:
    file = f"{tmp_path}/body"
    with open(file, "wb") as out:  # noqa: ASYNC230  a few bytes
        out.write(b"q" * 1_500)
    url = f"coap://{core.endpoints.get('hono.coap')}/telemetry/acme/d1?hono-ttd=20"
    asking = asyncio.ensure_future(
        coap_client("-m", "put", "-f", file, "-b", "128", "-v", "6", url)
    )
    await until(lambda: bool(core.consumer.messages))
    assert core.consumer.messages[0].payload == b"q" * 1_500
    core.commands.route(a_command(payload=b"w" * 3_000), lambda _: None)
    text = await asking
    assert "Location-Query:hono-command=blink" in text
    assert "Location-Path:command_response" in text
    assert text.count("w") >= 3_000


@needs_libcoap
async def test_libcoap_hears_why_it_is_refused(core: Core, adapter: CoapAdapter) -> None:
    core.consumer.outcome = NoConsumer()
    url = f"coap://{core.endpoints.get('hono.coap')}/event/acme/d1"
    text = await coap_client("-m", "put", "-e", "x", "-v", "6", url)
    assert "5.03" in text
    assert "no consumer available" in text


# --- a bad network ---------------------------------------------------------------------------------


class _Leg(asyncio.DatagramProtocol):
    """One side of the bad network; hands what comes to the other."""

    def __init__(self, network: BadNetwork) -> None:
        self._network = network
        self.transport: asyncio.DatagramTransport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport  # type: ignore[assignment]

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._network.pass_on(self, data, addr)


class BadNetwork:
    """A UDP proxy that loses, doubles and reorders datagrams of one client."""

    def __init__(self, seed: int) -> None:
        self._dice = random.Random(seed)
        self._client: tuple[str, int] | None = None
        self.front: _Leg
        self.back: _Leg
        self.lost = self.doubled = 0

    async def open(self, target: str) -> str:
        loop = asyncio.get_running_loop()
        host, _, port = target.rpartition(":")
        _, self.front = await loop.create_datagram_endpoint(
            lambda: _Leg(self), local_addr=("127.0.0.1", 0)
        )
        _, self.back = await loop.create_datagram_endpoint(
            lambda: _Leg(self), remote_addr=(host, int(port))
        )
        return f"127.0.0.1:{self.front.transport.get_extra_info('sockname')[1]}"

    def pass_on(self, leg: _Leg, data: bytes, address: tuple[str, int]) -> None:
        if leg is self.front:
            self._client = address
        fate = self._dice.random()
        if fate < 0.25:
            self.lost += 1
            return
        for _ in range(2 if fate < 0.5 else 1):
            self.doubled += fate < 0.5
            delay = self._dice.uniform(0.0, 0.03)
            asyncio.get_running_loop().call_later(delay, self._send, leg, data)

    def _send(self, leg: _Leg, data: bytes) -> None:
        if self.front.transport.is_closing():
            return
        if leg is self.front:
            self.back.transport.sendto(data)
        else:
            self.front.transport.sendto(data, self._client)

    def close(self) -> None:
        self.front.transport.close()
        self.back.transport.close()


async def test_each_upload_counts_once_on_a_bad_network(
    core: Core, adapter: CoapAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = BadNetwork(seed=7)
    address = await network.open(core.endpoints.get("hono.coap"))
    quick = aiocoap.numbers.TransportTuning()
    monkeypatch.setattr(type(quick), "ACK_TIMEOUT", 0.05)
    monkeypatch.setattr(type(quick), "MAX_RETRANSMIT", 12)
    context = await aiocoap.Context.create_client_context()
    try:
        for number in range(40):
            body = str(number).encode()
            message = aiocoap.Message(
                code=aiocoap.PUT, uri=f"coap://{address}/event/acme/d1", payload=body
            )
            answer = await context.request(message).response
            assert str(answer.code) == "2.04 Changed"
    finally:
        await context.shutdown()
        network.close()
    assert network.lost
    assert network.doubled
    assert [m.payload for m in core.consumer.messages] == [str(n).encode() for n in range(40)]
    assert core.sample("twinspan_coap_datagrams_total", outcome="duplicate") > 0


async def test_ten_thousand_strange_datagrams_cost_bounded_memory(
    core: Core,
) -> None:
    async with (
        a_coap_adapter(core, tls="off", max_requests=200, max_remembered=1_000) as adapter,
        a_device(core) as device,
    ):
        dice = random.Random(3)
        for number in range(10_000):
            kind = dice.randrange(4)
            token = number.to_bytes(4, "big")
            code = dice.choice((0, 1, 2, 3, 0x45, 0x5F, 0x80))
            message = Message(
                type=kind,
                code=code,
                mid=number & 0xFFFF,
                token=token if code else b"",
                options=((options.CONTENT_FORMAT, dice.randbytes(2)),) if code else (),
            )
            device.send(message)
            if number % 100 == 0:
                await asyncio.sleep(0)
        await until(lambda: adapter.exchanges.remembered > 100)
        await until(lambda: adapter.exchanges.load == 0)
        assert adapter.exchanges.remembered <= 1_001
        assert len(adapter.exchanges.uploads) + len(adapter.exchanges.downloads) == 0
        async with a_device(core) as other, asyncio.timeout(20):
            request = a_request("t/acme/d1", b"x")
            while not other.seen:  # what finds a buffer full is lost: asked again, as by any device
                other.send(request)
                await asyncio.sleep(0.1)
        assert other.seen[0].token == b"tk"
    assert [m.payload for m in core.consumer.messages][-1:] == [b"x"]


# --- start and stop --------------------------------------------------------------------------------


async def test_a_taken_port_is_one_line(core: Core, adapter: CoapAdapter) -> None:
    address = core.endpoints.get("hono.coap")
    with pytest.raises(PortTaken, match=r"hono\.coap.* --set hono\.coap\.bind="):
        async with receiving(
            core.endpoints,
            "hono.coap",
            address,
            asyncio.DatagramProtocol,
            setting="hono.coap.bind",
        ):
            pass


async def test_devices_that_wait_are_let_go_at_the_end(core: Core) -> None:
    async with a_coap_adapter(core, tls="off") as adapter:
        peer = Proved(adapter, D1)
        request = a_request("t?hono-ttd=20", b"x", code=POST)
        adapter.exchanges.received(peer, codec.encode(request))
        await until(lambda: core.commands.is_listening("acme", "d1"))
    assert not core.commands.is_listening("acme", "d1")
    assert not peer.raw


def test_dtls_is_there_missing_or_demanded(monkeypatch: pytest.MonkeyPatch) -> None:
    assert why_not("auto") is None
    assert why_not("off") == "hono.coap.tls is off"
    with pytest.raises(InvalidSetting, match="auto, required or off"):
        why_not("perhaps")
    monkeypatch.setattr(dtls_library, "missing", lambda: "needs pip install 'twinspan[coap]'")
    assert why_not("auto") == "needs pip install 'twinspan[coap]'"
    with pytest.raises(InvalidSetting, match=r"twinspan\[coap\]"):
        why_not("required")
