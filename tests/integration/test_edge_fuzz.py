"""Whatever a cloud or a local client sends: no crash, no silence for others, nothing that no cloud reads."""

from __future__ import annotations

import asyncio
import json
import logging
import tempfile
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge import spoolpump
from edge.core import EdgeCore, build_edge
from edge.identity import FOLDER
from gateway.config.edge import Edge
from gateway.config.tree import Settings
from gateway.errors import GatewayError, NoConsumer
from gateway.model.message import Kind
from gateway.runtime.module import running
from gateway.wire.cloudedge.envelope import Envelope, decode, encode
from gateway.wire.cloudedge.to_cloud import read_to_cloud
from gateway.wire.cloudedge.uploads import EdgeUpload
from gateway.wire.mqtt.packets import Publish
from gateway.wire.mqtt.properties import Properties
from tests.integration.edge_node import MODEL, Process, a_device
from tests.integration.edge_support import until
from tests.integration.test_edge_spool import Bench, a_bench

SLOW = settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)


class Complaints(logging.Handler):
    """Tracebacks in the log: each one is a bug."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.found: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if record.exc_info:
            self.found.append(logging.Formatter().format(record))


class Lab:
    """An EdgeCore without broker and link; frames and publishes are put in by hand."""

    def __init__(self, core: EdgeCore, sent: list[Envelope]) -> None:
        self.core = core
        self.sent = sent

    def frame(self, data: bytes) -> None:
        self.core.hub._take(data)

    async def publish(
        self, topic: str, payload: bytes, properties: Properties | None = None
    ) -> GatewayError | None:
        future: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        message = Publish(topic, payload, 1, packet_id=1, properties=properties or Properties())
        self.core.bus.take(message, future.set_result)
        async with asyncio.timeout(10):
            return await future

    async def still_works(self) -> None:
        """A good Device comes, is reported, and what is reported is there."""
        for kind, name, document in (
            ("devicemodel", "m1", MODEL),
            ("device", "good", a_device(temp=None)),
        ):
            meta = {"name": name, "namespace": "default", "uid": f"u-{name}"}
            route = {
                "group": "resource",
                "operation": "insert",
                "resource": f"default/{kind}/{name}",
            }
            content = {"metadata": meta, **document}
            frame = {"header": {"msg_id": name}, "route": route, "content": content}
            self.frame(json.dumps(frame).encode())
        topic = "$hw/events/device/default/good/twin/update"
        body = json.dumps({"twin": {"temp": {"actual": {"value": "1"}}}}).encode()
        members = self.core.twin.members
        await until(lambda: "default/good" in [m.id for m in members()])
        assert await self.publish(topic, body) is None


@asynccontextmanager
async def a_lab() -> AsyncIterator[Lab]:
    complaints = Complaints()
    logging.getLogger().addHandler(complaints)
    sent: list[Envelope] = []
    try:
        with tempfile.TemporaryDirectory() as folder:
            data_dir = Path(folder)
            (data_dir / FOLDER).mkdir()
            settled = {"node": "edge-1", "server": "127.0.0.1:1", "https_server": "127.0.0.1:1"}
            (data_dir / FOLDER / "node.json").write_text(json.dumps(settled))
            mapped = {"plant/+/up": "event"}
            process = Process(Settings(data_dir=data_dir, edge=Edge(telemetry_map=mapped)))
            core = build_edge(process)
            object.__setattr__(core.hub, "send", sent.append)
            rooms = ("edge.store", "edge.reports", "edge.spool", "edge.devicetwin", "edge.eventbus")
            async with AsyncExitStack() as up:
                for module in core.modules:
                    if module.name in rooms:
                        await up.enter_async_context(running(module))
                yield Lab(core, sent)
        assert complaints.found == []
    finally:
        logging.getLogger().removeHandler(complaints)


def run(work: Coroutine[Any, Any, None]) -> None:
    asyncio.run(work)


# --- what clouds send ------------------------------------------------------------------------------

texts = st.one_of(
    st.sampled_from(
        ["", "default", "d1", "default/d1", "25", "int", "deleted", "a#b", "+", "é", "\0"]
    ),
    st.text(max_size=20),
    st.text(alphabet="x/", min_size=100, max_size=700),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.floats(allow_nan=False, allow_infinity=False),
    texts,
)
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4)
)


def part(*names: str) -> st.SearchStrategy[dict[str, Any]]:
    """An object with some of these keys, each with anything below."""
    return st.dictionaries(st.sampled_from(names), values, max_size=len(names))


devices = st.fixed_dictionaries(
    {"metadata": part("name", "namespace", "uid", "resourceVersion", "labels", "annotations")},
    optional={
        "spec": st.one_of(
            values,
            st.fixed_dictionaries(
                {
                    "deviceModelRef": st.just({"name": "m1"}),
                    "properties": st.lists(
                        part("name", "desired", "visitors", "reportCycle", "type", "minimum")
                        | st.fixed_dictionaries(
                            {"name": texts, "desired": part("value", "metadata")}
                        ),
                        max_size=3,
                    ),
                }
            ),
        )
    },
)
twins = st.fixed_dictionaries(
    {},
    optional={
        "event_id": values,
        "timestamp": values,
        "state": texts,
        "twin": st.dictionaries(
            texts,
            st.one_of(
                values,
                part("actual", "expected", "optional", "metadata", "actual_version"),
                st.fixed_dictionaries({"actual": st.fixed_dictionaries({"value": texts})}),
            ),
            max_size=3,
        ),
    },
)
members = st.fixed_dictionaries(
    {}, optional={"added_devices": st.lists(part("id", "name")), "removed_devices": values}
)
words = st.sampled_from(
    (
        "resource",
        "func",
        "twin",
        "user",
        "insert",
        "update",
        "delete",
        "query",
        "response",
        "publish",
        "subscribe",
        "unsubscribe",
        "edgecontroller",
        "router_eventbus",
        "",
    )
)
resources = st.one_of(
    texts,
    st.sampled_from(
        (
            "membership",
            "membership/detail",
            "default/device/d1",
            "default/devicemodel/m1",
            "null/node/edge-1",
            "device/default/d1/twin/cloud_updated",
            "twin",
            "a/+/b/#",
            "#",
            "$x",
        )
    ),
)
contents = st.one_of(values, devices, twins, members)
frames = st.one_of(
    st.binary(max_size=100),
    st.fixed_dictionaries(
        {
            "header": st.fixed_dictionaries(
                {"msg_id": st.text(min_size=1, max_size=5)},
                optional={"parent_msg_id": texts, "timestamp": scalars, "resourceversion": texts},
            ),
            "route": st.fixed_dictionaries(
                {"group": words, "operation": words, "resource": resources},
                optional={"source": words},
            ),
            "content": st.one_of(contents, contents.map(json.dumps)),
        }
    ).map(lambda frame: json.dumps(frame).encode()),
)


@SLOW
@given(st.lists(frames, min_size=5, max_size=40))
def test_no_frame_of_a_cloud_breaks_the_edge(some: list[bytes]) -> None:
    async def work() -> None:
        async with a_lab() as lab:
            for frame in some:
                lab.frame(frame)
            await lab.still_works()

    run(work())


@SLOW
@given(st.lists(frames, min_size=3, max_size=15), st.randoms(use_true_random=False))
def test_frames_twice_and_in_any_order_break_nothing(some: list[bytes], dice: Any) -> None:
    async def work() -> None:
        async with a_lab() as lab:
            doubled = some * 2
            dice.shuffle(doubled)
            for frame in doubled:
                lab.frame(frame)
            await lab.still_works()

    run(work())


# --- what local clients send -----------------------------------------------------------------------

topics = st.one_of(
    st.sampled_from(
        [
            "$hw/events/device/default/good/twin/update",
            "$hw/events/device/default/good/twin/get",
            "$hw/events/device/default/good/state/update",
            "$hw/events/device///twin/update",
            "$hw/events/device/default/none/twin/update",
            "$hw/events/node/edge-1/membership/get",
            "$hw/events/upload/x",
            "SYS/dis/upload_records",
            "a/user/b",
            "plant/1/up",
            "telemetry",
            "t//",
            "t//good",
            "e//good",
            "e//good/?" + "a=b&" * 60,
            "t//good/?content-type=" + "x" * 300,
            "e//good/?hono-ttl=nan",
        ]
    ),
    st.tuples(
        st.sampled_from(["t", "e", "telemetry", "event"]),
        texts,
        texts,
        st.sampled_from(["", "/?", "/?content-type=", "/?hono-ttl=", "/?a=b&"]),
        texts,
    ).map(lambda cells: f"{cells[0]}/{cells[1]}/{cells[2]}{cells[3]}{cells[4]}"),
)
nested = st.integers(1, 3_000).map(lambda depth: b"[" * depth + b"]" * depth)
payloads = st.one_of(
    st.binary(max_size=60),
    twins.map(lambda twin: json.dumps(twin).encode()),
    values.map(lambda value: json.dumps(value).encode()),
    nested,
    nested.map(lambda deep: b'{"twin":{"temp":{"actual":' + deep + b"}}}"),
    st.just(b'{"timestamp":' + b"9" * 5_000 + b"}"),
)
properties = st.builds(
    Properties,
    content_type=st.none() | texts,
    message_expiry=st.none() | st.integers(0, 2**32 - 1),
    user=st.lists(st.tuples(st.sampled_from(["traceparent", "tracestate", "x"]), texts)).map(tuple),
)


@SLOW
@given(st.lists(st.tuples(topics, payloads, properties), min_size=5, max_size=30))
def test_every_publish_is_answered_and_what_is_taken_can_be_read_by_a_cloud(
    some: list[tuple[str, bytes, Properties]],
) -> None:
    async def work() -> None:
        async with a_lab() as lab:
            await lab.still_works()
            taken = 0
            for topic, payload, said in some:
                error = await lab.publish(topic, payload, said)
                assert error is None or error.status < 500
                taken += error is None and topic[:2] in ("t/", "te", "e/", "ev", "pl")
            _answer_reports(lab)
            for room in lab.core.modules:
                if room.name in ("edge.spool", "edge.reports"):
                    room.link_up(has_spool=False)  # type: ignore[attr-defined]  # both are link listeners
            await until(lambda: _spooled(lab) >= taken)
            for envelope in lab.sent:
                read_to_cloud(decode(encode(envelope)))

    run(work())


def _spooled(lab: Lab) -> int:
    messages = [read_to_cloud(decode(encode(e))) for e in lab.sent]
    return sum(isinstance(m, EdgeUpload) and m.kind is not None for m in messages)


def _answer_reports(lab: Lab) -> None:
    """Answer each report at once, so that the next one of its device comes."""
    send = lab.sent.append

    def sending(envelope: Envelope) -> None:
        send(envelope)
        if envelope.route.source == "twin":
            answer = {
                "header": {"msg_id": "a", "parent_msg_id": envelope.msg_id},
                "route": {"group": "twin", "operation": "response", "resource": "twin"},
                "content": "OK",
            }
            asyncio.get_running_loop().call_soon(lab.frame, json.dumps(answer).encode())

    object.__setattr__(lab.core.hub, "send", sending)


# --- an unreliable way up --------------------------------------------------------------------------

steps = st.lists(
    st.sampled_from(["ok", "ok", "again", "twice", "cut", "late", "put"]), min_size=5, max_size=60
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps)
def test_each_lane_arrives_whole_and_in_order_over_any_link(script: list[str]) -> None:
    async def work() -> None:
        with tempfile.TemporaryDirectory() as folder:
            async with a_bench(Path(folder) / "edge.db", window=4) as bench:
                await _play(bench, script)

    first, cap = spoolpump.RETRY_FIRST, spoolpump.RETRY_CAP
    spoolpump.RETRY_FIRST = spoolpump.RETRY_CAP = 0.002
    try:
        run(work())
    finally:
        spoolpump.RETRY_FIRST, spoolpump.RETRY_CAP = first, cap


class Cloud:
    """Answers what a pump sends as a script says; then everything, in order."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.taken: list[tuple[str, int]] = []
        self.put = 0
        self._seen = 0
        self._late: list[int] = []

    async def put_one(self) -> None:
        kind = Kind.EVENT if self.put % 3 == 0 else Kind.TELEMETRY
        assert await self.bench.put(f"d{self.put % 2}", f"{self.put}", kind) is None
        self.put += 1

    def _answer(self, at: int, error: GatewayError | None = None) -> None:
        if self.bench.link.sent[at].msg_id not in self.bench.pump._on_way:
            return  # answered before, or of a link that is gone
        place = self.bench.link.uploads[at].spool
        assert place is not None
        self.bench.answer(at, error)
        if error is None:
            self.taken.append((place.lane, place.sequence))

    async def step(self, what: str) -> None:
        if what == "put":
            await self.put_one()
        elif what == "cut":
            self.bench.pump.link_down()
            self.bench.pump.link_up(has_spool=True)
        await asyncio.sleep(0)
        if self._seen < len(self.bench.link.sent):
            self._take(self._seen, what)
            self._seen += 1
        elif self._late:
            self._answer(self._late.pop(0))
        else:
            await asyncio.sleep(0.001)

    def _take(self, at: int, what: str) -> None:
        if what == "late":
            self._late.append(at)
            return
        self._answer(at, NoConsumer() if what == "again" else None)
        if what == "twice":
            self._answer(at)


async def _play(bench: Bench, script: list[str]) -> None:
    cloud = Cloud(bench)
    for _ in range(6):
        await cloud.put_one()
    bench.pump.link_up(has_spool=True)
    for what in script:
        await cloud.step(what)
    async with asyncio.timeout(10):
        while len(bench.pump):
            await cloud.step("ok")
    firsts = list(dict.fromkeys(cloud.taken))
    for lane in {lane for lane, _ in firsts}:
        order = [sequence for name, sequence in firsts if name == lane]
        assert order == sorted(order)
    assert len(firsts) == cloud.put
    await _emptied(bench)


async def _emptied(bench: Bench) -> None:
    await until(lambda: all(d.messages == 0 for d in bench.spool.depths.values()))
