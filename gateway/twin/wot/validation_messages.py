"""Whether a message, or the answer to one, fits the actions and events of its Thing Model.

A message to the inbox is an action: its payload is the `input`, the answer the `output`. A message from the
outbox is an event with `data`. Claims are never judged, nor are answers that report a failure.
Source: Ditto 3.9, WoT integration (validation).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from gateway.model.json import Json, Pointer
from gateway.model.thing import Direction, Thing, ThingMessage, ThingMessageResponse
from gateway.twin.authorization import CLAIM, message_path
from gateway.twin.documents import MISSING, Maybe
from gateway.twin.wot.model import Models, ThingModel, feature_of, url_of
from gateway.twin.wot.validation_faults import Fault, refusal
from gateway.twin.wot.validation_rules import FeatureRules, Rules, ThingRules
from gateway.twin.wot.validation_schema import Checker, Schemas, texts_of

_FAILURES: Final = 400
"""The first status of an answer that is none to the question."""


def check_message(
    message: ThingMessage, thing: Thing, models: Models, rules: Rules, schemas: Schemas
) -> None:
    """Refuse a message that the rules forbid.

    Errors: 400 `wot:payload.validation.error`, 400 `wot:tm.invalid` for a model with a bad schema.
    """
    model = _model_of(message, thing, models)
    if model is None or _is_claim(message):
        return
    case = _Case(message, model, schemas.checker(), message.payload, message.content_type)
    switches = _switches(message, rules)
    if message.direction is Direction.TO:
        if switches.enforce.inbox_messages_input:
            _refuse(_input(case, is_closed=switches.forbid.non_modeled_inbox_messages))
    elif switches.enforce.outbox_messages:
        _refuse(_data(case, is_closed=switches.forbid.non_modeled_outbox_messages))


def check_response(
    message: ThingMessage,
    answer: ThingMessageResponse,
    thing: Thing,
    models: Models,
    rules: Rules,
    schemas: Schemas,
) -> None:
    """Refuse an answer to a message; errors as `check_message`."""
    model = _model_of(message, thing, models)
    if model is None or _is_claim(message) or message.direction is not Direction.TO:
        return
    if answer.status >= _FAILURES or not _switches(message, rules).enforce.inbox_messages_output:
        return
    case = _Case(message, model, schemas.checker(), answer.payload, answer.content_type)
    _refuse(_payload(case, model.actions.get(message.subject, {}).get("output"), "output"))


@dataclass(frozen=True, slots=True)
class _Case:
    message: ThingMessage
    model: ThingModel
    checker: Checker
    payload: bytes
    content_type: str | None

    @property
    def subject(self) -> str:
        return self.message.subject

    @property
    def path(self) -> Pointer:
        return message_path(self.message)

    @property
    def owner(self) -> str:
        feature_id = self.message.feature_id
        return "The Thing's" if feature_id is None else f"Feature <{feature_id}>'s"


def _is_claim(message: ThingMessage) -> bool:
    return message.subject == CLAIM and message.feature_id is None


def _switches(message: ThingMessage, rules: Rules) -> ThingRules | FeatureRules:
    return rules.thing if message.feature_id is None else rules.feature


def _model_of(message: ThingMessage, thing: Thing, models: Models) -> ThingModel | None:
    named = url_of(thing.document.get("definition"))
    model = models.get(named) if named is not None else None
    if message.feature_id is None:
        return model
    feature = feature_of(thing.document, message.feature_id) or {}
    own = url_of(feature.get("definition"))
    link = model.submodel(message.feature_id) if model is not None else None
    if own is None and link is not None:
        own = link.href
    return models.get(own) if own is not None else None


def _refuse(faults: Iterator[Fault]) -> None:
    found = [*faults]
    if found:
        raise refusal(found)


def _input(case: _Case, *, is_closed: bool) -> Iterator[Fault]:
    action = case.model.actions.get(case.subject)
    if action is not None:
        yield from _payload(case, action.get("input"), "input")
    elif is_closed:
        yield _unknown(case, "action", case.model.actions)


def _data(case: _Case, *, is_closed: bool) -> Iterator[Fault]:
    event = case.model.events.get(case.subject)
    if event is not None:
        yield from _payload(case, event.get("data"), "data")
    elif is_closed:
        yield _unknown(case, "event", case.model.events)


def _unknown(case: _Case, kind: str, known: Mapping[str, object]) -> Fault:
    names = ", ".join([*known][:20])
    return Fault(
        f"{case.owner} message subject <{case.subject[:200]}> is no {kind} of the model: [{names}]"
    )


def _payload(case: _Case, schema: Json, role: str) -> Iterator[Fault]:
    if not isinstance(schema, dict):
        return
    value = _json(case)
    if isinstance(value, Fault):
        yield value
        return
    if value is MISSING:
        yield Fault(f"{case.owner} message <{case.subject}> needs a JSON value as {role}.")
        return
    kind = "events" if role == "data" else "actions"
    where = (case.model.url, f"/{kind}/{case.subject}/{role}")
    findings = case.checker.findings(where, schema, value)
    if findings:
        yield Fault(
            f"The {role} of {_lower(case.owner)} message <{case.subject}> does not fit the model, see"
            " the validation details.",
            ((case.path, tuple(texts_of(findings))),),
        )


def _json(case: _Case) -> Maybe | Fault:
    if not case.payload:
        return MISSING
    kind = (case.content_type or "").partition(";")[0].strip().lower()
    if kind != "application/json" and not kind.endswith("+json"):
        return Fault(
            f"{case.owner} message <{case.subject}> cannot be judged: its content type"
            f" <{kind[:100]}> is not JSON."
        )
    try:
        value: Json = msgspec.json.decode(case.payload)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return Fault(f"The payload of {_lower(case.owner)} message <{case.subject}> is no JSON.")
    return value


def _lower(owner: str) -> str:
    return owner.replace("The Thing's", "the Thing's")
