"""`GET /things/{id}/explain` over HTTP: who may ask, and that what it says is what the server does."""

from __future__ import annotations

from collections.abc import AsyncIterator
from random import Random
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest

from gateway.config.ditto import NamespaceRoot, Policies
from gateway.model.thing import ThingEvent, ThingMessage
from tests.ditto_rig import Stack, a_ditto, a_websocket, curl, put
from tests.hono_rig import basic

THING = "org.acme:pump"
POLICY = "org.acme:policy"
OWNER = {
    "subjects": {"nginx:ditto": {"type": "me"}},
    "resources": {
        f"{kind}:/": {"grant": ["READ", "WRITE"], "revoke": []}
        for kind in ("thing", "policy", "message")
    },
}
READ = {"grant": ["READ"], "revoke": []}
DOCUMENT = {
    "attributes": {"a": {"b": 1, "c": 2}, "d": 3},
    "features": {"m": {"properties": {"x": 1}}},
}


@pytest.fixture
async def ditto() -> AsyncIterator[Stack]:
    roots = (NamespaceRoot(namespace="org.acme", policies=("root:all",)),)
    settings = Policies(lockout_prevention=False, namespace_roots=roots)
    async with a_ditto(pre_authentication=True, policies=settings) as stack:
        yield stack


async def put_policy(ditto: Stack, policy_id: str, **parts: Any) -> None:
    entries = {"owner": OWNER, **parts.pop("entries", {})}
    made = await put(f"{ditto.api}/policies/{policy_id}", {"entries": entries, **parts})
    assert made.status in (201, 204), made.body


async def put_thing(ditto: Stack) -> None:
    made = await put(f"{ditto.api}/things/{THING}", {"policyId": POLICY, **DOCUMENT})
    assert made.status == 201, made.body


async def explained(ditto: Stack, query: str, user: str = "ditto:ditto") -> Any:
    answer = await curl(f"{ditto.api}/things/{THING}/explain?{query}", user=user)
    assert answer.status == 200, answer.body
    return answer.json


async def test_a_revoke_is_named_with_its_entry_and_what_it_overrides(ditto: Stack) -> None:
    secret = {
        "subjects": {"nginx:alice": {"type": "x"}},
        "resources": {
            "thing:/": READ,
            "thing:/attributes/a": {"grant": [], "revoke": ["READ"]},
        },
    }
    await put_policy(ditto, POLICY, entries={"secret": secret})
    await put_thing(ditto)
    found = await explained(ditto, "subject=nginx:alice&path=/attributes/a")
    assert found["resource"] == "thing:/attributes/a"
    read = found["permissions"]["READ"]
    assert read["verdict"] == "denied"
    assert read["decidedAt"] == "thing:/attributes/a"
    (decisive,) = read["decisive"]
    assert decisive == {
        "effect": "revoke",
        "resource": "thing:/attributes/a",
        "policyId": POLICY,
        "entry": "secret",
        "how": "own",
        "subjects": ["nginx:alice"],
    }
    assert [one["resource"] for one in read["overridden"]] == ["thing:/"]
    assert found["attempts"]["read"] == {
        "extent": "nothing",
        "status": 404,
        "error": "things:attribute.notfound",
    }
    assert found["receives"]["twinEvents"] == {"extent": "nothing"}
    hidden = (await explained(ditto, "subject=nginx:alice&path=/&permission=read"))["permissions"]
    assert list(hidden) == ["READ"]
    assert hidden["READ"]["verdict"] == "partial"
    assert [one["resource"] for one in hidden["READ"]["below"]] == ["thing:/attributes/a"]


async def test_imports_and_root_policies_are_named(ditto: Stack) -> None:
    mine = {"subjects": {"nginx:alice": {"type": "x"}}, "resources": {"thing:/attributes": READ}}
    await put_policy(ditto, "org.acme:base", entries={"reader": mine})
    await put_policy(ditto, "root:all", entries={"all": {**mine, "resources": {"message:/": READ}}})
    await put_policy(ditto, "org.acme:gone")
    await put_policy(ditto, POLICY, imports={"org.acme:base": {}, "org.acme:gone": {}})
    assert (await curl("-X", "DELETE", f"{ditto.api}/policies/org.acme:gone")).status == 204
    await put_thing(ditto)
    found = await explained(ditto, "subject=nginx:alice&path=/attributes/d")
    (decisive,) = found["permissions"]["READ"]["decisive"]
    assert (decisive["how"], decisive["policyId"], decisive["entry"]) == (
        "import",
        "org.acme:base",
        "reader",
    )
    assert decisive["label"] == "imported-org.acme:base-reader"
    missing = [one for one in found["notCounted"] if one["reason"] == "importMissing"]
    assert [one["policyId"] for one in missing] == ["org.acme:gone"]
    found = await explained(
        ditto, "subject=nginx:alice&resource=message&path=/inbox/messages/x&permission=READ"
    )
    (decisive,) = found["permissions"]["READ"]["decisive"]
    assert (decisive["how"], decisive["label"]) == ("root", "nsimported-root:all-all")
    assert found["receives"] == {"messages": {"extent": "whole"}}
    assert found["attempts"]["send"]["error"] == "messages:send.notallowed"


async def test_who_may_ask_is_who_may_read_the_policy_or_an_operator(ditto: Stack) -> None:
    part = {
        "subjects": {"nginx:alice": {"type": "x"}},
        "resources": {"thing:/": READ, "policy:/entries/part": READ},
    }
    await put_policy(ditto, POLICY, entries={"part": part})
    await put_thing(ditto)
    url = f"{ditto.api}/things/{THING}/explain?subject=nginx:alice&path=/"
    assert (await curl(url)).status == 200
    assert (await curl(url, user="devops:foobar")).status == 200
    refused = await curl(url, user="alice:wonder")
    assert (refused.status, refused.error) == (404, "policies:policy.notfound")
    for user in ("devops:wrong", "status:status", ""):
        assert (await curl(url, user=user)).status == 401
    stranger = await curl(url, "-H", "x-ditto-pre-authenticated: nginx:stranger", user="")
    assert (stranger.status, stranger.error) == (404, "things:thing.notfound")
    nowhere = await curl(f"{ditto.api}/things/org.acme:none/explain?path=/")
    assert (nowhere.status, nowhere.error) == (404, "things:thing.notfound")


async def test_entries_of_other_policies_are_named_to_who_may_read_them_there(
    ditto: Stack,
) -> None:
    top = {"subjects": {"top:secret": {"type": "x"}}, "resources": {"thing:/": READ}}
    await put_policy(
        ditto, "org.acme:base", entries={"hidden": top, "kept": {**top, "importable": "never"}}
    )
    mine = {"subjects": {"nginx:alice": {"type": "x"}}, "resources": {"policy:/": READ}}
    await put_policy(ditto, POLICY, entries={"mine": mine}, imports={"org.acme:base": {}})
    await put_thing(ditto)
    query = "subject=top:secret&path=/&permission=READ"
    whole = await explained(ditto, query)
    assert whole["permissions"]["READ"]["decisive"][0]["entry"] == "hidden"
    assert [note["entry"] for note in whole["notCounted"]] == ["kept"]
    reduced = await explained(ditto, query, user="alice:wonder")
    assert reduced["permissions"]["READ"]["verdict"] == "unrestricted"
    assert reduced["notCounted"] == []
    assert not any(text in str(reduced) for text in ("org.acme:base", "hidden", "kept"))


async def test_without_a_subject_the_caller_asks_for_itself(ditto: Stack) -> None:
    await put_policy(ditto, POLICY)
    await put_thing(ditto)
    found = await explained(ditto, "path=/attributes&resource=thing")
    assert found["subjects"] == ["nginx:ditto"]
    assert found["permissions"]["WRITE"]["verdict"] == "unrestricted"
    both = await explained(ditto, "path=/&subject=nginx:a&subject=nginx:ditto")
    assert both["subjects"] == ["nginx:a", "nginx:ditto"]
    assert both["permissions"]["READ"]["decisive"][0]["subjects"] == ["nginx:ditto"]


@pytest.mark.parametrize(
    ("query", "status", "code"),
    [
        ("", 400, "parameter.invalid"),
        ("path=/&subject=", 400, "parameter.invalid"),
        ("path=/&subjct=nginx:a", 400, "parameter.invalid"),
        ("path=/&resource=policies", 400, "parameter.invalid"),
        ("path=/&permission=ADMIN", 400, "parameter.invalid"),
        ("path=/nonsense", 400, "protocoladapter:unknown.path"),
        ("path=//", 400, "json.pointer.invalid"),
    ],
)
async def test_a_bad_question_is_refused_in_dittos_form(
    ditto: Stack, query: str, status: int, code: str
) -> None:
    await put_policy(ditto, POLICY)
    await put_thing(ditto)
    answer = await curl(f"{ditto.api}/things/{THING}/explain?{query}")
    assert (answer.status, answer.error) == (status, code)
    posted = await curl("-X", "POST", f"{ditto.api}/things/{THING}/explain?path=/")
    assert (posted.status, posted.error) == (405, "gateway:method.notallowed")
    bad = await curl(f"{ditto.api}/things/nocolon/explain?path=/")
    assert (bad.status, bad.error) == (400, "things:id.invalid")


async def test_an_operator_hears_of_a_missing_policy(ditto: Stack) -> None:
    await put_policy(ditto, POLICY)
    await put_thing(ditto)
    assert (await curl("-X", "DELETE", f"{ditto.api}/policies/{POLICY}")).status == 204
    gone = await curl(f"{ditto.api}/things/{THING}/explain?path=/")
    assert (gone.status, gone.error) == (404, "things:thing.notfound")
    found = await explained(ditto, "path=/&subject=nginx:ditto", user="devops:foobar")
    assert found["policy"] == "missing"
    assert found["attempts"]["modify"]["error"] == "things:thing.notmodifiable"
    changed = await put(f"{ditto.api}/things/{THING}/attributes/x", 1)
    assert (changed.status, changed.error) == (403, "things:thing.notmodifiable")


# --- what it says is what happens --------------------------------------------------------------

OPERATOR = basic("devops", "foobar")
OWN = basic("ditto", "ditto")
SUBJECTS = ("nginx:one", "nginx:two")
KEYS = (
    "thing:/",
    "thing:/attributes",
    "thing:/attributes/a",
    "thing:/attributes/a/b",
    "thing:/attributes/d",
    "thing:/attributes/d/deeper",
    "thing:/features/m/properties",
    "message:/",
    "message:/inbox/messages/go",
)
PATHS = ("", "/attributes", "/attributes/a", "/attributes/a/b", "/attributes/d", "/features/m")


def some_entries(dice: Random) -> dict[str, Any]:
    def says() -> list[str]:
        return dice.choice([[], ["READ"], ["WRITE"], ["READ", "WRITE"]])

    return {
        f"e{n}": {
            "subjects": {dice.choice(SUBJECTS): {"type": "x"}},
            "resources": {
                key: {"grant": says(), "revoke": dice.choice([[], [], says()])}
                for key in dice.sample(KEYS, 3)
            },
            "importable": dice.choice(["implicit", "implicit", "never"]),
            **({"namespaces": [dice.choice(["org.acme", "org"])]} if dice.random() < 0.2 else {}),
        }
        for n in range(dice.randrange(1, 4))
    }


class Witness:
    """Hears what listeners hear."""

    def __init__(self) -> None:
        self.events: list[ThingEvent] = []
        self.messages: list[ThingMessage] = []

    def on_event(self, event: ThingEvent) -> None:
        self.events.append(event)

    def on_message(self, message: ThingMessage) -> None:
        self.messages.append(message)


@pytest.mark.parametrize("seed", range(6))
async def test_an_explanation_says_what_the_server_does(ditto: Stack, seed: int) -> None:
    dice = Random(seed)
    for name in ("org.acme:base", "root:all"):
        shared = some_entries(dice)
        shared["e0"]["importable"] = "implicit"
        await put_policy(ditto, name, entries=shared)
    entries = some_entries(dice)
    entries["owner"] = OWNER
    for label in ("e0", "e1"):
        if label in entries and dice.random() < 0.5:
            entries[label]["references"] = [{"import": "org.acme:base", "entry": "e0"}]
    await put_policy(ditto, POLICY, entries=entries, imports={"org.acme:base": {}})
    await put_thing(ditto)
    witness = Witness()
    end = ditto.things.listen(witness)
    async with aiohttp.ClientSession() as http:
        for who in (SUBJECTS[:1], SUBJECTS[1:], SUBJECTS):
            for path in PATHS:
                await compare(ditto, http, witness, who, path)
            await compare_messages(ditto, http, witness, who)
    end()


async def asked(
    ditto: Stack, http: aiohttp.ClientSession, who: tuple[str, ...], path: str, kind: str
) -> Any:
    url = f"{ditto.api}/things/{THING}/explain?path={quote(path or '/')}&resource={kind}"
    url += "".join(f"&subject={name}" for name in who)
    async with http.get(url, headers=OPERATOR) as answer:
        assert answer.status == 200, await answer.text()
        return await answer.json()


async def compare(
    ditto: Stack, http: aiohttp.ClientSession, witness: Witness, who: tuple[str, ...], path: str
) -> None:
    told = await asked(ditto, http, who, path, "thing")
    url = f"{ditto.api}/things/{THING}{path}"
    me = {"x-ditto-pre-authenticated": ",".join(who)}
    async with http.get(url, headers=OWN) as whole:
        value = await whole.json()
    async with http.get(url, headers=me) as read:
        said = told["attempts"]["read"]
        assert (read.status, said["extent"] != "nothing") in ((200, True), (404, False)), told
        if said["extent"] == "nothing":
            assert (await read.json())["error"] == said["error"]
        elif said["extent"] == "whole":
            assert await read.json() == value
    async with http.put(url, json=value, headers=me) as written:
        said = told["attempts"]["modify"]
        assert (written.status, said["extent"]) in ((204, "whole"), (403, "nothing")), told
        if said["extent"] == "nothing":
            assert (await written.json())["error"] == said["error"]
    before = len(witness.events)
    async with http.put(url, json=value, headers=OWN) as changed:
        assert changed.status == 204
    (event,) = witness.events[before:]
    seen = ditto.things.view(event, who)
    extent = "nothing" if seen is None else "whole" if seen is event else "part"
    assert told["receives"]["twinEvents"]["extent"] == extent, (told, event)


async def compare_messages(
    ditto: Stack, http: aiohttp.ClientSession, witness: Witness, who: tuple[str, ...]
) -> None:
    for subject in ("go", "stop"):
        told = await asked(ditto, http, who, f"/inbox/messages/{subject}", "message")
        url = f"{ditto.api}/things/{THING}/inbox/messages/{subject}?timeout=0"
        me = {"x-ditto-pre-authenticated": ",".join(who)}
        async with http.post(url, data=b"x", headers=me) as sent:
            said = told["attempts"]["send"]["extent"]
            assert (sent.status, said) in ((202, "whole"), (403, "nothing")), told
        async with http.post(url, data=b"x", headers=OWN) as sent:
            assert sent.status == 202
        heard = ditto.things.can_receive(witness.messages[-1], who)
        assert (told["receives"]["messages"]["extent"] == "whole") is heard


async def test_a_subscriber_gets_what_the_explanation_says(ditto: Stack) -> None:
    entries = {
        "alice": {
            "subjects": {"nginx:alice": {"type": "x"}},
            "resources": {"thing:/attributes/a/b": READ},
        }
    }
    await put_policy(ditto, POLICY, entries=entries)
    await put_thing(ditto)
    told = await explained(ditto, "subject=nginx:alice&path=/attributes/a")
    assert told["receives"]["twinEvents"] == {"extent": "part"}
    async with a_websocket(ditto, "alice") as socket:
        await socket.control("START-SEND-EVENTS")
        await put(f"{ditto.api}/things/{THING}/attributes/a", {"b": 5, "c": 6})
        assert (await socket.envelope())["value"] == {"b": 5}
