"""Policies over HTTP and WebSocket: references, imports of imports, subjects that end, tokens, the past."""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from gateway.config.ditto import Creation, CreationRule, NamespaceRoot, OpenIdIssuer, Policies
from gateway.store.database import Database
from tests.ditto_rig import (
    Answer,
    Stack,
    WsClient,
    a_ditto,
    a_websocket,
    curl,
    json_body,
    put,
)
from tests.hono_rig import until
from tests.integration.test_ditto_auth import Provider, a_provider

FAST = Policies(expiry_grain=0, announcement_grain=0, announcement_spread=0)
READ_WRITE = {"grant": ["READ", "WRITE"], "revoke": []}
READ = {"grant": ["READ"], "revoke": []}
OWNER = {
    "subjects": {"nginx:ditto": {"type": "me"}},
    "resources": {"thing:/": READ_WRITE, "policy:/": READ_WRITE, "message:/": READ_WRITE},
}
FLEET = "org.acme:fleet"
THING = "org.acme:pump-9"


NEVER = {**OWNER, "importable": "never"}
TWICE = [{"entry": "owner"}, {"entry": "owner"}]
NOT_THERE = "policies:policy.notfound"


def to_base(label: str, policy_id: str = "org.acme:base") -> list[Any]:
    """References to an entry of another policy."""
    return [{"import": policy_id, "entry": label}]


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    async with a_ditto(policies=FAST) as stack:
        yield stack


async def put_policy(
    ditto: Stack, policy_id: str, user: str = "ditto:ditto", **parts: Any
) -> Answer:
    body = {**parts, "entries": {"owner": OWNER, **parts.get("entries", {})}}
    return await put(f"{ditto.api}/policies/{policy_id}", body, user=user)


async def put_thing(ditto: Stack, policy_id: str = FLEET) -> None:
    made = await put(f"{ditto.api}/things/{THING}", {"policyId": policy_id, "attributes": {"a": 1}})
    assert made.status == 201, made.body


async def seen_by_alice(ditto: Stack, path: str = "/attributes/a") -> int:
    return (await curl(f"{ditto.api}/things/{THING}{path}", user="alice:wonder")).status


def soon(milliseconds: int = 300) -> str:
    moment = datetime.now(UTC) + timedelta(milliseconds=milliseconds)
    return moment.isoformat().replace("+00:00", "Z")


# --- references and imports --------------------------------------------------------------------


async def test_every_part_of_an_entry_and_an_import_has_its_resource(ditto: Stack) -> None:
    await put_policy(ditto, "org.acme:base", entries={"e": {"subjects": {}, "resources": {}}})
    await put_policy(ditto, "org.acme:other", entries={"e": {}})
    made = await put_policy(ditto, FLEET, imports={"org.acme:base": {}}, entries={"r": {}})
    assert made.status == 201, made.body
    url = f"{ditto.api}/policies/{FLEET}"
    steps: list[tuple[str, str, Any, int, str]] = [
        ("GET", "entries/r/references", None, 200, ""),
        ("PUT", "entries/r/references", [{"entry": "owner"}], 201, ""),
        (
            "PUT",
            "entries/r/references",
            [{"import": "org.acme:base", "entry": "e"}, {"entry": "owner"}],
            204,
            "",
        ),
        ("PUT", "entries/r/references", [{"entry": "r"}], 400, "policies:entry.invalid"),
        ("DELETE", "imports/org.acme:base", None, 409, "policies:import.referenceconflict"),
        ("PUT", "imports", {}, 409, "policies:import.referenceconflict"),
        ("DELETE", "entries/owner", None, 409, "policies:entry.referenceconflict"),
        ("PUT", "entries/owner/importable", "never", 409, "policies:entry.referenceconflict"),
        ("PUT", "entries/owner", NEVER, 400, "policies:entry.invalid"),
        ("PUT", "imports/org.acme:base", {"entries": ["e"]}, 204, ""),
        ("PUT", "imports/org.acme:base", {}, 409, "policies:import.referenceconflict"),
        ("PUT", "imports/org.acme:base/entries", [], 409, "policies:import.referenceconflict"),
        ("PUT", "entries/r/references", TWICE, 400, "policies:entry.invalid"),
        ("PUT", "entries/r/references", to_base("none"), 400, "policies:import.invalid"),
        ("PUT", "entries/r/references", to_base("e", "org.acme:none"), 404, NOT_THERE),
        (
            "PUT",
            "entries/r/references",
            to_base("e", "org.acme:other"),
            400,
            "policies:entry.invalid",
        ),
        ("DELETE", "entries/r/references", None, 204, ""),
        ("GET", "entries/r/allowedAdditions", None, 200, ""),
        ("PUT", "entries/r/allowedAdditions", ["subjects"], 204, ""),
        ("GET", "entries/r/allowedAdditions", None, 200, ""),
        ("PUT", "entries/r/allowedAdditions", ["labels"], 400, "policies:entry.invalid"),
        ("DELETE", "entries/r/allowedAdditions", None, 204, ""),
        ("PUT", "entries/r/namespaces", ["org.acme", "org.acme.*"], 204, ""),
        ("GET", "entries/r/namespaces", None, 200, ""),
        ("PUT", "entries/r/importable", "explicit", 204, ""),
        ("GET", "imports/org.acme:base/entries", None, 200, ""),
        ("PUT", "imports/org.acme:base/entries", ["e"], 204, ""),
        ("PUT", "imports/org.acme:base/transitiveImports", ["org.acme:root"], 204, ""),
        ("GET", "imports/org.acme:base/transitiveImports", None, 200, ""),
        (
            "PUT",
            "imports/org.acme:base/transitiveImports",
            [FLEET],
            400,
            "policies:import.invalid",
        ),
        (
            "DELETE",
            "imports/org.acme:base/transitiveImports",
            None,
            405,
            "gateway:method.notallowed",
        ),
        ("GET", "imports/org.acme:none/transitiveImports", None, 404, "policies:import.notfound"),
        ("DELETE", "imports/org.acme:base", None, 204, ""),
    ]
    for method, path, value, status, code in steps:
        body = json_body(value) if value is not None else []
        found = await curl("-X", method, f"{url}/{path}", *body)
        assert found.status == status, (method, path, found.body)
        if code:
            assert found.error == code
    changed = await curl(url)
    assert changed.json["entries"]["r"]["namespaces"] == ["org.acme", "org.acme.*"]


async def test_what_is_inherited_changes_at_once_also_through_imports_of_imports(
    ditto: Stack,
) -> None:
    template = {
        "driver": {"resources": {"thing:/attributes": READ}, "allowedAdditions": ["subjects"]}
    }
    await put_policy(ditto, "org.acme:template", entries=template)
    ref = [{"import": "org.acme:template", "entry": "driver"}]
    await put_policy(
        ditto,
        "org.acme:region",
        imports={"org.acme:template": {}},
        entries={"driver": {"subjects": {"nginx:alice": {"type": "x"}}, "references": ref}},
    )
    await put_policy(
        ditto, FLEET, imports={"org.acme:region": {"transitiveImports": ["org.acme:template"]}}
    )
    await put_thing(ditto)
    assert await seen_by_alice(ditto) == 200
    resolved = await curl(f"{ditto.api}/policies/{FLEET}?policy-view=resolved")
    driver = resolved.json["entries"]["imported-org.acme:region-driver"]
    assert driver["subjects"].keys() == {"nginx:alice"}
    assert driver["resources"].keys() == {"thing:/attributes"}
    url = f"{ditto.api}/policies/org.acme:template/entries/driver/resources"
    assert (await put(url, {"thing:/features": READ})).status == 204
    assert await seen_by_alice(ditto) == 404
    assert (await put(url, {"thing:/attributes/a": READ})).status == 204
    assert await seen_by_alice(ditto) == 200
    closed = await put(
        f"{ditto.api}/policies/{FLEET}/imports/org.acme:region/transitiveImports", []
    )
    assert closed.status == 204
    assert await seen_by_alice(ditto) == 404
    bad = await curl(f"{ditto.api}/policies/{FLEET}?policy-view=funny")
    assert (bad.status, bad.error) == (400, "policies:view.invalid")


async def test_nobody_imports_what_they_may_not_read(ditto: Stack) -> None:
    secret = {"subjects": {}, "resources": {}, "importable": "explicit"}
    alice = {
        "subjects": {"nginx:alice": {"type": "x"}},
        "resources": {"policy:/entries/open": READ},
    }
    await put_policy(
        ditto,
        "org.acme:base",
        entries={"open": alice, "secret": secret, "owner": {**OWNER, "importable": "never"}},
    )
    mine = {"owner": {**OWNER, "subjects": {"nginx:alice": {"type": "x"}}}}
    url = f"{ditto.api}/policies/org.acme:alice"
    who = "alice:wonder"
    taken = {"org.acme:base": {"entries": ["secret"]}}
    refused = await put(url, {"entries": mine, "imports": taken}, user=who)
    assert (refused.status, refused.error) == (404, NOT_THERE)
    thing = {"_policy": {"entries": mine, "imports": taken}}
    inline = await put(f"{ditto.api}/things/org.acme:alice", thing, user=who)
    assert (inline.status, inline.error) == (404, "things:thing.notcreatable")
    unknown = await put(url, {"entries": mine, "imports": {"org.acme:none": {}}}, user=who)
    assert (unknown.status, unknown.error) == (404, NOT_THERE)
    taken = {"org.acme:base": {"entries": []}}
    assert (await put(url, {"entries": mine, "imports": taken}, user=who)).status == 201
    later = await put(f"{url}/imports/org.acme:base/entries", ["secret"], user=who)
    assert (later.status, later.error) == (404, NOT_THERE)
    reference = {"references": to_base("secret")}
    later = await put(f"{url}/entries/mine", reference, user=who)
    assert (later.status, later.error) == (404, NOT_THERE)
    assert (
        await put(f"{url}/entries/mine", {"references": to_base("open")}, user=who)
    ).status == 201


async def test_a_resolved_view_shows_entries_of_others_to_who_may_read_them_there() -> None:
    roots = (NamespaceRoot(namespace="org.*", policies=("ops:root",)),)
    async with a_ditto(policies=Policies(namespace_roots=roots)) as ditto:
        seen = {
            "subjects": {"nginx:alice": {"type": "x"}},
            "resources": {"policy:/entries/seen": READ},
        }
        entries = {"owner": NEVER, "seen": seen, "hidden": {}}
        await put_policy(ditto, "org.acme:deep", entries={"owner": NEVER, "leaf": {}})
        bases: dict[str, Any] = {"org.acme:deep": {}}
        await put_policy(ditto, "org.acme:base", entries=entries, imports=bases)
        await put_policy(ditto, "ops:root", entries=entries)
        mine = {"subjects": {"nginx:alice": {"type": "x"}}, "resources": {"policy:/": READ}}
        taken = {"org.acme:base": {"transitiveImports": ["org.acme:deep"]}}
        await put_policy(ditto, FLEET, entries={"mine": mine}, imports=taken)
        url = f"{ditto.api}/policies/{FLEET}?policy-view=Resolved"
        found = await curl(url, user="alice:wonder")
        assert found.json["entries"].keys() == {
            "owner",
            "mine",
            "imported-org.acme:base-seen",
            "nsimported-ops:root-seen",
        }
        whole = await curl(url)
        assert whole.json["entries"].keys() == {
            *found.json["entries"],
            "imported-org.acme:base-hidden",
            "imported-org.acme:base-imported-org.acme:deep-leaf",
            "nsimported-ops:root-hidden",
        }


async def test_a_resolved_view_is_of_the_whole_policy_and_has_no_entity_tag(ditto: Stack) -> None:
    await put_policy(ditto, "org.acme:base")
    await put_policy(ditto, FLEET, imports={"org.acme:base": {}})
    url = f"{ditto.api}/policies/{FLEET}"
    plain = await curl(url)
    assert (await curl(f"{url}?policy-view=ORIGINAL")).json == plain.json
    unchanged = ("-H", f"If-None-Match: {plain.headers['etag']}")
    assert (await curl(*unchanged, url)).status == 304
    resolved = await curl(*unchanged, f"{url}?policy-view=resolved&fields=entries")
    assert (resolved.status, "etag" in resolved.headers) == (200, False)
    assert resolved.json["entries"].keys() == {"owner", "imported-org.acme:base-owner"}
    for view in ("resolved", "funny"):
        part = await curl(f"{url}/entries?policy-view={view}")
        assert part.json == plain.json["entries"]


async def test_root_policies_count_in_their_namespaces_and_are_not_shown() -> None:
    roots = (NamespaceRoot(namespace="org.*", policies=("ops:root", "ops:gone")),)
    async with a_ditto(policies=Policies(namespace_roots=roots)) as ditto:
        tenant = {"subjects": {"nginx:alice": {"type": "x"}}, "resources": {"thing:/": READ}}
        await put_policy(ditto, FLEET)
        await put_thing(ditto)
        assert await seen_by_alice(ditto) == 404
        await put_policy(ditto, "ops:root", entries={"tenant": tenant})
        assert await seen_by_alice(ditto) == 200
        shadow = await put(f"{ditto.api}/policies/{FLEET}/entries/tenant", {})
        assert shadow.status == 201
        assert await seen_by_alice(ditto) == 200
        assert (
            await curl("-X", "DELETE", f"{ditto.api}/policies/{FLEET}/entries/tenant")
        ).status == 204
        search = f"{ditto.api}/search/things"
        found = await curl(search, user="alice:wonder")
        assert [one["thingId"] for one in found.json["items"]] == [THING]
        assert (await curl(f"{search}/count", user="alice:wonder")).json == 1
        assert "tenant" not in (await curl(f"{ditto.api}/policies/{FLEET}")).body
        view = await curl(f"{ditto.api}/policies/{FLEET}?policy-view=resolved")
        assert "nsimported-ops:root-tenant" in view.json["entries"]
        gone = await curl("-X", "DELETE", f"{ditto.api}/policies/ops:root/entries/tenant")
        assert gone.status == 204
        assert await seen_by_alice(ditto) == 404


# --- subjects that end -------------------------------------------------------------------------


async def subjects_of(ditto: Stack, label: str = "guest") -> set[str]:
    found = await curl(f"{ditto.api}/policies/{FLEET}/entries/{label}/subjects")
    return set(found.json)


async def a_guest(ditto: Stack, milliseconds: int, **announcement: Any) -> None:
    subject: dict[str, Any] = {"type": "guest", "expiry": soon(milliseconds)}
    if announcement:
        subject["announcement"] = announcement
    guest = {"subjects": {"nginx:alice": subject}, "resources": {"thing:/": READ}}
    made = await put_policy(ditto, FLEET, entries={"guest": guest})
    assert made.status == 201, made.body


async def until_gone(ditto: Stack) -> None:
    await ditto.policies.load(FLEET)

    def is_gone() -> bool:
        document: Any = ditto.policies.document(FLEET)
        return not document["entries"]["guest"]["subjects"]

    await until(is_gone)


async def test_a_subject_is_deleted_when_its_time_is_over(ditto: Stack) -> None:
    await a_guest(ditto, 400)
    await put_thing(ditto)
    assert await seen_by_alice(ditto) == 200
    await until_gone(ditto)
    assert await subjects_of(ditto) == set()
    assert await seen_by_alice(ditto) == 404
    shown = await curl(f"{ditto.api}/policies/{FLEET}?fields=_revision")
    assert shown.json == {"_revision": 2}


async def test_a_subject_whose_time_ended_while_the_service_was_away_goes_when_it_is_back(
    tmp_path: Path,
) -> None:
    file = tmp_path / "gateway.db"
    async with a_ditto(policies=FAST, database=Database(file, "gateway")) as first:
        await a_guest(first, 150)
    async with a_ditto(policies=FAST, database=Database(file, "gateway")) as second:
        await until_gone(second)
        assert await subjects_of(second) == set()


async def test_a_subject_that_is_prolonged_stays(ditto: Stack) -> None:
    await a_guest(ditto, 250)
    url = f"{ditto.api}/policies/{FLEET}/entries/guest/subjects"
    longer = {"type": "x", "expiry": soon(60_000)}
    assert (await put(f"{url}/nginx:alice", longer)).status == 204
    short = {"type": "x", "expiry": soon(300)}
    assert (await put(f"{url}/nginx:bob", short)).status == 201
    await until(lambda: ditto.policies.last_revision(FLEET) == 4)
    assert await subjects_of(ditto) == {"nginx:alice"}


async def test_expiry_is_rounded_up_to_the_next_hour() -> None:
    async with a_ditto() as ditto:
        await a_guest(ditto, 60_000)
        url = f"{ditto.api}/policies/{FLEET}/entries/guest/subjects/nginx:alice"
        expiry = (await curl(url)).json["expiry"]
        assert expiry.endswith(":00:00Z")
        past = await put(url, {"type": "x", "expiry": soon(-1_000)})
        assert (past.status, past.error) == (400, "policies:subjectexpiry.invalid")


async def announced(client: WsClient) -> dict[str, Any]:
    envelope = await client.envelope()
    assert envelope["topic"] == "org.acme/fleet/policies/announcements/subjectDeletion"
    assert envelope["path"] == "/"
    assert envelope["value"]["subjectIds"] == ["nginx:alice"]
    assert envelope["timestamp"]
    return envelope


async def test_the_subject_itself_hears_of_its_end_before(ditto: Stack) -> None:
    async with a_websocket(ditto, "alice") as alice, a_websocket(ditto, "ditto") as other:
        await alice.control("START-SEND-POLICY-ANNOUNCEMENTS?namespaces=org.acme")
        await other.control("START-SEND-POLICY-ANNOUNCEMENTS")
        await a_guest(ditto, 60_000, beforeExpiry="10h", whenDeleted=True)
        found = await announced(alice)
        assert datetime.fromisoformat(found["value"]["deleteAt"]) > datetime.now(UTC)
        assert "requested-acks" not in found["headers"]
        deleted = await curl("-X", "DELETE", f"{ditto.api}/policies/{FLEET}/entries/guest")
        assert deleted.status == 204
        topic = "org.acme/x/things/twin/commands/retrieve"
        assert (await alice.ask(topic, "/"))["status"] == 404  # nothing came in between
        assert (await other.ask(topic, "/"))["status"] == 404


async def test_a_deletion_is_announced_and_a_subscription_ends(ditto: Stack) -> None:
    async with a_websocket(ditto, "alice") as alice:
        await alice.control("START-SEND-POLICY-ANNOUNCEMENTS")
        await alice.control("START-SEND-POLICY-ANNOUNCEMENTS?namespaces=org.other")
        await a_guest(ditto, 60_000, whenDeleted=True)
        url = f"{ditto.api}/policies/{FLEET}/entries/guest/subjects/nginx:alice"
        body = (await curl(url)).json
        assert (await curl("-X", "DELETE", url)).status == 204
        await alice.control("START-SEND-POLICY-ANNOUNCEMENTS")
        assert (await put(url, body)).status == 201
        assert (await curl("-X", "DELETE", url)).status == 204
        assert (await announced(alice))["value"]["deleteAt"]
        await alice.control("STOP-SEND-POLICY-ANNOUNCEMENTS")
        assert (await put(url, body)).status == 201
        assert (await curl("-X", "DELETE", url)).status == 204
        topic = "org.acme/x/things/twin/commands/retrieve"
        assert (await alice.ask(topic, "/"))["status"] == 404


async def test_an_announcement_comes_again_until_it_is_acknowledged(ditto: Stack) -> None:
    async with a_websocket(ditto, "alice", "?declared-acks=my:ack") as alice:
        await alice.control("START-SEND-POLICY-ANNOUNCEMENTS")
        acks = {"labels": ["my:ack"], "timeout": "200ms"}
        await a_guest(ditto, 60_000, beforeExpiry="1h", requestedAcks=acks)
        first = await announced(alice)
        assert first["headers"]["requested-acks"] == ["my:ack"]
        assert first["headers"]["timeout"] == "200ms"
        again = await announced(alice)
        correlation = again["headers"]["correlation-id"]
        ack = {
            "topic": "org.acme/fleet/policies/acks/my:ack",
            "path": "/",
            "status": 200,
            "headers": {"correlation-id": correlation},
        }
        await alice.socket.send_str(json.dumps(ack))
        refused = {**ack, "topic": "org.acme/fleet/policies/acks/foreign"}
        await alice.socket.send_str(json.dumps(refused))
        error = await alice.envelope()
        assert error["value"]["error"] == "acknowledgement:label.not.declared"
        assert not ditto.policies.announcements.outstanding


# --- token integration -------------------------------------------------------------------------


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with a_provider() as made:
        yield made


async def test_a_token_lends_its_audience_access_for_as_long_as_it_lives(
    provider: Provider,
) -> None:
    issuer = OpenIdIssuer(name="oidc", issuer=provider.issuer)
    async with a_ditto(openid=(issuer,), policies=FAST) as ditto:
        execute = {"grant": ["EXECUTE"], "revoke": []}
        reader = {
            "subjects": {"oidc:alice": {"type": "x"}},
            "resources": {"thing:/": READ, "policy:/entries/reader/actions": execute},
        }
        await put_policy(ditto, FLEET, entries={"reader": reader})
        url = f"{ditto.api}/policies/{FLEET}"
        token = provider.token(aud=["app-1", "app-2"])

        async def act(path: str, *more: str, bearer: str = token) -> Answer:
            header = f"Authorization: Bearer {bearer}"
            return await curl("-X", "POST", f"{url}/{path}", "-H", header, *more, user="")

        body = json_body({"announcement": {"beforeExpiry": "5m"}})
        done = await act("actions/activateTokenIntegration", *body)
        assert (done.status, done.body) == (204, "")
        subjects = (await curl(f"{url}/entries/reader/subjects")).json
        added = {f"integration:reader:app-{n}" for n in (1, 2)}
        assert set(subjects) == {"oidc:alice", *added}
        claims = json.loads(base64.urlsafe_b64decode(token.split(".")[1] + "=="))
        expiry = datetime.fromisoformat(subjects["integration:reader:app-1"]["expiry"])
        assert expiry.timestamp() == pytest.approx(claims["exp"], abs=0.001)
        assert subjects["integration:reader:app-2"]["announcement"]["beforeExpiry"] == "5m"
        gone = await act("entries/reader/actions/deactivateTokenIntegration")
        assert gone.status == 204
        assert await subjects_of(ditto, "reader") == {"oidc:alice"}
        cases: list[tuple[str, list[str], str, int, str]] = [
            ("entries/owner/actions/activateTokenIntegration", [], token, 403, "action.failed"),
            ("actions/activateTokenIntegration", [], provider.token(), 400, "action.failed"),
            (
                "actions/activateTokenIntegration",
                [],
                provider.token(sub="bob", aud="x"),
                403,
                "action.failed",
            ),
            (
                "actions/activateTokenIntegration",
                json_body({"announcement": {"beforeExpiry": "x"}}),
                token,
                400,
                "subjectannouncement.invalid",
            ),
        ]
        for path, more, bearer, status, code in cases:
            failed = await act(path, *more, bearer=bearer)
            assert (failed.status, failed.error) == (status, f"policies:{code}"), path
        assert (await act("actions/somethingElse")).status == 404
        nowhere = await curl("-X", "PUT", f"{url}/actions/activateTokenIntegration")
        assert (nowhere.status, nowhere.headers["allow"]) == (405, "POST")
        assert (await put(f"{url}/entries/reader/resources", {"policy:/": execute})).status == 204
        unfit = await act("actions/activateTokenIntegration")
        assert (unfit.status, unfit.error) == (404, "policies:action.failed")


# --- the past ----------------------------------------------------------------------------------


async def test_past_states_are_shown_under_the_present_policy(ditto: Stack) -> None:
    await put_policy(ditto, FLEET, entries={"one": {}})
    url = f"{ditto.api}/policies/{FLEET}"
    made = (await curl(f"{url}?fields=_modified")).json["_modified"]
    assert (await put(f"{url}/entries/two", {})).status == 201
    assert (await curl("-X", "DELETE", f"{url}/entries/one")).status == 204
    for header, value, labels in [
        ("at-historical-revision", "1", {"owner", "one"}),
        ("at-historical-revision", "2", {"owner", "one", "two"}),
        ("at-historical-revision", "3", {"owner", "two"}),
        ("at-historical-timestamp", made, {"owner", "one"}),
    ]:
        past = await curl(f"{url}/entries", "-H", f"{header}: {value}")
        assert set(past.json) == labels
        assert past.headers["historical-headers"] == "{}"
    for header, value, status, code in [
        ("at-historical-revision", "9", 404, "policies:policy.history.notfound"),
        (
            "at-historical-timestamp",
            "2000-01-01T00:00:00Z",
            404,
            "policies:policy.history.notfound",
        ),
        ("at-historical-revision", "x", 400, "header.invalid"),
    ]:
        missing = await curl(url, "-H", f"{header}: {value}")
        assert (missing.status, missing.error) == (status, code)
    stranger = await curl(url, "-H", "at-historical-revision: 1", user="alice:wonder")
    assert (stranger.status, stranger.error) == (404, "policies:policy.notfound")
    async with a_websocket(ditto) as client:
        topic = "org.acme/fleet/policies/commands/retrieve"
        past_one = await client.ask(topic, "/entries/one", headers={"at-historical-revision": 1})
        assert past_one["status"] == 200


# --- who may create ----------------------------------------------------------------------------


async def test_the_operators_rules_say_who_creates_what_where() -> None:
    rules = Creation(
        grant=(
            CreationRule(namespaces=("org.acme*",)),
            CreationRule(auth_subjects=("nginx:d*",), resource_types=("policy",)),
        ),
        revoke=(CreationRule(resource_types=("thing",), namespaces=("org.acme.closed",)),),
    )
    async with a_ditto(creation=rules) as ditto:
        things, policies = f"{ditto.api}/things", f"{ditto.api}/policies"
        assert (await put(f"{things}/org.acme:t", {})).status == 201
        for url, value, user in [
            (f"{things}/org.acme.closed:t", {}, "ditto:ditto"),
            (f"{things}/com.x:t", {}, "ditto:ditto"),
            (f"{policies}/com.x:p", {"entries": {"o": OWNER}}, "alice:wonder"),
        ]:
            refused = await put(url, value, user=user)
            assert (refused.status, refused.error) == (403, "entity.notcreatable"), url
        assert (await put(f"{policies}/com.x:p", {"entries": {"o": OWNER}})).status == 201
        assert (await put(f"{things}/org.acme:t/attributes/a", 1)).status == 201
