"""The operator's rules on namespaces: who is outside of them gets nothing in, and nothing out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, cast

import aiohttp
import msgspec
import pytest

from gateway.config.ditto import NamespaceRule
from gateway.ditto.auth import JWT, OPERATOR, Caller
from gateway.ditto.namespace_access import AccessRules
from gateway.errors import InvalidSetting
from tests.ditto_rig import USERS, EventReader, Stack, WsClient, a_ditto, curl, json_body, put
from tests.hono_rig import basic

RULES = (
    NamespaceRule(
        conditions=("{{ header:x-tenant | fn:filter('eq','acme') }}",),
        allowed_namespaces=("org.acme", "org.acme.*"),
        blocked_namespaces=("org.acme.secret",),
    ),
    NamespaceRule(conditions=("{{ header:x-tenant | fn:filter('eq','root') }}",)),
)
ACME = ("-H", "x-tenant: acme")
ROOT = ("-H", "x-tenant: root")
PUMP, FAR, SECRET, OTHER = "org.acme:pump", "org.acme.far:t", "org.acme.secret:t", "com.other:t"
CODE = "gateway:namespace.notaccessible"


@pytest.fixture(name="ditto")
async def a_stack() -> AsyncIterator[Stack]:
    async with a_ditto(access=RULES) as stack:
        for name in (PUMP, FAR, SECRET, OTHER):
            made = await put(f"{stack.api}/things/{name}", {"attributes": {"n": 1}}, *ROOT)
            assert made.status == 201
        yield stack


@pytest.mark.parametrize("name", [SECRET, OTHER])
@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "things/{0}", None),
        ("GET", "things/{0}/attributes/n", None),
        ("PUT", "things/{0}", {}),
        ("PUT", "things/{0}/attributes/n", 2),
        ("DELETE", "things/{0}", None),
        ("POST", "things/{0}/inbox/messages/ask", "x"),
        ("GET", "things?ids={0}", None),
        ("GET", "things/{0}/explain?path=/", None),
        ("GET", "policies/{0}", None),
        ("PUT", "policies/{0}", {}),
        ("DELETE", "policies/{0}", None),
    ],
)
async def test_what_is_outside_is_refused_before_anything_is_looked_at(
    ditto: Stack, name: str, method: str, path: str, body: Any
) -> None:
    url = f"{ditto.api}/{path.format(name)}"
    more = [] if body is None else json_body(body)
    refused = await curl("-X", method, url, *more, *ACME)
    assert (refused.status, refused.error) == (403, CODE)
    there = await curl(f"{ditto.api}/things/{name}/attributes/n", *ROOT)
    assert there.json == 1


async def test_whoever_no_rule_is_about_gets_nowhere_but_knows_who_it_is(ditto: Stack) -> None:
    refused = await curl(f"{ditto.api}/things/{PUMP}")
    assert (refused.status, refused.error) == (403, CODE)
    assert (await curl(f"{ditto.api}/search/things")).json["items"] == []
    assert (await curl(f"{ditto.api}/whoami")).status == 200
    nonsense = await curl(f"{ditto.api}/things/no-id", *ACME)
    assert (nonsense.status, nonsense.error) == (400, "things:id.invalid")


async def test_what_is_inside_works_as_without_rules(ditto: Stack) -> None:
    for name in (PUMP, FAR):
        assert (await curl(f"{ditto.api}/things/{name}", *ACME)).status == 200
        assert (await curl(f"{ditto.api}/policies/{name}", *ACME)).status == 200
    made = await put(f"{ditto.api}/things/org.acme.new:t", {}, *ACME)
    assert made.status == 201
    url = f"{ditto.api}/things?namespace=com.other"
    refused = await curl("-X", "POST", url, *json_body({}), *ACME)
    assert (refused.status, refused.error) == (403, CODE)
    refused = await curl("-X", "POST", f"{ditto.api}/policies", *json_body({}), *ACME)
    assert (refused.status, refused.error) == (403, CODE)


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("PUT", "things/org.acme:t", {"_copyPolicyFrom": OTHER}),
        ("PUT", "things/org.acme:t", {"_copyPolicyFrom": f"{{{{ ref:things/{OTHER}/policyId }}}}"}),
        ("PUT", "things/org.acme:t", {"policyId": OTHER}),
        ("PUT", "things/org.acme:t", {"policyId": "com.other:new", "_policy": {}}),
        ("PUT", "things/org.acme:t", {"_policy": {"policyId": "com.other:new"}}),
        ("PUT", "things/org.acme:t", {"_policy": {"imports": {OTHER: {}}}}),
        ("POST", "things?namespace=org.acme", {"_copyPolicyFrom": OTHER}),
        ("PUT", f"things/{PUMP}/policyId", OTHER),
        ("PATCH", f"things/{PUMP}", {"policyId": OTHER}),
        ("PUT", "policies/org.acme:p", {"entries": {}, "imports": {OTHER: {}}}),
        ("PUT", f"policies/{PUMP}/imports", {OTHER: {}}),
        ("PUT", f"policies/{PUMP}/imports/{OTHER}", {}),
        ("PUT", f"policies/{PUMP}/imports", {FAR: {"transitiveImports": [OTHER]}}),
        ("PUT", f"policies/{PUMP}/imports/{FAR}/transitiveImports", [OTHER]),
    ],
)
async def test_policies_outside_are_neither_given_nor_copied_nor_imported(
    ditto: Stack, method: str, path: str, body: Any
) -> None:
    kind = "application/merge-patch+json" if method == "PATCH" else "application/json"
    sent = ("-H", f"content-type: {kind}", "--data-binary", msgspec.json.encode(body).decode())
    url = f"{ditto.api}/{path}"
    refused = await curl("-X", method, url, *sent, *ACME)
    assert (refused.status, refused.error) == (403, CODE)


async def test_patches_and_commands_of_sessions_give_no_policy_from_outside(ditto: Stack) -> None:
    patches = [
        [{"op": "replace", "path": "/policyId", "value": OTHER}],
        [{"op": "add", "path": "", "value": {"policyId": OTHER}}],
    ]
    for patch in patches:
        sent = ("-H", "content-type: application/json-patch+json", "--data-binary")
        body = msgspec.json.encode(patch).decode()
        refused = await curl("-X", "PATCH", f"{ditto.api}/things/{PUMP}", *sent, body, *ACME)
        assert (refused.status, refused.error) == (403, CODE)
    lines = [
        {
            "topic": "org.acme/t/things/twin/commands/create",
            "path": "/",
            "value": {"_copyPolicyFrom": OTHER},
        },
        {
            "topic": "org.acme/pump/policies/commands/modify",
            "path": f"/imports/{OTHER}",
            "value": {},
        },
    ]
    answer = await curl(f"{ditto.api}/bulk", *json_body(lines), *ACME)
    assert [one["value"]["error"] for one in answer.json] == [CODE, CODE]


async def found(ditto: Stack, query: str, *headers: str) -> tuple[list[str], Any]:
    page = await curl("-g", f"{ditto.api}/search/things?fields=thingId&{query}", *headers)
    return [one["thingId"] for one in page.json["items"]], page.json.get("cursor")


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [FAR, PUMP]),
        ("namespaces=org.acme", [PUMP]),
        ("namespaces=org.acme,com.other,org.acme.secret", [PUMP]),
        ("namespaces=com.other", []),
        ("filter=eq(attributes/n,1)&option=sort(-thingId)", [PUMP, FAR]),
        ("filter=eq(thingId,'com.other:t')", []),
        ("filter=like(namespace,'*')", [FAR, PUMP]),
    ],
)
async def test_a_search_finds_what_is_inside(ditto: Stack, query: str, expected: list[str]) -> None:
    assert (await found(ditto, query, *ACME))[0] == expected
    counted = await curl(
        "-g", f"{ditto.api}/search/things/count?{query}".replace("option", "x"), *ACME
    )
    assert counted.json == len(expected)


async def test_a_cursor_shows_nobody_more_than_its_next_page_may(ditto: Stack) -> None:
    first, cursor = await found(ditto, "option=size(1)", *ROOT)
    assert first == [OTHER]
    rest, _ = await found(ditto, f"option=size(9),cursor({cursor})", *ACME)
    assert rest == [FAR, PUMP]
    first, cursor = await found(ditto, "option=size(1),sort(-thingId)", *ACME)
    assert first == [PUMP]
    rest, cursor = await found(ditto, f"option=size(1),cursor({cursor})", *ACME)
    assert (rest, cursor) == ([FAR], None)
    listed = await curl(f"{ditto.api}/things?fields=thingId", *ACME)
    assert [one["thingId"] for one in listed.json] == [FAR, PUMP]


async def test_questions_about_permissions_are_answered_with_no(ditto: Stack) -> None:
    asked = {
        name: {"resource": "thing:/", "entityId": name, "hasPermissions": ["READ"]}
        for name in (PUMP, OTHER)
    }
    answer = await curl(f"{ditto.api}/checkPermissions", *json_body(asked), *ACME)
    assert answer.json == {PUMP: True, OTHER: False}


# --- sessions -------------------------------------------------------------------------------------


@asynccontextmanager
async def a_session(ditto: Stack, tenant: str) -> AsyncIterator[WsClient]:
    headers = {**basic("ditto", USERS["ditto"]), "x-tenant": tenant}
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(f"{ditto.url}/ws/2", headers=headers) as socket,
    ):
        yield WsClient(socket)


async def test_a_session_is_narrowed_as_it_was_when_it_began(ditto: Stack) -> None:
    async with a_session(ditto, "acme") as client:
        for topic, path, value in (
            ("com.other/t/things/twin/commands/retrieve", "/", ...),
            ("com.other/t/things/twin/commands/modify", "/attributes/n", 5),
            ("com.other/t/policies/commands/retrieve", "/", ...),
            ("com.other/t/things/live/messages/ask", "/inbox/messages/ask", "x"),
            (
                "com.other/t/things/twin/streaming/subscribeForPersistedEvents",
                "/",
                {"fromHistoricalRevision": 1},
            ),
            ("_/_/things/twin/commands/retrieve", "/", {"thingIds": [PUMP, OTHER]}),
        ):
            answer = await client.ask(topic, path, value)
            assert answer["value"]["error"] == CODE, answer
            assert answer["status"] == 403
        answer = await client.ask("org.acme/pump/things/twin/commands/retrieve", "/attributes/n")
        assert answer["value"] == 1


async def test_a_session_hears_nothing_from_outside(ditto: Stack) -> None:
    async with a_session(ditto, "acme") as client:
        await client.control("START-SEND-EVENTS")
        for number, name in enumerate((OTHER, SECRET, PUMP), 2):
            await put(f"{ditto.api}/things/{name}/attributes/n", number, *ROOT)
        event = await client.envelope()
        assert (event["topic"], event["value"]) == ("org.acme/pump/things/twin/events/modified", 4)
        await client.control("STOP-SEND-EVENTS")
        await client.control("START-SEND-MESSAGES")
        for name in (OTHER, PUMP):
            url = f"{ditto.api}/things/{name}/inbox/messages/hello?timeout=0"
            assert (await curl("-X", "POST", url, "-d", "x", *ROOT)).status == 202
        message = await client.envelope()
        assert message["topic"] == "org.acme/pump/things/live/messages/hello"


async def test_an_event_stream_tells_nothing_from_outside(ditto: Stack) -> None:
    headers = {
        **basic("ditto", USERS["ditto"]),
        "x-tenant": "acme",
        "Accept": "text/event-stream",
    }
    async with (
        aiohttp.ClientSession() as session,
        session.get(f"{ditto.api}/things?fields=thingId", headers=headers) as answer,
    ):
        reader = EventReader(cast(Any, answer.content))
        assert await reader.line() == ":"
        for name in (OTHER, SECRET, PUMP):
            await put(f"{ditto.api}/things/{name}/attributes/n", 7, *ROOT)
        assert await reader.json() == {"thingId": PUMP}


async def test_a_session_finds_what_is_inside(ditto: Stack) -> None:
    async with a_session(ditto, "acme") as client:
        topic = "_/_/things/twin/search"
        created = await client.ask(f"{topic}/subscribe", "/", {}, fields="thingId")
        value = {"subscriptionId": created["value"]["subscriptionId"], "demand": 2}
        await client.socket.send_json({"topic": f"{topic}/request", "path": "/", "value": value})
        page = await client.envelope()
        assert [one["thingId"] for one in page["value"]["items"]] == [FAR, PUMP]


async def test_bulk_commands_are_narrowed_one_by_one(ditto: Stack) -> None:
    commands = [
        {"topic": f"{name.replace(':', '/')}/things/twin/commands/retrieve", "path": "/attributes"}
        for name in (PUMP, OTHER)
    ]
    answers = await curl(f"{ditto.api}/bulk", *json_body(commands), *ACME)
    assert [one["status"] for one in answers.json] == [200, 403]


# --- the rules themselves -------------------------------------------------------------------------


def a_caller(**claims: Any) -> Caller:
    return Caller(("acme:me",), JWT, None, claims)


def test_claims_decide_and_blocking_wins() -> None:
    rules = AccessRules(
        [
            NamespaceRule(
                conditions=("{{ jwt:iss | fn:filter('like','https://acme.org*') }}",),
                allowed_namespaces=("org.acme", "org.acme.*"),
            ),
            NamespaceRule(
                conditions=("{{ jwt:extra/roles | fn:filter('eq','auditor') }}",),
                allowed_namespaces=("com.?",),
                blocked_namespaces=("org.acme.hr",),
            ),
        ]
    )
    plain = rules.narrowed(a_caller(iss="https://acme.org/a"), {}).access.things
    assert [plain.admits(one) for one in ("org.acme", "org.acme.hr", "com.x", "org.acme2")] == [
        True,
        True,
        False,
        False,
    ]
    both = a_caller(iss="https://acme.org/a", extra={"roles": ["user", "auditor"]})
    found = rules.narrowed(both, {}).access.policies
    assert [found.admits(one) for one in ("org.acme", "org.acme.hr", "com.x", "com.xy")] == [
        True,
        False,
        True,
        False,
    ]
    stranger = rules.narrowed(a_caller(iss="https://evil.org"), {}).access
    assert not stranger.things.admits("org.acme")


def test_rules_for_one_kind_leave_the_other_alone() -> None:
    rules = AccessRules([NamespaceRule(resource_types=("thing",), allowed_namespaces=("a",))])
    access = rules.narrowed(a_caller(), {}).access
    assert (access.things.admits("b"), access.policies.admits("b")) == (False, True)


def test_a_header_that_may_be_missing_has_a_default() -> None:
    condition = "{{ header:x-zone | fn:default('safe') | fn:filter('ne','dangerous') }}"
    rules = AccessRules([NamespaceRule(conditions=(condition,))])
    assert rules.narrowed(a_caller(), {}).access.things.admits("a")
    assert not rules.narrowed(a_caller(), {"x-zone": "dangerous"}).access.things.admits("a")


def test_operators_are_not_narrowed() -> None:
    rules = AccessRules([NamespaceRule(allowed_namespaces=("a",))])
    assert rules.narrowed(Caller((), OPERATOR), {}).access.things.admits("b")


@pytest.mark.parametrize(
    "rule",
    [
        NamespaceRule(allowed_namespaces=("org acme",)),
        NamespaceRule(blocked_namespaces=("[a-z]*",)),
        NamespaceRule(blocked_namespaces=("",)),
        NamespaceRule(resource_types=("message",)),
        NamespaceRule(conditions=("{{ thing:id }}",)),
        NamespaceRule(conditions=("{{ jwt:iss | fn:nonsense() }}",)),
    ],
)
def test_rules_that_could_not_be_meant_stop_the_start(rule: NamespaceRule) -> None:
    with pytest.raises(InvalidSetting, match=r"namespace_access\[1\]"):
        AccessRules([NamespaceRule(), rule])
