"""Request ids: what a device echoes finds its way back to the application."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import BadRequest
from gateway.hono.request_ids import (
    encode_amqp_reply_to,
    encode_request_id,
    parse_amqp_reply_to,
    parse_request_id,
)
from gateway.model.message import Command


def a_command(
    reply_to: str | None = "command_response/acme/app-7", correlation_id: str | None = "c1"
) -> Command:
    return Command(
        tenant="acme",
        device="dev7",
        name="blink",
        payload=b"",
        reply_to=reply_to,
        correlation_id=correlation_id,
    )


def test_a_request_id_has_flag_length_correlation_id_and_reply_id() -> None:
    assert encode_request_id(a_command()) == "002c1app-7"


def test_the_device_id_is_cut_from_the_reply_id_and_the_flag_says_so() -> None:
    command = a_command("command_response/acme/dev7/app-7")
    assert encode_request_id(command) == "102c1app-7"
    assert parse_request_id("102c1app-7", "acme", "dev7") == ("c1", "dev7/app-7")


def test_a_one_way_command_has_no_request_id() -> None:
    assert encode_request_id(a_command(None)) == ""
    assert encode_amqp_reply_to(a_command(None)) is None


@pytest.mark.parametrize(
    ("reply_to", "correlation_id"),
    [
        ("command_response/other/app-7", "c1"),
        ("command_response/acme/", "c1"),
        ("telemetry/acme/app-7", "c1"),
        ("command_response/acme/app-7", None),
        ("command_response/acme/app-7", "x" * 256),
    ],
)
def test_a_reply_address_of_another_form_is_refused(
    reply_to: str, correlation_id: str | None
) -> None:
    with pytest.raises(BadRequest):
        encode_request_id(a_command(reply_to, correlation_id))


@pytest.mark.parametrize(
    "request_id",
    [
        "",
        "x",
        "0",
        "00",
        "0zzabc",
        "0ffabc",
        "002c1",
        "000reply",
        "202c1app-7",
        "902c1app",
        "²02c1a",
    ],
)
def test_a_broken_request_id_is_a_bad_request(request_id: str) -> None:
    with pytest.raises(BadRequest):
        parse_request_id(request_id, "acme", "dev7")


@given(
    correlation_id=st.text(min_size=1, max_size=255),
    reply_id=st.text(min_size=1, max_size=100),
)
def test_every_request_id_reads_back(correlation_id: str, reply_id: str) -> None:
    command = a_command(f"command_response/acme/{reply_id}", correlation_id)
    assert parse_request_id(encode_request_id(command), "acme", "dev7") == (
        correlation_id,
        reply_id,
    )


@given(reply_id=st.text(min_size=1, max_size=100))
def test_every_amqp_reply_address_reads_back(reply_id: str) -> None:
    address = encode_amqp_reply_to(a_command(f"command_response/acme/{reply_id}"))
    assert address is not None
    assert parse_amqp_reply_to(address) == ("acme", "dev7", reply_id)


@pytest.mark.parametrize(
    "address", ["", "command_response/acme/dev7", "command_response/acme/dev7/0", "x/acme/dev7/0a"]
)
def test_a_broken_amqp_reply_address_is_a_bad_request(address: str) -> None:
    with pytest.raises(BadRequest):
        parse_amqp_reply_to(address)
