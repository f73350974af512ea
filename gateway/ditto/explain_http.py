"""`/api/2/things/{id}/explain`: why somebody may, or may not, read, write or receive something.

Asked by who may read the whole policy of the thing, for it tells of all its entries; or by an operator. Of
entries of other policies it tells what they do, and where they stand only who may read them there.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final

from aiohttp import hdrs, web

from gateway.ditto.auth import MAX_SUBJECTS, OPERATOR, PRE_AUTHENTICATED
from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.policies import resolve
from gateway.ditto.request import FROM_QUERY, ApiCall
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.thing_cache import ThingEntry
from gateway.ditto.things_http import rest_of
from gateway.errors import BadRequest, GatewayError
from gateway.model.entity_id import check_entity_id, namespace_of
from gateway.model.json import Json, JsonObject, parse_pointer
from gateway.model.policy import Permission
from gateway.model.thing import Thing
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.explain import KINDS, USUAL, Case, Question, explain
from gateway.twin.explain_json import explanation_json
from gateway.twin.policies import policy_not_found
from gateway.twin.policy import READ

PATH: Final = "/api/2/things/{thing:[^/]+}/explain"
_PREFIX: Final = "/api/2/things/"
_PARAMETERS: Final = frozenset(("subject", "path", "resource", "permission"))
_OF_EVERY_REQUEST: Final = frozenset((*FROM_QUERY, PRE_AUTHENTICATED, "access_token"))


class ExplainRoutes:
    """The handler of explanations."""

    def __init__(self, things: ThingsService, policies: PoliciesService) -> None:
        self._things = things
        self._policies = policies

    async def explain(self, call: ApiCall) -> web.StreamResponse:
        """`GET`; without `subject`, the caller asks for itself."""
        if call.request.method != hdrs.METH_GET:
            raise not_allowed(call.request.method, ("GET",))
        thing_id = rest_of(call.request, _PREFIX).removesuffix("/explain")
        check_entity_id(thing_id, "things:id.invalid")
        question = _question(call)

        def judge(entry: ThingEntry) -> JsonObject:
            case = self._case(entry, call)
            return explanation_json(explain(question, case))

        found: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._things.live.look(thing_id, judge, lambda answer: resolve(found, answer))
        answer: Json = await found
        return json_response(answer)

    def _case(self, entry: ThingEntry, call: ApiCall) -> Case:
        """What is judged; raises Wait, and what a caller is told who may not ask."""
        thing = entry.thing
        if thing is None:
            raise ditto_error("things:thing.notfound", id=entry.thing_id)
        enforcer = self._policies.enforcer(thing.policy_id)
        policy = self._policies.known(thing.policy_id)
        case = Case(thing, enforcer, policy, self._policies.now(), self._is_seen(call))
        if call.caller.kind != OPERATOR and not _may_ask(case, call.subjects):
            raise _refusal(case, thing, call.subjects)
        return case

    def _is_seen(self, call: ApiCall) -> Callable[[str, str], bool]:
        """Which entries of other policies the caller may read; what it returns raises Wait."""
        rights = self._policies.rights(call.subjects, self._policies.now())

        def is_seen(policy_id: str, label: str) -> bool:
            if call.caller.kind == OPERATOR:
                return True
            mine = (
                rights(policy_id)
                if call.caller.access.policies.admits(namespace_of(policy_id))
                else None
            )
            return mine is not None and mine.partial("policy", ("entries", label), READ)

        return is_seen


def _may_ask(case: Case, subjects: tuple[str, ...]) -> bool:
    return case.permissions(subjects, "policy").unrestricted("policy", (), READ)


def _refusal(case: Case, thing: Thing, subjects: tuple[str, ...]) -> GatewayError:
    """The thing is not there for one who may not even read which policy it has."""
    if not case.permissions(subjects, "thing").partial("thing", ("policyId",), READ):
        return ditto_error("things:thing.notfound", id=thing.thing_id)
    error = policy_not_found(thing.policy_id)
    return type(error)(
        error.message,
        code=error.code,
        description="To have a decision explained, 'READ' on the whole of 'policy:/' is needed.",
    )


def _question(call: ApiCall) -> Question:
    query = call.request.query
    for name in query:
        if name not in _PARAMETERS and name not in _OF_EVERY_REQUEST:
            raise _invalid(name, f"Parameters: {', '.join(sorted(_PARAMETERS))}.")
    kind = query.get("resource", "thing")
    if kind not in KINDS:
        raise _invalid("resource", f"Resource types: {', '.join(KINDS)}.")
    if "path" not in query:
        raise _invalid("path", "It is a JSON pointer, '/' for the whole.")
    subjects = tuple(dict.fromkeys(query.getall("subject", ()))) or call.subjects
    if not subjects or "" in subjects or len(subjects) > MAX_SUBJECTS:
        raise _invalid("subject", f"1 to {MAX_SUBJECTS} authorization subjects.")
    return Question(subjects, kind, parse_pointer(query["path"]), _permissions(call, kind))


def _permissions(call: ApiCall, kind: str) -> tuple[Permission, ...]:
    given = call.request.query.getall("permission", ())
    names = [part.strip().upper() for one in given for part in one.split(",") if part.strip()]
    if not names:
        return USUAL[kind]
    try:
        return tuple(dict.fromkeys(Permission(name) for name in names))
    except ValueError as error:
        raise _invalid("permission", f"Permissions: {', '.join(Permission)}.") from error


def _invalid(name: str, hint: str) -> GatewayError:
    return BadRequest(
        f"The query parameter '{name[:100]}' is missing, unknown or not valid.",
        code="parameter.invalid",
        description=hint,
    )
