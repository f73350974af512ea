"""Conversations over CoAP: duplicates, acknowledgements, blocks and bounds, without sockets."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.hono.adapters import coap_blocks, coap_exchanges
from gateway.hono.adapters.coap_exchanges import EXCHANGE_LIFETIME, Exchange, Exchanges
from gateway.hono.adapters.coap_messages import Response
from gateway.model.message import Principal
from gateway.wire.coap import codec, options
from gateway.wire.coap.codec import ACK, CON, NON, RST, Message
from gateway.wire.coap.options import Block
from tests.coap_rig import a_request
from tests.hono_rig import until

CHANGED, CONTINUE, BAD_REQUEST, BAD_OPTION = 0x44, 0x5F, 0x80, 0x82
INCOMPLETE, TOO_LARGE, UNAVAILABLE, NO_PROXY = 0x88, 0x8D, 0xA3, 0xA5


@dataclass(eq=False)
class APeer:
    """A peer that keeps what it is sent."""

    key: str = "peer"
    principal: Principal | None = None
    is_proved: bool = True
    raw: list[bytes] = field(default_factory=list)

    def send(self, datagram: bytes) -> None:
        self.raw.append(datagram)

    @property
    def got(self) -> list[Message]:
        return [codec.decode(data) for data in self.raw]

    @property
    def last(self) -> Message:
        return codec.decode(self.raw[-1])


class Table:
    """Exchanges whose requests the test answers; time stands still."""

    def __init__(self, **limits: int) -> None:
        self.now = 0.0
        self.asked: list[Exchange] = []
        self.counts: dict[str, int] = {}
        self.is_quick = True
        self.answer = Response()
        values = {"max_body": 2_048, "max_requests": 100, "max_remembered": 200} | limits
        self.exchanges = Exchanges(self.handle, self.count, clock=lambda: self.now, **values)

    def handle(self, exchange: Exchange) -> None:
        self.asked.append(exchange)
        if self.is_quick:
            exchange.respond(self.answer)

    def count(self, outcome: str) -> None:
        self.counts[outcome] = self.counts.get(outcome, 0) + 1

    def feed(self, peer: APeer, message: Message | bytes) -> None:
        data = message if isinstance(message, bytes) else codec.encode(message)
        self.exchanges.received(peer, data)


@pytest.fixture
def table() -> Table:
    return Table()


@pytest.fixture
def peer() -> APeer:
    return APeer()


# --- messages --------------------------------------------------------------------------------------


def test_an_answer_in_time_travels_in_the_acknowledgement(table: Table, peer: APeer) -> None:
    table.feed(peer, a_request("t", b"x", mid=9, token=b"abc"))
    assert peer.last == Message(type=ACK, code=CHANGED, mid=9, token=b"abc")


def test_an_unconfirmable_request_gets_an_unconfirmable_answer(table: Table, peer: APeer) -> None:
    table.feed(peer, a_request("t", b"x", kind=NON, token=b"abc"))
    assert (peer.last.type, peer.last.code, peer.last.token) == (NON, CHANGED, b"abc")


def test_a_duplicate_has_no_effect_and_the_same_answer(table: Table, peer: APeer) -> None:
    request = a_request("t", b"x")
    for _ in range(3):
        table.feed(peer, request)
    assert len(table.asked) == 1
    assert len(peer.raw) == 3
    assert len(set(peer.raw)) == 1
    assert table.counts == {"request": 1, "duplicate": 2}


def test_a_duplicate_of_an_unconfirmable_request_is_not_answered(table: Table, peer: APeer) -> None:
    for _ in range(2):
        table.feed(peer, a_request("t", b"x", kind=NON))
    assert (len(table.asked), len(peer.raw)) == (1, 1)


def test_ids_are_those_of_one_peer(table: Table) -> None:
    for name in ("a", "b"):
        table.feed(APeer(name), a_request("t", b"x"))
    assert len(table.asked) == 2


def test_after_its_lifetime_an_id_may_come_again(table: Table, peer: APeer) -> None:
    table.feed(peer, a_request("t", b"x"))
    table.now = EXCHANGE_LIFETIME
    table.feed(peer, a_request("t", b"x"))
    assert len(table.asked) == 2
    assert table.exchanges.remembered == 1


async def test_a_duplicate_before_the_answer_waits_or_is_acknowledged_again(
    table: Table, peer: APeer
) -> None:
    table.is_quick = False
    table.feed(peer, a_request("t", b"x"))
    table.feed(peer, a_request("t", b"x"))
    assert not peer.raw
    table.asked[0].acknowledge_in(0)
    table.feed(peer, a_request("t", b"x"))
    assert peer.raw == [codec.empty(ACK, 1)] * 2


async def test_a_late_answer_is_sent_apart_until_it_is_acknowledged(
    table: Table, peer: APeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap_exchanges, "ACK_TIMEOUT", 0.01)
    table.is_quick = False
    written: list[bool] = []
    table.feed(peer, a_request("t", b"x", token=b"abc"))
    table.asked[0].acknowledge_in(0.01)
    await until(lambda: len(peer.raw) == 1)
    assert peer.raw == [codec.empty(ACK, 1)]
    table.asked[0].respond(Response(), written.append)
    await until(lambda: len(peer.raw) >= 3)
    assert peer.raw[1] == peer.raw[2]
    assert (peer.last.type, peer.last.code, peer.last.token) == (CON, CHANGED, b"abc")
    assert table.exchanges.load == 1
    table.feed(peer, codec.empty(ACK, peer.last.mid))
    assert written == [True]
    assert table.exchanges.load == 0
    sent = len(peer.raw)
    table.feed(peer, a_request("t", b"x", token=b"abc"))
    assert peer.raw[sent:] == [codec.empty(ACK, 1)]


@pytest.mark.parametrize("ending", ["reset", "silence"])
async def test_who_resets_or_is_silent_did_not_get_it(
    table: Table, peer: APeer, monkeypatch: pytest.MonkeyPatch, ending: str
) -> None:
    monkeypatch.setattr(coap_exchanges, "ACK_TIMEOUT", 0.001)
    table.is_quick = False
    written: list[bool] = []
    table.feed(peer, a_request("t", b"x"))
    table.asked[0].acknowledge_in(0)
    table.asked[0].respond(Response(), written.append)
    if ending == "reset":
        table.feed(peer, codec.empty(RST, peer.last.mid))
    await until(lambda: written == [False])
    assert len(peer.raw) == (2 if ending == "reset" else 2 + coap_exchanges.MAX_RETRANSMIT)
    assert table.exchanges.load == 0


async def test_acknowledgements_can_be_left_to_the_answer(table: Table, peer: APeer) -> None:
    table.is_quick = False
    table.feed(peer, a_request("t", b"x"))
    table.asked[0].acknowledge_in(-1)
    table.asked[0].respond(Response())
    table.asked[0].respond(Response(BAD_REQUEST))
    assert [(m.type, m.code) for m in peer.got] == [(ACK, CHANGED)]


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        pytest.param(codec.empty(CON, 5), codec.empty(RST, 5), id="a ping"),
        pytest.param(b"\x40\x45\x00\x06", codec.empty(RST, 6), id="a response to nothing"),
        pytest.param(b"\x50\x45\x00\x06", None, id="a response to nothing that wants no answer"),
        pytest.param(b"\x40\x01\x00\x07\xff", codec.empty(RST, 7), id="malformed"),
        pytest.param(b"\x50\x01\x00\x07\xff", None, id="malformed, unconfirmable"),
        pytest.param(codec.empty(ACK, 5), None, id="an acknowledgement of nothing"),
        pytest.param(codec.empty(RST, 5), None, id="a reset of nothing"),
        pytest.param(b"\x60\x01\x00\x07", None, id="a request that is an acknowledgement"),
        pytest.param(b"\x16\xfe\xfd" + bytes(20), None, id="another protocol"),
        pytest.param(b"", None, id="nothing"),
    ],
)
def test_what_is_no_request_is_reset_or_ignored(
    table: Table, peer: APeer, data: bytes, answer: bytes | None
) -> None:
    table.feed(peer, data)
    assert peer.raw == ([] if answer is None else [answer])
    assert not table.asked


@pytest.mark.parametrize(
    ("option", "code"),
    [
        ((9, b""), BAD_OPTION),
        ((options.IF_NONE_MATCH, b""), BAD_OPTION),
        ((options.PROXY_URI, b"coap://x"), NO_PROXY),
        ((options.BLOCK1, b"\x07"), BAD_REQUEST),
        ((options.BLOCK2, b"\x07"), BAD_REQUEST),
        ((options.BLOCK2, b"\0\0\0\0"), BAD_REQUEST),
    ],
)
def test_options_that_cannot_be_followed_are_refused(
    table: Table, peer: APeer, option: codec.Option, code: int
) -> None:
    table.feed(peer, a_request("t", b"x", more=(option,)))
    assert peer.last.code == code
    assert not table.asked


def test_unconfirmable_requests_with_such_options_are_dropped(table: Table, peer: APeer) -> None:
    table.feed(peer, a_request("t", b"x", kind=NON, more=((9, b""),)))
    assert not peer.raw
    assert table.exchanges.load == 0


def test_unknown_options_that_may_be_ignored_are(table: Table, peer: APeer) -> None:
    table.feed(peer, a_request("t", b"x", more=((options.ETAG, b"x"), (2_052, b"y"))))
    assert peer.last.code == CHANGED


# --- blocks ----------------------------------------------------------------------------------------


def blocks_of(body: bytes, exponent: int, path: str = "t") -> Iterator[Message]:
    size = 16 << exponent
    count = -(-len(body) // size)
    for number in range(count):
        told = Block(number, number + 1 < count, exponent)
        part = body[number * size : (number + 1) * size]
        more = ((options.BLOCK1, told.encode()),)
        yield a_request(path, part, mid=100 + number, token=bytes((number,)), more=more)


def test_a_body_is_put_together_from_its_blocks(table: Table, peer: APeer) -> None:
    body = bytes(range(256)) * 5
    for message in blocks_of(body, 4):
        table.feed(peer, message)
    assert [m.code for m in peer.got] == [CONTINUE] * 4 + [CHANGED]
    told = [options.block(m.first(options.BLOCK1) or b"") for m in peer.got]
    assert told == [Block(n, n < 4, 4) for n in range(5)]
    assert [e.request.payload for e in table.asked] == [body]
    assert len(table.exchanges.uploads) == 0


def test_blocks_of_two_resources_do_not_mix(table: Table, peer: APeer) -> None:
    one, other = list(blocks_of(b"a" * 128, 2, "t")), list(blocks_of(b"b" * 128, 2, "e"))
    mids = itertools.count(1)
    for message in (one[0], other[0], one[1], other[1]):
        data = bytearray(codec.encode(message))
        data[2:4] = next(mids).to_bytes(2, "big")
        table.feed(peer, bytes(data))
    assert [e.request.payload for e in table.asked] == [b"a" * 128, b"b" * 128]


def test_a_block_without_the_one_before_is_incomplete(table: Table, peer: APeer) -> None:
    first, _, third = blocks_of(b"a" * 192, 2)
    table.feed(peer, first)
    table.feed(peer, third)
    assert peer.last.code == INCOMPLETE
    assert not table.asked
    assert len(table.exchanges.uploads) == 0


@pytest.mark.parametrize(
    ("payload", "block"),
    [(b"a" * 63, Block(0, True, 2)), (b"a" * 65, Block(0, False, 2))],
)
def test_a_block_of_another_size_than_it_says_is_refused(
    table: Table, peer: APeer, payload: bytes, block: Block
) -> None:
    table.feed(peer, a_request("t", payload, more=((options.BLOCK1, block.encode()),)))
    assert peer.last.code == BAD_REQUEST


@pytest.mark.parametrize("in_blocks", [True, False])
def test_a_body_over_the_limit_is_refused_with_the_limit(peer: APeer, in_blocks: bool) -> None:
    table = Table(max_body=100)
    messages = list(blocks_of(b"a" * 200, 2)) if in_blocks else [a_request("t", b"a" * 101)]
    for message in messages[:2]:
        table.feed(peer, message)
    assert peer.last.code == TOO_LARGE
    assert peer.last.first(options.SIZE1) == bytes((100,))
    assert not table.asked


def test_a_body_that_rests_too_long_is_forgotten(table: Table, peer: APeer) -> None:
    first, second = blocks_of(b"a" * 128, 2)
    table.feed(peer, first)
    table.now = coap_blocks.LIFETIME + 1
    table.feed(peer, second)
    assert peer.last.code == INCOMPLETE


def test_a_peer_has_few_bodies_at_once(table: Table, peer: APeer) -> None:
    for number in range(coap_blocks.MAX_UPLOADS_OF_PEER + 1):
        more = ((options.BLOCK1, Block(0, True, 2).encode()),)
        table.feed(peer, a_request(f"t/{number}", b"a" * 64, mid=number, more=more))
    assert [m.code for m in peer.got[-2:]] == [CONTINUE, UNAVAILABLE]


def test_all_peers_together_have_bounded_bodies(
    table: Table, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap_blocks, "MAX_UPLOADS", 10)
    peers = [APeer(str(n)) for n in range(11)]
    for peer in peers:
        more = ((options.BLOCK1, Block(0, True, 2).encode()),)
        table.feed(peer, a_request("t", b"a" * 64, more=more))
    assert [p.last.code for p in peers] == [CONTINUE] * 10 + [UNAVAILABLE]


@pytest.mark.parametrize("exponent", [None, 2, 5])
def test_a_long_answer_goes_out_in_blocks(table: Table, peer: APeer, exponent: int | None) -> None:
    body = bytes(range(256)) * 9
    table.answer = Response(CHANGED, ((options.LOCATION_PATH, b"command"),), body)
    first = () if exponent is None else ((options.BLOCK2, Block(0, False, exponent).encode()),)
    table.feed(peer, a_request("t", b"x", more=first))
    assert len(peer.last.payload) == 16 << (6 if exponent is None else exponent)
    found = peer.last.payload
    etag = peer.last.first(options.ETAG)
    block = options.block(peer.last.first(options.BLOCK2) or b"")
    mids = itertools.count(2)
    while block.more:
        wanted = Block(block.number + 1, False, block.exponent)
        more = ((options.BLOCK2, wanted.encode()),)
        table.feed(peer, a_request("t", mid=next(mids), more=more))
        block = options.block(peer.last.first(options.BLOCK2) or b"")
        assert (block.number, peer.last.first(options.ETAG)) == (wanted.number, etag)
        assert peer.last.first(options.LOCATION_PATH) == b"command"
        found += peer.last.payload
    assert found == body
    assert len(table.asked) == 1


def test_a_later_block_of_no_answer_is_refused(table: Table, peer: APeer) -> None:
    more = ((options.BLOCK2, Block(1, False, 2).encode()),)
    table.feed(peer, a_request("t", more=more))
    assert peer.last.code == INCOMPLETE
    table.answer = Response(payload=b"a" * 100)
    table.feed(peer, a_request("t", b"x", mid=2, more=((options.BLOCK2, b"\x02"),)))
    behind = ((options.BLOCK2, Block(9, False, 2).encode()),)
    table.feed(peer, a_request("t", mid=3, more=behind))
    assert peer.last.code == BAD_REQUEST


def test_answers_in_blocks_are_bounded(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(coap_blocks, "MAX_DOWNLOADS", 5)
    table.answer = Response(payload=b"a" * 2_000)
    for number in range(20):
        table.feed(APeer(str(number)), a_request("t", b"x"))
    assert len(table.exchanges.downloads) == 5
    monkeypatch.setattr(coap_blocks, "MAX_DOWNLOAD_BYTES", 3_000)
    table.feed(APeer("last"), a_request("t", b"x"))
    assert len(table.exchanges.downloads) == 1


# --- bounds ----------------------------------------------------------------------------------------


def test_requests_over_the_limit_are_refused_for_two_seconds() -> None:
    table = Table(max_requests=3)
    table.is_quick = False
    peers = [APeer(str(n)) for n in range(4)]
    for peer in peers:
        table.feed(peer, a_request("t", b"x"))
    refused = peers[3].last
    assert (refused.type, refused.code) == (ACK, UNAVAILABLE)
    assert refused.first(options.MAX_AGE) == b"\x02"
    assert table.counts["refused"] == 1
    table.asked[0].respond(Response())
    table.feed(peers[3], a_request("t", b"x"))
    assert len(table.asked) == 4


def test_one_peer_cannot_take_all_places(
    table: Table, peer: APeer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(coap_exchanges, "MAX_OF_PEER", 2)
    table.is_quick = False
    for mid in range(3):
        table.feed(peer, a_request("t", b"x", mid=mid))
    assert [m.code for m in peer.got] == [UNAVAILABLE]
    table.feed(APeer("other"), a_request("t", b"x"))
    assert len(table.asked) == 3


def test_what_is_remembered_is_bounded_and_keeps_what_is_open() -> None:
    table = Table(max_requests=5, max_remembered=50)
    table.is_quick = False
    waiting = APeer("waiting")
    table.feed(waiting, a_request("t", b"x"))
    table.is_quick = True
    for number in range(500):
        table.feed(APeer(str(number)), a_request("t", b"x"))
    assert table.exchanges.remembered <= 51
    table.feed(waiting, a_request("t", b"x"))
    assert table.counts["duplicate"] == 1


@pytest.mark.parametrize(("is_proved", "most"), [(True, 1_024), (False, 128)])
def test_who_may_not_be_there_is_not_sent_much(is_proved: bool, most: int) -> None:
    table = Table()
    table.answer = Response(payload=b"a" * 2_000)
    peer = APeer(is_proved=is_proved)
    table.feed(peer, a_request("telemetry/acme/d1?hono-ttd=10", b'{"t":1}'))
    assert len(peer.last.payload) == most


def test_the_end_of_a_peer_ends_its_exchanges(table: Table, peer: APeer) -> None:
    table.is_quick = False
    gone: list[bool] = []
    table.feed(peer, a_request("t", b"x"))
    table.asked[0].on_gone = lambda: gone.append(True)
    table.exchanges.gone(peer.key)
    table.exchanges.gone(peer.key)
    assert gone == [True]
    assert table.exchanges.load == 0
    table.asked[0].respond(Response())
    assert not peer.raw


@given(st.lists(st.tuples(st.sampled_from("abc"), st.binary(max_size=60)), max_size=30))
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_datagram_is_too_strange(datagrams: list[tuple[str, bytes]]) -> None:
    table = Table()
    table.answer = Response(payload=b"a" * 100)
    for name, data in datagrams:
        head = bytes((data[0] & 0x3F | 0x40,)) if data else b""
        peer = APeer(name, is_proved=False)
        table.feed(peer, head + data[1:])
        for sent in peer.raw:
            assert len(codec.decode(sent).payload) <= max(64, 3 * len(data))
    assert table.exchanges.load == 0
