"""A client's login in front of AMQP 1.0: what it sends, what it makes of answers, however they are cut."""

from __future__ import annotations

import pytest

from gateway.errors import GatewayError, MalformedPacket, Unauthenticated, Undeliverable
from gateway.wire.amqp.connection import SASL_HEADER
from gateway.wire.amqp.performatives import SaslInit, SaslMechanisms, SaslOutcome
from gateway.wire.amqp.sasl_client import SaslClient, plain_response
from tests.unit.amqp_client import frame, frames_of

OFFER = SASL_HEADER + frame(SaslMechanisms(("EXTERNAL", "PLAIN")), kind=1)
ACCEPTED = frame(SaslOutcome(0), kind=1)


def a_client(mechanism: str = "PLAIN") -> SaslClient:
    return SaslClient(mechanism, plain_response("ann", "pw"), "host")


def test_it_introduces_itself_picks_its_mechanism_and_hands_on_the_rest() -> None:
    client = a_client()
    assert client.to_send() == SASL_HEADER
    client.receive(OFFER)
    ((_, said, _),) = frames_of(client.to_send())
    assert said == SaslInit("PLAIN", b"\0ann\0pw", "host")
    client.receive(ACCEPTED + b"AMQP\0\1\0\0")
    assert client.is_done
    assert client.rest == b"AMQP\0\1\0\0"


def test_where_the_network_cuts_changes_nothing() -> None:
    stream = OFFER + ACCEPTED + b"rest"
    for cut in range(1, len(stream)):
        client = a_client()
        sent = client.to_send()
        client.receive(stream[:cut])
        sent += client.to_send()
        early, client.rest = client.rest, b""
        if client.is_done:
            early += stream[cut:]
        else:
            client.receive(stream[cut:])
            sent += client.to_send()
        assert client.is_done
        assert early + client.rest == b"rest"
        assert len(frames_of(sent)) == 2


@pytest.mark.parametrize(
    ("stream", "error"),
    [
        (b"AMQP\0\1\0\0", MalformedPacket),
        (b"HTTP/1.1", MalformedPacket),
        (SASL_HEADER + frame(SaslMechanisms(("ANONYMOUS",)), kind=1), Unauthenticated),
        (SASL_HEADER + ACCEPTED, MalformedPacket),
        (OFFER + frame(SaslOutcome(1), kind=1), Unauthenticated),
        (OFFER + frame(SaslOutcome(4), kind=1), Undeliverable),
        (OFFER + OFFER[8:], MalformedPacket),
        (SASL_HEADER + b"\xff\xff\xff\xff\2\1\0\0", MalformedPacket),
        (SASL_HEADER + b"\0\0\0\7\2\1\0\0", MalformedPacket),
        (SASL_HEADER + b"\0\0\0\x08\2\1\0\0", MalformedPacket),
        (SASL_HEADER + b"\0\0\0\x0c\2\1\0\0\x40\x40\x40\x40", MalformedPacket),
        (SASL_HEADER + OFFER[8:].replace(b"\2\1", b"\2\0", 1), MalformedPacket),
    ],
)  # fmt: skip
def test_what_does_not_belong_there_ends_it(stream: bytes, error: type[GatewayError]) -> None:
    client = a_client()
    with pytest.raises(error):
        client.receive(stream)
    assert not client.is_done
