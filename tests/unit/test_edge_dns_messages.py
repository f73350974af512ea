"""DNS messages: what is read of others', and what an independent library reads of ours."""

from __future__ import annotations

import struct

import dns.flags
import dns.message
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.network.dnsmessages import (
    Code,
    Query,
    Reply,
    Type,
    address_record,
    authority_record,
    encode_name,
    name_record,
    read_answer,
    read_query,
    readdressed,
    service_record,
    write_failure,
    write_reply,
)
from gateway.errors import MalformedPacket, Unencodable


def ask(
    name: str = "web.shop.svc.cluster.local.",
    kind: str = "A",
    use_edns: int = -1,
    payload: int | None = None,
) -> bytes:
    query = dns.message.make_query(name, kind, use_edns=use_edns, payload=payload, id=4711)
    return query.to_wire()


def test_a_question_is_read_with_its_options() -> None:
    data = ask("WEB.Shop.svc.cluster.local.", "SRV", use_edns=0, payload=4096)
    query = read_query(data)
    assert query.name == "web.shop.svc.cluster.local"
    assert (query.type, query.udp_size, query.udp_limit) == (Type.SRV, 4096, 1232)
    assert b"\x04Shop" in query.question
    assert read_query(ask()).udp_limit == 512


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\0" * 11,
        ask()[:-3],
        b"\0\1\x80\0" + ask()[4:],
        ask()[:12] + b"\xc0\x0c\0\1\0\1",
        ask()[:4] + b"\0\2" + ask()[6:],
        ask()[:12] + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        ask()[:12] + (b"\x3f" + b"a" * 63) * 4 + b"\0\0\1\0\1",
    ],
)
def test_what_is_no_question_is_refused(data: bytes) -> None:
    with pytest.raises(MalformedPacket):
        read_query(data)


def test_an_answer_is_read_by_another_library() -> None:
    data = ask("web.shop.svc.cluster.local.", "SRV", use_edns=0)
    name = "web.shop.svc.cluster.local"
    reply = Reply(
        answers=[service_record(name, 80, 100, f"a.{name}", 5)],
        extra=[address_record(f"a.{name}", "10.88.0.5", 5), address_record("b.c", "fd00::5", 5)],
    )
    found = dns.message.from_wire(write_reply(read_query(data), reply))
    assert found.flags & dns.flags.AA
    assert found.answer[0] == dns.rrset.from_text(f"{name}.", 5, "IN", "SRV", f"0 100 80 a.{name}.")
    assert [str(each[0]) for each in found.additional] == ["10.88.0.5", "fd00::5"]
    assert found.edns == 0


def test_nothing_is_told_with_authority() -> None:
    reply = Reply(Code.NXDOMAIN, authority=[authority_record("cluster.local", 7, 5)])
    found = dns.message.from_wire(write_reply(read_query(ask()), reply))
    assert found.rcode() == dns.rcode.NXDOMAIN
    soa = found.authority[0][0]
    assert (found.authority[0].ttl, soa.minimum, soa.serial) == (5, 5, 7)


def test_what_does_not_fit_is_cut_and_told() -> None:
    query = read_query(ask())
    records = [address_record(query.name, f"10.0.0.{n}", 5) for n in range(200)]
    data = write_reply(query, Reply(answers=records), query.udp_limit)
    assert len(data) <= 512
    found = dns.message.from_wire(data)
    assert found.flags & dns.flags.TC
    assert 20 < len(found.answer[0]) < 200
    extra = write_reply(query, Reply(answers=records[:1], extra=records), query.udp_limit)
    assert not dns.message.from_wire(extra).flags & dns.flags.TC


def test_an_extended_code_goes_into_the_options() -> None:
    query = read_query(ask(use_edns=0))
    found = dns.message.from_wire(write_reply(query, Reply(Code.BADVERS)))
    assert found.rcode() == dns.rcode.BADVERS


def test_an_answer_of_others_gets_the_asker_s_id_and_spelling_and_ages() -> None:
    asked = dns.message.make_query("Example.org.", "A", id=5)
    answer = dns.message.make_response(asked)
    answer.answer.append(dns.rrset.from_text("example.org.", 60, "IN", "A", "192.0.2.1"))
    data = answer.to_wire()
    heard = read_answer(data)
    assert (heard.id, heard.seconds, len(heard.ttls)) == (5, 60, 1)
    query = read_query(dns.message.make_query("eXAMPLE.org.", "A", id=9).to_wire())
    found = dns.message.from_wire(readdressed(data, query, heard.ttls, 45))
    assert (found.id, found.answer[0].ttl) == (9, 15)
    assert str(found.question[0].name) == "eXAMPLE.org."
    assert heard.addresses(Type.A) == [(60, b"\xc0\0\2\1")]


def test_an_absence_lasts_as_its_authority_says() -> None:
    answer = dns.message.make_response(dns.message.make_query("no.org.", "A"))
    answer.set_rcode(dns.rcode.NXDOMAIN)
    answer.authority.append(
        dns.rrset.from_text("org.", 900, "IN", "SOA", "a. b. 1 7200 900 1209600 60")
    )
    assert read_answer(answer.to_wire()).seconds == 60


def test_what_cannot_be_read_is_answered_where_there_is_an_id() -> None:
    assert write_failure(b"\x12\x34\1\0" + b"\0" * 8, Code.FORMERR)[:4] == b"\x12\x34\x81\x81"
    assert write_failure(b"\x12", Code.FORMERR) == b""
    assert write_failure(b"\x12\x34\x80\0" + b"\0" * 8, Code.FORMERR) == b""


@pytest.mark.parametrize("name", ["a..b", "a" * 64, ".".join(["a" * 60] * 5), ".a"])
def test_a_name_that_cannot_be_is_not_written(name: str) -> None:
    with pytest.raises(Unencodable):
        encode_name(name)


@given(st.binary(max_size=600))
def test_no_bytes_do_more_than_be_refused(data: bytes) -> None:
    for read in (read_query, read_answer):
        try:
            read(data)
        except MalformedPacket:
            continue


@given(st.binary(max_size=80), st.integers(0, 80), st.sampled_from([ask(use_edns=0), ask()]))
def test_a_damaged_message_does_no_more_than_be_refused(
    damage: bytes, at: int, base: bytes
) -> None:
    data = base[:at] + damage + base[at + len(damage) :]
    try:
        query = read_query(data)
    except MalformedPacket:
        return
    answer = write_reply(query, Reply(answers=[name_record("a.b", Type.PTR, "c.d", 5)]))
    assert read_answer(answer).question == query.question


def test_answers_of_zero_records_are_not_kept() -> None:
    header = struct.pack("!6H", 1, 0x8180, 1, 0, 0, 0)
    assert read_answer(header + b"\1a\0\0\1\0\1").seconds == 0


def test_a_query_can_be_made_by_hand() -> None:
    assert Query(1, 0, "a", 1, 1, b"\1a\0\0\1\0\1").opcode == 0
