"""What operators use: health, statistics, log levels, settings, piggyback commands; and cloud events."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from gateway.ditto.devops_http import MASK, masked
from gateway.ditto.health import Health
from gateway.errors import StoreUnavailable
from tests.ditto_rig import PUMP, Answer, Stack, curl, json_body, put
from tests.openapi_rig import with_connections

DEVOPS = "devops:foobar"
SERVICES = {"things", "policies", "gateway", "connectivity", "things-search"}
ME: dict[str, Any] = {"ditto-auth-context": {"subjects": ["nginx:ditto"]}}
SUDO = {"ditto-sudo": True}


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with with_connections() as stack:
        made = await put(f"{stack.api}/things/{PUMP}", {"attributes": {"a": 1}})
        assert made.status == 201
        yield stack


async def piggyback(
    ditto: Stack, headers: dict[str, Any], service: str = "", **command: Any
) -> Answer:
    body = {"targetActorSelection": "/any", "headers": headers, "piggybackCommand": command}
    url = f"{ditto.url}/devops/piggyback{service}"
    return await curl("-X", "POST", url, *json_body(body), user=DEVOPS)


# --- health and statistics ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "user"),
    [
        ("/health", ""),
        ("/status", ""),
        ("/status/health", ""),
        ("/overall/status", "status:status"),
        ("/overall/status/health", DEVOPS),
    ],
)
async def test_health_is_up_everywhere(ditto: Stack, path: str, user: str) -> None:
    found = await curl(f"{ditto.url}{path}", user=user)
    assert (found.status, found.json["status"]) == (200, "UP")


async def test_status_names_each_role_and_how_long_it_has_been_up(ditto: Stack) -> None:
    found = (await curl(f"{ditto.url}/status", user="")).json
    assert {child["label"] for child in found["children"]} == SERVICES
    assert found["children"][0]["children"][0]["label"] == "persistence"
    assert found["uptime"].endswith("s")
    assert found["startTime"].endswith("Z")


@pytest.mark.parametrize("path", ["/status/cluster", "/overall/status/cluster"])
async def test_the_cluster_has_one_member_with_all_roles(ditto: Stack, path: str) -> None:
    found = (await curl(f"{ditto.url}{path}", user=DEVOPS)).json
    assert set(found["roles"]) == SERVICES
    assert found["roles"]["things"]["reachable"] == ["twinspan"]


@pytest.mark.parametrize("path", ["/overall/status", "/overall/status/cluster"])
async def test_overall_status_asks_for_its_user(ditto: Stack, path: str) -> None:
    found = await curl(f"{ditto.url}{path}")
    assert (found.status, found.error) == (401, "gateway:authentication.failed")
    assert found.headers["www-authenticate"] == 'Basic realm="DITTO-STATUS"'


class SickStore:
    """A store that answers with an error."""

    def load_spool(self, _edge: str, _lane: str, done: Any) -> None:
        asyncio.get_running_loop().call_soon(done, StoreUnavailable("disk full"))


async def test_a_store_that_does_not_answer_makes_health_down() -> None:
    health = Health(SickStore())
    assert not await health.is_up()
    tree: Any = await health.tree()
    assert tree["status"] == "DOWN"
    assert tree["children"][0]["children"][0]["details"] == [{"ERROR": {"message": "disk full"}}]


@pytest.mark.parametrize("path", ["/stats/things", "/stats/search"])
async def test_statistics_count_all_things(ditto: Stack, path: str) -> None:
    assert (await curl(f"{ditto.url}{path}", user="")).json == {"allThingsCount": 1}


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", {"thing": {"org.acme": 1}, "policy": {"org.acme": 1}}),
        ("?entity=thing", {"thing": {"org.acme": 1}}),
        ("?entity=thing&namespace=other", {"thing": {}}),
    ],
)
async def test_operators_see_what_is_in_memory_by_namespace(
    ditto: Stack, query: str, expected: Any
) -> None:
    url = f"{ditto.url}/stats/things/details{query}"
    assert (await curl(url)).status == 401
    assert (await curl(url, user=DEVOPS)).json == expected


async def test_requests_are_timed_under_dittos_name_by_the_beginning_of_their_path(
    ditto: Stack,
) -> None:
    for path in (f"/things/{PUMP}", f"/things/{PUMP}/attributes", "/nowhere"):
        await curl(f"{ditto.api}{path}")

    def timed(path: str, status: str) -> float:
        labels = {"ditto_request_path": path, "ditto_request_method": "GET"}
        name = "roundtrip_http_seconds_count"
        return ditto.sample(name, **labels, ditto_statusCode=status)

    assert timed("/api/2/things", "200") == 2
    assert timed("other", "404") == 1


# --- log levels and settings -------------------------------------------------------------------

LOGGER = "gateway.ditto.endpoint"


@pytest.fixture
def logger() -> Any:
    """A logger whose level is as before afterwards."""
    found = logging.getLogger(LOGGER)
    before = found.level
    yield found
    found.setLevel(before)


async def set_level(ditto: Stack, name: str, level: str, service: str = "") -> Answer:
    body = json_body({"logger": name, "level": level})
    return await curl("-X", "PUT", f"{ditto.url}/devops/logging{service}", *body, user=DEVOPS)


async def levels(ditto: Stack, query: str = "") -> dict[str, str]:
    found = (await curl(f"{ditto.url}/devops/logging/gateway{query}", user=DEVOPS)).json
    listed = found["gateway"]["twinspan"]["loggerConfigs"]
    return {one["logger"]: one["level"] for one in listed}


async def test_a_log_level_is_really_changed(ditto: Stack, logger: logging.Logger) -> None:
    changed = await set_level(ditto, LOGGER, "debug")
    assert (changed.status, set(changed.json)) == (200, SERVICES)
    told = changed.json["things"]["twinspan"]
    assert (told["type"], told["successful"]) == ("devops.responses:changeLogLevel", True)
    assert logger.isEnabledFor(logging.DEBUG)
    assert (await levels(ditto))[LOGGER] == "debug"
    await set_level(ditto, LOGGER, "OFF", "/gateway")
    assert not logger.isEnabledFor(logging.CRITICAL)


async def test_loggers_without_a_level_of_their_own_are_listed_when_asked_for(ditto: Stack) -> None:
    assert LOGGER not in await levels(ditto)
    every = await levels(ditto, "?includeDisabledLoggers=true")
    assert {LOGGER, "ROOT"} <= set(every)


@pytest.mark.parametrize(("name", "level"), [("no.such.logger", "debug"), (LOGGER, "loud")])
async def test_unknown_loggers_and_levels_are_refused(ditto: Stack, name: str, level: str) -> None:
    assert (await set_level(ditto, name, level)).status == 400


@pytest.mark.parametrize(
    "path", ["/devops/logging/moon", "/devops/config/moon/1", "/devops/loggings"]
)
async def test_unknown_services_are_not_found(ditto: Stack, path: str) -> None:
    assert (await curl(f"{ditto.url}{path}", user=DEVOPS)).status == 404


async def test_settings_are_shown_below_a_path(ditto: Stack) -> None:
    url = f"{ditto.url}/devops/config/things/x?path=ditto.http.bind"
    found = (await curl(url, user=DEVOPS)).json
    assert found["things"]["twinspan"]["config"] == "127.0.0.1:0"
    assert (await curl(f"{ditto.url}/devops/config?path=no.such", user=DEVOPS)).status == 404


def test_what_should_stay_secret_in_settings_is_masked() -> None:
    settings: Any = {
        "kafka": {"common": {"sasl.password": "p", "sasl.jaas.config": "j", "linger.ms": "5"}},
        "otlp": {"endpoint": "http://me:word@host:4318", "headers": {"Authorization": "Bearer x"}},
        "policies": {"token_subject": "integration:{{ policy-entry:label }}"},
        "empty": {"password": ""},
    }
    assert masked(settings) == {
        "kafka": {"common": {"sasl.password": MASK, "sasl.jaas.config": MASK, "linger.ms": "5"}},
        "otlp": {"endpoint": f"http://{MASK}@host:4318", "headers": {"Authorization": MASK}},
        "policies": settings["policies"],
        "empty": {"password": ""},
    }


# --- piggyback ---------------------------------------------------------------------------------


async def test_an_operator_reads_and_changes_past_the_policy(ditto: Stack) -> None:
    read = await piggyback(ditto, SUDO, type="things.commands:retrieveThing", thingId=PUMP)
    assert (read.status, read.json["type"]) == (200, "things.responses:retrieveThing")
    assert read.json["thing"]["attributes"] == {"a": 1}
    assert ditto.sample("sudo_commands_total", type="things.commands:retrieveThing") == 1
    changed = await piggyback(
        ditto,
        SUDO,
        type="things.commands:modifyAttribute",
        thingId=PUMP,
        attribute="/a",
        value=2,
    )
    assert (changed.status, changed.json["status"]) == (200, 204)
    assert (await curl(f"{ditto.api}/things/{PUMP}/attributes/a")).json == 2


@pytest.mark.parametrize(
    ("headers", "status"),
    [({}, 404), ({"ditto-auth-context": {"subjects": ["nginx:eve"]}}, 404), (ME, 200)],
)
async def test_without_sudo_the_policy_is_asked(
    ditto: Stack, headers: dict[str, Any], status: int
) -> None:
    found = await piggyback(ditto, headers, type="things.commands:retrieveThing", thingId=PUMP)
    assert found.status == status


async def test_nobody_gets_past_the_policy_from_outside(ditto: Stack) -> None:
    found = await curl("-H", "ditto-sudo: true", f"{ditto.api}/things/{PUMP}", user="alice:wonder")
    assert found.status == 404


async def test_policies_are_repaired_past_themselves(ditto: Stack) -> None:
    made = await piggyback(
        ditto,
        SUDO,
        type="policies.commands:modifySubject",
        policyId=PUMP,
        label="DEFAULT",
        subjectId="nginx:alice",
        subject={"type": "rescued"},
    )
    assert (made.status, made.json["subject"]) == (201, {"type": "rescued"})
    assert (await curl(f"{ditto.api}/things/{PUMP}", user="alice:wonder")).status == 200


@pytest.mark.parametrize(
    ("headers", "command", "member", "expected"),
    [
        (SUDO, {"type": "things.sudo.commands:sudoRetrieveThing"}, "thingId", PUMP),
        (SUDO, {"type": "policies.sudo.commands:sudoRetrievePolicy"}, "policyId", PUMP),
        (SUDO, {"type": "thing-search.sudo.commands:sudoCountThings"}, "count", 1),
        (
            ME,
            {"type": "thing-search.commands:countThings", "filter": "gt(attributes/a,0)"},
            "count",
            1,
        ),
        (ME, {"type": "things.commands:retrieveAttribute", "attribute": "/a"}, "value", 1),
        (
            {},
            {"type": "common.commands:retrieveConfig", "path": "ditto.things.cache"},
            "config",
            50_000,
        ),
        ({}, {"type": "cleanup.sudo.commands:cleanupPersistence", "entityId": PUMP}, "deleted", 0),
        ({}, {"type": "connectivity.commands:retrieveAllConnectionIds"}, "connectionIds", []),
    ],
)
async def test_internal_commands_are_answered_in_their_form(
    ditto: Stack, headers: dict[str, Any], command: dict[str, Any], member: str, expected: Any
) -> None:
    found = await piggyback(ditto, headers, **{"thingId": PUMP, "policyId": PUMP, **command})
    assert (found.status, found.json["status"]) == (200, 200)
    assert found.json["type"] == command["type"].replace("commands:", "responses:")
    assert found.json[member] == expected


async def test_an_aggregated_answer_stands_below_service_and_instance(ditto: Stack) -> None:
    good = await piggyback(
        ditto, {"aggregate": True}, "/things/1", type="status.commands:retrieveHealth"
    )
    assert good.json["things"]["twinspan"]["statusInfo"]["status"] == "UP"
    bad = await piggyback(
        ditto,
        {"aggregate": True, **SUDO},
        type="things.commands:retrieveThing",
        thingId="org.acme:nobody",
    )
    told = bad.json["things"]["twinspan"]
    assert (bad.status, told["type"]) == (200, "things.responses:errorResponse")
    assert told["payload"]["error"] == "things:thing.notfound"


@pytest.mark.parametrize(
    ("body", "status", "code"),
    [
        ({}, 400, "json.field.missing"),
        ([], 400, "json.field.missing"),
        ({"piggybackCommand": {"type": 1}}, 400, "json.field.missing"),
        (
            {"piggybackCommand": {"type": "things.commands:retrieveThing"}},
            400,
            "json.field.missing",
        ),
        ({"piggybackCommand": {"type": "things.commands:fly"}}, 501, "notimplemented"),
        ({"piggybackCommand": {"type": "common.commands:shutdown"}}, 501, "notimplemented"),
    ],
)
async def test_what_is_no_command_is_refused(
    ditto: Stack, body: Any, status: int, code: str
) -> None:
    url = f"{ditto.url}/devops/piggyback/things"
    found = await curl("-X", "POST", url, *json_body(body), user=DEVOPS)
    assert (found.status, found.error) == (status, code)


async def of_namespace(ditto: Stack, verb: str, namespace: str = "org.acme") -> Answer:
    return await piggyback(ditto, {}, type=f"namespaces.commands:{verb}", namespace=namespace)


async def test_a_blocked_namespace_refuses_until_it_is_open_again(ditto: Stack) -> None:
    blocked = await of_namespace(ditto, "blockNamespace")
    assert blocked.json["namespace"] == "org.acme"
    for path in (f"/things/{PUMP}", f"/policies/{PUMP}"):
        refused = await curl(f"{ditto.api}{path}")
        assert (refused.status, refused.error) == (409, "namespace.blocked")
    other = await put(f"{ditto.api}/things/org.other:pump", {})
    assert other.status == 201
    await of_namespace(ditto, "unblockNamespace")
    assert (await curl(f"{ditto.api}/things/{PUMP}")).status == 200


async def test_erasing_a_namespace_leaves_nothing_of_it_and_all_else(ditto: Stack) -> None:
    assert (await put(f"{ditto.api}/things/org.acme.more:pump", {})).status == 201
    await of_namespace(ditto, "blockNamespace")
    erased = await of_namespace(ditto, "purgeNamespace")
    assert (erased.json["successful"], erased.json["erased"]) == (True, 2)
    await of_namespace(ditto, "unblockNamespace")
    assert (await curl(f"{ditto.api}/things/{PUMP}")).status == 404
    assert (await curl(f"{ditto.api}/policies/{PUMP}")).status == 404
    found = (await curl(f"{ditto.api}/search/things?fields=thingId")).json
    assert found["items"] == [{"thingId": "org.acme.more:pump"}]
    again = await put(f"{ditto.api}/things/{PUMP}", {})
    assert (again.status, again.headers["etag"]) == (201, '"rev:1"')


async def test_a_namespace_that_is_none_is_refused(ditto: Stack) -> None:
    refused = await of_namespace(ditto, "purgeNamespace", "9 lives")
    assert (refused.status, refused.error) == (400, "namespacedentity.id.invalid")


# --- cloud events ------------------------------------------------------------------------------

MODIFY = {"topic": "org.acme/pump-1/things/twin/commands/modify", "path": "/attributes/a"}
ATTRIBUTES = {"specversion": "1.0", "id": "1", "source": "/test", "type": "example"}
BINARY = [part for name, value in ATTRIBUTES.items() for part in ("-H", f"ce-{name}: {value}")]


async def cloud_event(ditto: Stack, *args: str, user: str = "ditto:ditto") -> Answer:
    return await curl("-X", "POST", f"{ditto.api}/cloudevents", *args, user=user)


@pytest.mark.parametrize(
    "args",
    [
        [*BINARY, *json_body({**MODIFY, "value": 42})],
        [*BINARY, *json_body({**MODIFY, "value": 42}, "application/vnd.eclipse.ditto+json")],
        [*BINARY, "-H", "ce-dataschema: ditto:some", *json_body({**MODIFY, "value": 42})],
        json_body({**ATTRIBUTES, "data": {**MODIFY, "value": 42}}, "application/cloudevents+json"),
    ],
    ids=["binary", "ditto's media type", "with a schema", "structured"],
)
async def test_a_cloud_event_changes_its_thing(ditto: Stack, args: list[str]) -> None:
    taken = await cloud_event(ditto, *args)
    assert (taken.status, taken.body) == (202, "")
    assert (await curl(f"{ditto.api}/things/{PUMP}/attributes/a")).json == 42


@pytest.mark.parametrize(
    ("args", "status", "code"),
    [
        (json_body(MODIFY), 400, "cloudevent.unparsable"),
        (json_body([], "application/cloudevents+json"), 400, "cloudevent.unparsable"),
        ([*BINARY, "-H", "Content-Type: application/json"], 400, "cloudevent.payload.missing"),
        (json_body(ATTRIBUTES, "application/cloudevents+json"), 400, "cloudevent.payload.missing"),
        (
            [*BINARY, "-H", "ce-dataschema: other:x", *json_body(MODIFY)],
            400,
            "cloudevent.dataschema.unsupported",
        ),
        ([*BINARY, *json_body({"path": "/"})], 400, "json.field.missing"),
        (
            [*BINARY, *json_body({"topic": "x", "path": "/"})],
            400,
            "protocoladapter:unknown.topicpath",
        ),
        ([*BINARY, *json_body(MODIFY, "text/plain")], 415, "mediatype.unsupported"),
    ],
)
async def test_what_is_no_cloud_event_is_refused(
    ditto: Stack, args: list[str], status: int, code: str
) -> None:
    refused = await cloud_event(ditto, *args)
    assert (refused.status, refused.error) == (status, code)


async def test_a_cloud_event_is_judged_by_the_policy_of_its_thing(ditto: Stack) -> None:
    args = [*BINARY, *json_body({**MODIFY, "value": 42})]
    refused = await cloud_event(ditto, *args, user="alice:wonder")
    assert (refused.status, refused.error) == (403, "things:attribute.notmodifiable")
    assert (await cloud_event(ditto, *args, user="")).status == 401
