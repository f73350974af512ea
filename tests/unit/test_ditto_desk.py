"""What a sender wants to be told, by its headers; who may issue which label."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.ditto.acknowledgements import LIVE_RESPONSE, TWIN_PERSISTED, requested
from gateway.ditto.desk import Desk
from gateway.errors import GatewayError
from gateway.wire.ditto.read import Acknowledgement

OWN = "my:ack"


@pytest.mark.parametrize(
    ("default", "timeout", "headers", "required", "labels"),
    [
        (TWIN_PERSISTED, 60, {}, True, (TWIN_PERSISTED,)),
        (LIVE_RESPONSE, 10, {}, True, (LIVE_RESPONSE,)),
        (TWIN_PERSISTED, 0, {}, False, ()),
        (TWIN_PERSISTED, 60, {"requested-acks": []}, False, ()),
        (TWIN_PERSISTED, 60, {"response-required": False}, False, ()),
        (TWIN_PERSISTED, 60, {"requested-acks": [], "response-required": True}, True, ()),
        (TWIN_PERSISTED, 60, {"requested-acks": [OWN]}, True, (OWN,)),
        (LIVE_RESPONSE, 10, {"requested-acks": [OWN]}, True, (OWN, LIVE_RESPONSE)),
        (LIVE_RESPONSE, 10, {"requested-acks": [OWN, OWN]}, True, (OWN, LIVE_RESPONSE)),
        (
            LIVE_RESPONSE,
            10,
            {"requested-acks": [OWN, LIVE_RESPONSE], "response-required": False},
            False,
            (OWN,),
        ),
    ],
)
def test_headers_left_out_have_dittos_defaults(
    default: str, timeout: float, headers: dict[str, Any], required: bool, labels: tuple[str, ...]
) -> None:
    found = requested(headers, default, timeout)
    assert (found.response_required, found.labels) == (required, labels)


@pytest.mark.parametrize(
    "headers",
    [
        {"response-required": True},
        {"requested-acks": [OWN]},
        {"requested-acks": [OWN], "response-required": False},
    ],
)
def test_nothing_can_be_waited_for_without_time(headers: dict[str, Any]) -> None:
    with pytest.raises(GatewayError) as caught:
        requested(headers, TWIN_PERSISTED, 0)
    assert (caught.value.status, caught.value.code) == (400, "header.invalid")


def test_too_many_labels_are_refused() -> None:
    many: dict[str, Any] = {"requested-acks": [f"my:{n}" for n in range(51)]}
    with pytest.raises(GatewayError) as caught:
        requested(many, TWIN_PERSISTED, 60)
    assert caught.value.code == "header.invalid"


def an_ack(label: str) -> Acknowledgement:
    return Acknowledgement(
        thing_id="a:b", channel="twin", label=label, correlation_id="c", status=200
    )


def test_a_label_is_issued_by_its_owner_alone_and_is_free_again_at_the_end() -> None:
    desk = Desk()
    end = desk.declare([OWN], "one")
    assert not desk.acknowledge(an_ack(OWN), "one")
    for label, owner, code in (
        (OWN, "two", "acknowledgement:label.not.declared"),
        (TWIN_PERSISTED, "one", "acknowledgement:ditto.acklabel.forbidden"),
    ):
        with pytest.raises(GatewayError) as caught:
            desk.acknowledge(an_ack(label), owner)
        assert caught.value.code == code
    with pytest.raises(GatewayError) as caught:
        desk.declare(["other:ack", OWN], "two")
    assert caught.value.code == "acknowledgement:label.not.unique"
    end()
    desk.declare(["other:ack", OWN], "two")
    end()
    assert not desk.acknowledge(an_ack(OWN), "two")
