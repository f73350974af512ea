"""Which refusal comes first: every method of every resource, for callers with and without rights, on what is
there and what is not, with preconditions that hold and that do not.

The expectations are worked out below from the rules, not from the service: form (400, 415), then existence of
the entity (404), then rights (404 for reading, 403 for writing), then preconditions (412), then existence of
the part (404).
"""

from __future__ import annotations

import itertools
import json
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest

from gateway.model.policy import PolicyCommand
from gateway.model.thing import Action, ThingCommand
from tests.ditto_rig import Stack, a_ditto

OWNER = "t:owner"
RIGHTS = ("none", "READ", "WRITE", "READ+WRITE")
HERE, GONE = "org.acme:here", "org.acme:gone"
POLICY = "org.acme:policy"
BASE = "org.acme:base"


def entry(subject: str, rights: list[str]) -> dict[str, Any]:
    every = {"grant": rights, "revoke": []}
    resources = {f"{kind}:/": every for kind in ("thing", "policy", "message")}
    return {"subjects": {subject: {"type": "test"}}, "resources": resources if rights else {}}


def entries() -> dict[str, Any]:
    named = {f"c-{r}": entry(f"t:{r}", [] if r == "none" else r.split("+")) for r in RIGHTS}
    return {"owner": entry(OWNER, ["READ", "WRITE"]), **named}


THING: dict[str, Any] = {
    "policyId": POLICY,
    "definition": "org.acme:pump:1.0.0",
    "attributes": {"a": 1},
    "features": {
        "f": {
            "definition": ["org.acme:motor:1.0.0"],
            "properties": {"p": 1},
            "desiredProperties": {"p": 1},
        }
    },
}


@dataclass(frozen=True)
class Part:
    """One resource.

    Shape:  `there` and `absent` paths below the entity; `value` what is put; `code` what errors call it.
    """

    there: str
    absent: str | None
    value: Any
    code: str
    methods: str = "GET PUT PATCH DELETE"


THING_PARTS = (
    Part("", None, {"attributes": {"a": 2}}, "thing"),
    Part("/policyId", None, POLICY, "policyId", "GET PUT PATCH"),
    Part("/definition", "/definition", "org.acme:pump:2.0.0", "definition"),
    Part("/attributes", "/attributes", {"a": 2}, "attributes"),
    Part("/attributes/a", "/attributes/z", 2, "attribute"),
    Part("/features", "/features", {"f": {}}, "features"),
    Part("/features/f", "/features/z", {"properties": {}}, "feature"),
    Part("/features/f/definition", "/features/e/definition", ["a:b:2"], "feature.definition"),
    Part("/features/f/properties", "/features/e/properties", {"p": 2}, "feature.properties"),
    Part("/features/f/properties/p", "/features/f/properties/z", 2, "feature.property"),
    Part(
        "/features/f/desiredProperties",
        "/features/e/desiredProperties",
        {"p": 2},
        "feature.desiredProperties",
    ),
    Part(
        "/features/f/desiredProperties/p",
        "/features/f/desiredProperties/z",
        2,
        "feature.desiredProperty",
    ),
)
POLICY_PARTS = (
    Part("", None, {"entries": entries()}, "policy", "GET PUT DELETE"),
    Part("/entries", None, entries(), "policy", "GET PUT"),
    Part("/entries/x", "/entries/z", entry("t:x", ["READ"]), "entry", "GET PUT DELETE"),
    Part("/entries/x/subjects", None, {"t:y": {"type": "y"}}, "subjects", "GET PUT"),
    Part(
        "/entries/x/subjects/t:x",
        "/entries/x/subjects/t:z",
        {"type": "y"},
        "subject",
        "GET PUT DELETE",
    ),
    Part("/entries/x/resources", None, {}, "resources", "GET PUT"),
    Part(
        "/entries/x/resources/thing:/",
        "/entries/x/resources/thing:/attributes",
        {"grant": ["READ"], "revoke": []},
        "resource",
        "GET PUT DELETE",
    ),
    Part("/imports", None, {}, "imports", "GET PUT"),
    Part(f"/imports/{BASE}", "/imports/org.acme:other", {"entries": []}, "import", "GET DELETE"),
)


@dataclass(frozen=True)
class Case:
    """One request.

    Shape:  `entity` and `is_part` say whether they are there; `condition` the header that is sent.
    """

    part: Part
    method: str
    rights: str
    entity: bool
    is_part: bool
    condition: str

    @property
    def path(self) -> str:
        return self.part.there if self.is_part else self.part.absent or ""

    @property
    def can_read(self) -> bool:
        return "READ" in self.rights

    @property
    def can_write(self) -> bool:
        return "WRITE" in self.rights


MEDIA_TYPES = {"PUT": "application/json", "PATCH": "application/merge-patch+json"}
CONDITIONS: dict[str, dict[str, str]] = {
    "no condition": {},
    "if-match fails": {"If-Match": '"nothing:like-this"'},
    "if-none-match fails": {"If-None-Match": "*"},
}


def cases(part: Part, method: str) -> Iterator[Case]:
    states = [(False, True), (True, True)] + ([(True, False)] if part.absent else [])
    for rights, (entity, is_part), condition in itertools.product(RIGHTS, states, CONDITIONS):
        yield Case(part, method, rights, entity, is_part, condition)


# --- what the rules say ------------------------------------------------------------------------


def expected(case: Case, kind: str) -> tuple[int, str]:
    """Status and error code; no code for success."""
    family, whole = ("things", "thing") if kind == "things" else ("policies", "policy")
    if not case.entity:
        return _without_entity(case, f"{family}:{whole}.notfound")
    refused = _without_right(case, family)
    if refused is not None:
        return refused
    precondition = _precondition(case, family)
    if precondition is not None:
        return precondition
    if case.method in ("GET", "DELETE") and not case.is_part:
        return 404, f"{family}:{case.part.code}.notfound"
    return _success(case), ""


def _without_entity(case: Case, not_found: str) -> tuple[int, str]:
    """Only the entity itself can be made; then nothing is there that If-Match could match."""
    if case.part.there or case.method in ("GET", "DELETE"):
        return 404, not_found
    if case.condition == "if-match fails":
        return 412, not_found.replace(f"{not_found.partition(':')[2]}", "precondition.failed")
    return 201, ""


def _without_right(case: Case, family: str) -> tuple[int, str] | None:
    name = case.part.code
    if case.method == "GET":
        return None if case.can_read else (404, f"{family}:{name}.notfound")
    if case.can_write:
        return None
    if case.method == "PATCH":
        name = "thing"  # a merge is a command on the thing, whatever its path
    is_thing_deletion = case.method == "DELETE" and name == "thing"
    return 403, f"{family}:{name}.{'notdeletable' if is_thing_deletion else 'notmodifiable'}"


def _precondition(case: Case, family: str) -> tuple[int, str] | None:
    """Reads and deletions of what is not there skip it; a part that is not there matches nothing."""
    if not case.is_part and case.method in ("GET", "DELETE"):
        return None
    failed = (412, f"{family}:precondition.failed")
    if case.condition == "if-match fails":
        return failed
    if case.condition == "if-none-match fails" and case.is_part:
        return (304, "") if case.method == "GET" else failed
    return None


def _success(case: Case) -> int:
    if case.method == "GET":
        return 200
    return 201 if case.method == "PUT" and not case.is_part else 204


# --- asking ------------------------------------------------------------------------------------


class Asker:
    """Puts everything back before each case, past all policies, and asks."""

    def __init__(self, ditto: Stack, session: aiohttp.ClientSession, kind: str) -> None:
        self._ditto = ditto
        self._session = session
        self._kind = kind
        self._state: str | None = None

    async def arrange(self, case: Case) -> None:
        """What the case speaks of is there, or not, again where the last one has changed it."""
        state = case.path if self._kind == "things" and not case.is_part else ""
        if state == self._state:
            return
        self._state = state
        await self.reset()
        if self._kind == "things":
            await self.thing(state)

    async def reset(self) -> None:
        base = {"entries": {"owner": entry(OWNER, ["READ", "WRITE"])}}
        policy = {"entries": {**entries(), "x": entry("t:x", ["READ"])}, "imports": {BASE: {}}}
        await self._policy(BASE, base)
        await self._policy(POLICY, policy)
        await self._policy("org.acme:here", policy)
        await self._gone("org.acme:gone")

    async def _policy(self, policy_id: str, document: Any) -> None:
        await self._ditto.policies.execute(
            PolicyCommand(
                policy_id=policy_id,
                action=Action.MODIFY,
                subjects=(OWNER,),
                value=document,
                sudo=True,
            )
        )

    async def _gone(self, entity_id: str) -> None:
        policies, things = self._ditto.policies, self._ditto.things
        if await things.load(entity_id) is not None:
            await things.execute(
                ThingCommand(thing_id=entity_id, action=Action.DELETE, subjects=(OWNER,), sudo=True)
            )
        if await policies.load(entity_id) is not None:
            await policies.execute(
                PolicyCommand(
                    policy_id=entity_id, action=Action.DELETE, subjects=(OWNER,), sudo=True
                )
            )

    async def thing(self, without: str = "") -> None:
        """The thing, perhaps without a part."""
        document = json.loads(json.dumps(THING))
        if without in ("/definition", "/attributes", "/features"):
            del document[without[1:]]
        elif without.startswith("/features/e/"):
            document["features"]["e"] = {}
        await self._ditto.things.execute(
            ThingCommand(
                thing_id=HERE,
                action=Action.MODIFY,
                subjects=(OWNER,),
                value=document,
                sudo=True,
            )
        )

    async def ask(self, case: Case, media_type: str = "") -> tuple[int, str]:
        await self.arrange(case)
        entity = HERE if case.entity else GONE
        url = f"{self._ditto.api}/{self._kind}/{entity}{case.path}"
        headers = {
            "x-ditto-pre-authenticated": f"t:{case.rights}",
            "allow-policy-lockout": "true",
            **CONDITIONS[case.condition],
        }
        body = None
        if case.method in ("PUT", "PATCH"):
            headers["Content-Type"] = media_type or MEDIA_TYPES[case.method]
            body = json.dumps(case.part.value)
        async with self._session.request(case.method, url, data=body, headers=headers) as answer:
            text = await answer.text()
            if answer.status < 300:
                self._state = None
            code = json.loads(text)["error"] if answer.status >= 400 else ""
            return answer.status, code


@pytest.fixture
async def asker(request: pytest.FixtureRequest) -> AsyncIterator[Callable[[str], Asker]]:
    async with a_ditto(pre_authentication=True) as ditto, aiohttp.ClientSession() as session:
        yield lambda kind: Asker(ditto, session, kind)


def named(row: object) -> str:
    return f"/{row.there}" if isinstance(row, Part) else str(row)


async def deviations(asker: Asker, kind: str, part: Part) -> list[str]:
    found = []
    for case in (case for method in part.methods.split() for case in cases(part, method)):
        told, wanted = await asker.ask(case), expected(case, kind)
        if told != wanted:
            where = "there" if case.is_part else "absent"
            state = f"{'entity there' if case.entity else 'no entity'}, part {where}"
            found.append(
                f"{case.method} by {case.rights}, {state}, {case.condition}: {told}, not {wanted}"
            )
    return found


@pytest.mark.parametrize("part", THING_PARTS, ids=named)
async def test_refusals_of_things_come_in_their_order(
    asker: Callable[[str], Asker], part: Part
) -> None:
    assert await deviations(asker("things"), "things", part) == []


@pytest.mark.parametrize("part", POLICY_PARTS, ids=named)
async def test_refusals_of_policies_come_in_their_order(
    asker: Callable[[str], Asker], part: Part
) -> None:
    assert await deviations(asker("policies"), "policies", part) == []


# --- form comes first --------------------------------------------------------------------------

MALFORMED: tuple[tuple[str, str, str, Any, str], ...] = (
    ("PUT", "things", "", {"attributes": 1}, "json.invalid"),
    ("PUT", "things", "", {"thingId": "org.acme:other"}, "things:id.notsettable"),
    ("PUT", "things", "", {"policyId": "bad"}, "policies:id.invalid"),
    ("PUT", "things", "", {"definition": "bad"}, "things:definition.identifier.invalid"),
    ("PUT", "things", "", [], "json.invalid"),
    ("PUT", "things", "/policyId", "bad", "policies:id.invalid"),
    ("PUT", "things", "/definition", "bad", "things:definition.identifier.invalid"),
    ("PUT", "things", "/attributes", 1, "json.invalid"),
    ("PUT", "things", "/attributes/a", {"": 1}, "json.key.invalid"),
    ("PUT", "things", "/features", {"f": 1}, "json.invalid"),
    ("PUT", "things", "/features/f", 1, "json.invalid"),
    ("PUT", "things", "/features/f/definition", [], "things:feature.definition.empty"),
    ("PUT", "things", "/features/f/properties", 1, "json.invalid"),
    ("PUT", "things", "/features/f/properties/a~2", 1, "json.pointer.invalid"),
    ("PATCH", "things", "", None, "things:merge.invalid"),
    ("PATCH", "things", "", {"policyId": None}, "things:policyId.notdeletable"),
    ("PATCH", "things", "/policyId", None, "things:policyId.notdeletable"),
    ("PATCH", "things", "/attributes", 1, "json.invalid"),
    ("GET", "things", "?fields=a(", None, "json.fieldselector.invalid"),
    ("PUT", "policies", "", {}, "json.field.missing"),
    ("PUT", "policies", "/entries/x", 1, "json.invalid"),
    ("PUT", "policies", "/entries/x", {"resources": {"bad": {}}}, "policies:entry.invalid"),
    ("PUT", "policies", "/entries/x/subjects/bad", {"type": "x"}, "policies:subjectid.invalid"),
    ("PUT", "policies", "/entries/imported-x", {}, "policies:label.invalid"),
    ("PUT", "policies", "/entries/x/importable", "x", "policies:entry.invalid"),
    ("PUT", "policies", "/imports/bad", {}, "policies:id.invalid"),
)


@pytest.mark.parametrize("kind", ["things", "policies"])
async def test_what_nothing_could_hold_is_refused_before_who_asks_and_what_is_there(
    asker: Callable[[str], Asker], kind: str
) -> None:
    asking, deviating = asker(kind), []
    for method, root, path, value, code in MALFORMED:
        part = Part(path, None, value, "", method)
        for rights, entity in itertools.product(RIGHTS, (True, False)):
            case = Case(part, method, rights, entity, True, "no condition")
            if root == kind and (told := await asking.ask(case)) != (400, code):
                deviating.append(f"{case}: {told}, not {code}")
    assert deviating == []


async def test_the_media_type_is_judged_before_the_body(asker: Callable[[str], Asker]) -> None:
    part = Part("/attributes", None, 1, "", "PUT")
    case = Case(part, "PUT", "none", False, True, "no condition")
    assert await asker("things").ask(case, "text/plain") == (415, "mediatype.unsupported")
