"""Messages and their answers against the actions and events of Thing Models."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.thing import Direction, Thing, ThingMessage, ThingMessageResponse
from gateway.twin.wot.model import Submodel, ThingModel
from gateway.twin.wot.validation_messages import check_message, check_response
from gateway.twin.wot.validation_rules import (
    DEFAULT_RULES,
    Rules,
    checked_switches,
    with_switches,
)
from gateway.twin.wot.validation_schema import Schemas

LAMP, LIGHT = "https://models.acme.org/lamp", "https://models.acme.org/light"
_ACTIONS: dict[str, Any] = {
    "dim": {"input": {"type": "number", "maximum": 1}, "output": {"type": "boolean"}},
    "blink": {},
}
_EVENTS: dict[str, Any] = {"burnt": {"data": {"type": "object", "required": ["at"]}}, "hot": {}}
MODELS = {
    LAMP: ThingModel(
        url=LAMP,
        document={},
        actions=_ACTIONS,
        events=_EVENTS,
        submodels=(Submodel("light", LIGHT), Submodel("bare", LIGHT)),
    ),
    LIGHT: ThingModel(url=LIGHT, document={}, actions=_ACTIONS, events=_EVENTS),
}


class Known:
    def get(self, url: str) -> ThingModel | None:
        return MODELS.get(url)


THING = Thing(
    "org.acme:lamp",
    1,
    {"definition": LAMP, "features": {"light": {"definition": [LIGHT]}, "bare": {}}},
    "t",
    "t",
)
JSON = "application/json"


def a_message(
    direction: Direction,
    subject: str,
    payload: bytes = b"",
    content_type: str | None = JSON,
    feature_id: str | None = None,
) -> ThingMessage:
    return ThingMessage(
        thing_id="org.acme:lamp",
        subject=subject,
        direction=direction,
        correlation_id="c",
        subjects=(),
        feature_id=feature_id,
        payload=payload,
        content_type=content_type,
    )


def sent(message: ThingMessage, rules: Rules = DEFAULT_RULES) -> GatewayError | None:
    try:
        check_message(message, THING, Known(), rules, Schemas())
    except GatewayError as error:
        return error
    return None


def answered(
    message: ThingMessage, payload: bytes, status: int = 200, rules: Rules = DEFAULT_RULES
) -> GatewayError | None:
    answer = ThingMessageResponse(
        thing_id="org.acme:lamp",
        correlation_id="c",
        status=status,
        payload=payload,
        content_type=JSON,
    )
    try:
        check_response(message, answer, THING, Known(), rules, Schemas())
    except GatewayError as error:
        return error
    return None


def switched_off(section: str, kind: str, name: str) -> Rules:
    return with_switches(DEFAULT_RULES, checked_switches({section: {kind: {name: False}}}))


IN, OUT = Direction.TO, Direction.FROM

REFUSED = [
    (IN, "dim", b"2", JSON, "/inbox/messages/dim", ("enforce", "inbox-messages-input")),
    (IN, "dim", b'"x"', JSON, "/inbox/messages/dim", ("enforce", "inbox-messages-input")),
    (IN, "dim", b"", None, None, ("enforce", "inbox-messages-input")),
    (IN, "dim", b"0.5", "text/plain", None, ("enforce", "inbox-messages-input")),
    (IN, "dim", b"{", JSON, None, ("enforce", "inbox-messages-input")),
    (IN, "dim", b"[" * 10_000, JSON, None, ("enforce", "inbox-messages-input")),
    (IN, "explode", b"", None, None, ("forbid", "non-modeled-inbox-messages")),
    (OUT, "burnt", b"{}", JSON, "/outbox/messages/burnt", ("enforce", "outbox-messages")),
    (OUT, "dim", b"1", JSON, None, ("forbid", "non-modeled-outbox-messages")),
]


@pytest.mark.parametrize(
    ("feature_id", "section"), [(None, "thing"), ("light", "feature"), ("bare", "feature")]
)
@pytest.mark.parametrize(
    ("direction", "subject", "payload", "content_type", "detail", "switch"), REFUSED
)
def test_messages_that_do_not_fit_are_refused_and_one_switch_allows_them(
    direction: Direction,
    subject: str,
    payload: bytes,
    content_type: str | None,
    detail: str | None,
    switch: tuple[str, str],
    feature_id: str | None,
    section: str,
) -> None:
    message = a_message(direction, subject, payload, content_type, feature_id)
    refused = sent(message)
    assert refused is not None
    assert (refused.status, refused.code) == (400, "wot:payload.validation.error")
    details = refused.details.get("validationDetails")
    at = "" if feature_id is None else f"/features/{feature_id}"
    assert details is None if detail is None else [*details] == [at + detail]  # type: ignore[misc]
    assert sent(message, switched_off(section, *switch)) is None


@pytest.mark.parametrize("feature_id", [None, "light", "bare"])
@pytest.mark.parametrize(
    ("direction", "subject", "payload", "content_type"),
    [
        (IN, "dim", b"0.5", JSON),
        (IN, "dim", b"0.5", "application/vnd.acme+json; charset=utf-8"),
        (IN, "blink", b"anything", "text/plain"),
        (IN, "blink", b"", None),
        (OUT, "burnt", b'{"at": 1}', JSON),
        (OUT, "hot", b"\x00\xff", "application/octet-stream"),
    ],
)
def test_messages_that_fit_are_sent(
    direction: Direction,
    subject: str,
    payload: bytes,
    content_type: str | None,
    feature_id: str | None,
) -> None:
    assert sent(a_message(direction, subject, payload, content_type, feature_id)) is None


def test_claims_and_features_without_a_model_are_not_judged() -> None:
    assert sent(a_message(IN, "claim", b"x", "text/plain")) is None
    assert sent(a_message(IN, "explode", feature_id="unknown")) is None
    assert sent(a_message(IN, "claim", feature_id="light")) is not None


@pytest.mark.parametrize(("feature_id", "section"), [(None, "thing"), ("light", "feature")])
def test_an_answer_fits_the_output_of_its_action(feature_id: str | None, section: str) -> None:
    message = a_message(IN, "dim", b"0.5", feature_id=feature_id)
    assert answered(message, b"true") is None
    refused = answered(message, b"5")
    assert refused is not None
    assert "output" in str(refused.description)
    assert answered(message, b"") is not None
    assert answered(message, b'{"error": 1}', status=404) is None
    assert answered(a_message(IN, "blink", feature_id=feature_id), b"5") is None
    off = switched_off(section, "enforce", "inbox-messages-output")
    assert answered(message, b"5", rules=off) is None
