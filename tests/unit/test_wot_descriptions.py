"""Thing Descriptions made of models: members, forms, placeholders, and what a policy leaves of them."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.errors import GatewayError
from gateway.model.json import JsonObject
from gateway.model.thing import Thing
from gateway.twin.policy import Permissions, build_enforcer
from gateway.twin.wot.description import DescriptionRules, Subject, describe, model_url
from gateway.twin.wot.directory import directory
from gateway.twin.wot.documents import read_document
from gateway.twin.wot.filtering import may_see, reduced
from gateway.twin.wot.placeholders import resolved
from gateway.twin.wot.resolving import resolve
from tests.wot_samples import BREWER, CONTEXT, DOCUMENTS, LAMP, MACHINE, SWITCH

BASE = "https://models.acme.org"
NOW = "2026-01-01T00:00:00.000000Z"
SECURITY: JsonObject = {
    "securityDefinitions": {"basic_sc": {"scheme": "basic", "in": "header"}},
    "security": "basic_sc",
}
RULES = DescriptionRules(base="https://iot.acme.org", template=SECURITY)
THING = Thing(
    "org.acme:coffee 1",
    7,
    {
        "policyId": "org.acme:p",
        "definition": BASE + MACHINE,
        "attributes": {"model-placeholders": {"SERIES": "77"}},
        "features": {
            "brewer": {
                "definition": [BASE + BREWER],
                "properties": {"model-placeholders": {"MODEL_NAME": "Moka"}},
            },
            "front lamp": {"definition": [BASE + LAMP, BASE + SWITCH]},
            "plain": {"definition": ["acme:plain:1"]},
            "bare": {},
        },
    },
    "2025-12-31T23:59:59Z",
    NOW,
)


def described(feature_id: str | None = None, rules: DescriptionRules = RULES) -> Any:
    subject = Subject(THING, feature_id)
    known = {BASE + p: read_document(BASE + p, d) for p, d in DOCUMENTS.items()}
    return describe(subject, resolve(model_url(subject), known), rules)


def hrefs(forms: Any) -> list[tuple[Any, str, str]]:
    return [(form["op"], form["htv:methodName"], form["href"]) for form in forms]


def test_a_thing_is_described_with_all_that_a_description_must_have() -> None:
    td = described()
    assert td["@context"] == CONTEXT
    assert td["@type"] == "Thing"
    assert td["title"] == "Coffee machine"
    assert td["id"] == "urn:org.acme:coffee%201"
    assert td["base"] == "https://iot.acme.org/api/2/things/org.acme:coffee%201/"
    assert td["version"] == {"model": "1.0.0", "instance": "1.0.0"}
    assert td["security"] == "basic_sc"
    assert td["securityDefinitions"]["basic_sc"]["scheme"] == "basic"
    assert td["created"] == "2025-12-31T23:59:59Z"
    assert "modified" not in td
    assert "tm:optional" not in td
    assert set(td["uriVariables"]) == {"channel", "timeout", "response-required", "fields"}
    assert td["schemaDefinitions"]["dittoError"]["required"] == ["status", "error", "message"]


def test_the_links_lead_to_the_model_and_to_the_features() -> None:
    assert described()["links"] == [
        {"rel": "type", "href": BASE + MACHINE, "type": "application/tm+json"},
        {"rel": "item", "href": "features/brewer", "type": "application/td+json"},
        {"rel": "item", "href": "features/front%20lamp", "type": "application/td+json"},
        {"rel": "license", "href": "https://acme.org/license"},
    ]


def test_the_root_forms_read_write_and_observe_the_attributes() -> None:
    assert hrefs(described()["forms"]) == [
        ("readallproperties", "GET", "attributes{?channel,timeout}"),
        ("readmultipleproperties", "GET", "attributes{?fields,channel,timeout}"),
        ("writeallproperties", "PUT", "attributes{?channel,timeout,response-required}"),
        ("writemultipleproperties", "PATCH", "attributes{?channel,timeout,response-required}"),
        (["observeallproperties", "unobserveallproperties"], "GET", "attributes"),
        (["subscribeallevents", "unsubscribeallevents"], "GET", "outbox/messages"),
    ]


def test_a_property_is_an_attribute_in_its_category() -> None:
    td = described()
    href = "attributes/counters/cups"
    cups = td["properties"]["cups"]
    assert hrefs(cups["forms"]) == [
        ("readproperty", "GET", href + "{?channel,timeout}"),
        ("writeproperty", "PUT", href + "{?channel,timeout,response-required}"),
        ("writeproperty", "PATCH", href + "{?channel,timeout,response-required}"),
        (["observeproperty", "unobserveproperty"], "GET", href),
    ]
    assert [form["contentType"] for form in cups["forms"]] == [
        "application/json",
        "application/json",
        "application/merge-patch+json",
        "text/event-stream",
    ]
    assert cups["forms"][3]["subprotocol"] == "sse"
    assert cups["observable"] is True
    reading = hrefs(td["properties"]["pressure"]["forms"])
    assert [op for op, _, _ in reading] == [
        "readproperty",
        ["observeproperty", "unobserveproperty"],
    ]


def test_an_action_is_a_message_to_the_inbox_and_an_event_one_from_the_outbox() -> None:
    td = described()
    brew = td["actions"]["brew"]
    assert brew["synchronous"] is True
    href = "inbox/messages/brew{?timeout,response-required}"
    assert hrefs(brew["forms"]) == [("invokeaction", "POST", href)]
    assert hrefs(td["events"]["empty"]["forms"]) == [
        ("subscribeevent", "GET", "outbox/messages/empty")
    ]


def test_a_feature_is_described_below_its_thing() -> None:
    td = described("front lamp")
    thing = "https://iot.acme.org/api/2/things/org.acme:coffee%201/"
    assert td["id"] == "urn:org.acme:coffee%201/features/front%20lamp"
    assert td["base"] == thing + "features/front%20lamp/"
    assert td["links"] == [
        {"rel": "collection", "href": thing, "type": "application/td+json"},
        {"rel": "type", "href": BASE + LAMP, "type": "application/tm+json"},
    ]
    assert hrefs(td["properties"]["on"]["forms"])[0][2] == "properties/on{?channel,timeout}"
    assert [*td["actions"]] == ["toggle"]


def test_types_beside_that_of_a_model_stay() -> None:
    assert described("brewer")["@type"] == ["Thing", "saref:Appliance"]


def test_what_the_operator_says_wins_over_the_model() -> None:
    rules = DescriptionRules(
        base="http://x",
        template={**SECURITY, "support": "mailto:help@acme.org", "title": "Ours"},
        created=False,
        modified=True,
        uri_variables=False,
    )
    td = described(rules=rules)
    assert (td["support"], td["title"], td["modified"]) == ("mailto:help@acme.org", "Ours", NOW)
    assert "created" not in td
    assert "uriVariables" not in td
    assert "{?" not in str(td)


def test_forms_that_the_model_has_are_kept_and_completed() -> None:
    document: JsonObject = {
        "@type": "tm:ThingModel",
        "properties": {"a": {"forms": [{"op": "x", "href": "/"}]}},
    }
    url = "https://models.acme.org/own"
    thing = Thing("a:b", 1, {"definition": url}, NOW, NOW)
    model = resolve(url, {url: read_document(url, document)})
    td: Any = describe(Subject(thing), model, RULES)
    assert td["properties"]["a"]["forms"][0]["href"] == "attributes/a"
    assert td["@context"] == "https://www.w3.org/2022/wot/td/v1.1"
    assert td["title"] == "a:b"


def test_a_document_without_the_type_of_a_model_is_not_described() -> None:
    url = "https://models.acme.org/own"
    model = resolve(url, {url: read_document(url, {"title": "a Thing Description"})})
    with pytest.raises(GatewayError) as caught:
        describe(Subject(THING), model, RULES)
    assert caught.value.code == "wot:tm.invalid"


@pytest.mark.parametrize(
    ("feature_id", "code"),
    [
        ("plain", "wot:definition.invalid"),
        ("bare", "wot:definition.invalid"),
        ("none", "things:feature.notfound"),
    ],
)
def test_without_a_url_as_definition_there_is_no_description(feature_id: str, code: str) -> None:
    with pytest.raises(GatewayError) as caught:
        described(feature_id)
    assert (caught.value.status, caught.value.code) == (404, code)


# --- placeholders ------------------------------------------------------------------------------


def test_placeholders_take_the_values_of_the_thing_or_feature() -> None:
    assert described()["properties"]["serial"]["const"] == "S-77"
    assert described("brewer")["title"] == "Brewer Moka"


def test_placeholders_without_a_value_of_the_thing_take_the_settings() -> None:
    document: JsonObject = {"a": "{{ X }}", "b": ["{{Y}}", "v{{Y}}"], "{{X}}": 1}
    values: JsonObject = {"X": ["/properties/a"], "Y": 5}
    assert resolved(document, values) == {"a": ["/properties/a"], "b": [5, "v5"], "{{X}}": 1}


def test_a_placeholder_without_any_value_is_an_error_that_names_it() -> None:
    with pytest.raises(GatewayError) as caught:
        resolved({"a": [{"b": "x{{ NO_VALUE }}"}]}, {})
    assert (caught.value.status, caught.value.code) == (400, "wot:tm.placeholder.unresolved")
    assert "NO_VALUE" in caught.value.message


# --- permissions -------------------------------------------------------------------------------


def permissions(**resources: dict[str, list[str]]) -> Permissions:
    keys = {name.replace("__", ":/").replace("_", "/"): rule for name, rule in resources.items()}
    document: JsonObject = {
        "entries": {
            "A": {
                "subjects": {"nginx:alice": {"type": "x"}},
                "resources": keys,  # type: ignore[dict-item]
            }
        }
    }
    enforcer = build_enforcer(document, {})
    return enforcer.permissions(("nginx:alice",), "org.acme", NOW)


def seen(feature_id: str | None = None, **resources: dict[str, list[str]]) -> Any:
    subject = Subject(THING, feature_id)
    known = {BASE + p: read_document(BASE + p, d) for p, d in DOCUMENTS.items()}
    model = resolve(model_url(subject), known)
    granted = permissions(**resources)
    assert may_see(subject, granted)
    return reduced(describe(subject, model, RULES), subject, model, granted)


READ = {"grant": ["READ"], "revoke": []}
WRITE = {"grant": ["WRITE"], "revoke": []}
BOTH = {"grant": ["READ", "WRITE"], "revoke": []}


def test_who_may_do_everything_sees_everything() -> None:
    assert seen(thing__=BOTH, message__=BOTH) == described()


def test_who_may_only_read_sees_no_way_to_write() -> None:
    td = seen(thing__=READ)
    assert set(td["properties"]) == {
        "manufacturer",
        "note",
        "serial",
        "cups",
        "nickname",
        "pressure",
    }
    assert all(one["readOnly"] for one in td["properties"].values())
    assert "writeproperty" not in str(td["properties"])
    assert "writeallproperties" not in str(td["forms"])
    assert "readallproperties" in str(td["forms"])
    assert "actions" not in td
    assert "events" not in td


def test_a_property_that_may_not_be_read_is_left_out_by_its_category() -> None:
    td = seen(thing__attributes_counters=BOTH)
    assert [*td["properties"]] == ["cups"]
    assert "readOnly" not in td["properties"]["cups"]
    assert [link["rel"] for link in td["links"]] == ["type", "license"]


def test_actions_need_write_and_events_need_read_on_messages() -> None:
    td = seen(message__inbox_messages_brew=WRITE, message__outbox_messages_empty=READ)
    assert [*td["actions"]] == ["brew"]
    assert [*td["events"]] == ["empty"]
    assert "properties" not in td
    assert [form["op"] for form in td["forms"]] == [["subscribeallevents", "unsubscribeallevents"]]


def test_a_link_to_a_feature_stays_where_anything_of_it_may_be_read() -> None:
    td = seen(thing__features_brewer_properties_status=READ)
    assert [link["href"] for link in td["links"] if link["rel"] == "item"] == ["features/brewer"]


def test_the_rules_of_a_feature_are_those_of_its_own_resources() -> None:
    td = seen("brewer", thing__features_brewer_properties_status=READ)
    assert [*td["properties"]] == ["temperature"]
    assert "actions" not in td
    assert [link["rel"] for link in td["links"]] == ["collection", "type"]


def test_who_may_nothing_at_all_sees_nothing() -> None:
    assert not may_see(Subject(THING), permissions())
    assert not may_see(Subject(THING, "brewer"), permissions(thing__attributes=READ))


# --- the directory -----------------------------------------------------------------------------


def test_the_directory_describes_how_things_are_listed_and_found() -> None:
    td: Any = directory("https://iot.acme.org", SECURITY)
    assert td["@type"] == "ThingDirectory"
    assert td["@context"][1] == "https://www.w3.org/2022/wot/discovery"
    assert td["base"] == "https://iot.acme.org/"
    assert td["security"] == "basic_sc"
    assert td["properties"]["things"]["forms"][0]["href"] == "api/2/things{?offset,limit,format}"
    assert td["actions"]["retrieveThing"]["forms"][0]["href"] == "api/2/things/{thingId}"
