"""`/api/2/policies`: requests become policy commands."""

from __future__ import annotations

import uuid
from collections.abc import Sequence

from aiohttp import hdrs, web

from gateway.ditto.endpoint import not_allowed, unknown_path
from gateway.ditto.request import (
    JSON_TYPE,
    ApiCall,
    parse_json,
    read_body,
    require_type,
)
from gateway.ditto.service import PoliciesService
from gateway.ditto.things_http import DEFAULT_NAMESPACE, answer, rest_of
from gateway.errors import NotBuilt
from gateway.model.json import Json, Pointer
from gateway.model.policy import PolicyCommand, parse_policy_path
from gateway.model.thing import Action
from gateway.twin.ditto_errors import ditto_error

PREFIX = "/api/2/policies"
_GET_PUT = ("GET", "PUT")
_ALL = ("GET", "PUT", "DELETE")

# What each path has: the shape of the pointer (`*` any segment) -> methods.
_METHODS: dict[Pointer, Sequence[str]] = {
    (): _ALL,
    ("entries",): _GET_PUT,
    ("entries", "*"): _ALL,
    ("entries", "*", "subjects"): _GET_PUT,
    ("entries", "*", "subjects", "*"): _ALL,
    ("entries", "*", "resources"): _GET_PUT,
    ("entries", "*", "resources", "*"): _ALL,
    ("entries", "*", "importable"): _GET_PUT,
    ("entries", "*", "namespaces"): _GET_PUT,
    ("entries", "*", "allowedAdditions"): _ALL,
    ("entries", "*", "references"): _ALL,
    ("imports",): _ALL,
    ("imports", "*"): _ALL,
    ("imports", "*", "entries"): _GET_PUT,
    ("imports", "*", "transitiveImports"): _GET_PUT,
}
_ACTIONS = {
    "GET": Action.RETRIEVE,
    "PUT": Action.MODIFY,
    "DELETE": Action.DELETE,
}


def methods_of(path: Pointer) -> Sequence[str] | None:
    """The methods of a path below a policy, None for a path that policies do not have."""
    for shape, methods in _METHODS.items():
        if len(shape) == len(path) and all(
            wanted in ("*", given) for wanted, given in zip(shape, path, strict=True)
        ):
            return methods
    return None


class PolicyRoutes:
    """The handlers of policies."""

    def __init__(self, policies: PoliciesService, max_body: int) -> None:
        self._policies = policies
        self._max_body = max_body

    async def collection(self, call: ApiCall) -> web.StreamResponse:
        """`POST /api/2/policies`."""
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        value = await self._body(call)
        if isinstance(value, dict) and "policyId" in value:
            raise ditto_error("policies:id.notsettable", found=value["policyId"])
        policy_id = f"{call.query('namespace') or DEFAULT_NAMESPACE}:{uuid.uuid4()}"
        location = f"{call.request.url.with_query(None)}/{policy_id}"
        return await self._run(call, policy_id, Action.CREATE, (), value, location)

    async def below(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/policies/{id}` and everything below it."""
        policy_id, _, rest = rest_of(call.request, f"{PREFIX}/").partition("/")
        if rest.startswith("actions/") or "/actions/" in rest:
            raise NotBuilt("Token integration of policies is not built.")
        path = parse_policy_path(rest)
        methods, method = methods_of(path), call.request.method
        if methods is None:
            raise unknown_path(rest)
        if method not in methods:
            raise not_allowed(method, methods)
        value = await self._body(call) if method == hdrs.METH_PUT else None
        location = str(call.request.url.with_query(None))
        return await self._run(call, policy_id, _ACTIONS[method], path, value, location)

    async def _body(self, call: ApiCall) -> Json:
        require_type(call.request, (JSON_TYPE,))
        return parse_json(await read_body(call.request, self._max_body))

    async def _run(
        self,
        call: ApiCall,
        policy_id: str,
        action: Action,
        path: Pointer,
        value: Json,
        location: str,
    ) -> web.Response:
        command = PolicyCommand(
            policy_id=policy_id,
            action=action,
            subjects=call.subjects,
            path=path,
            value=value,
            fields=call.query("fields") if action is Action.RETRIEVE else None,
            headers=call.headers,
            trace=call.trace,
        )
        result = await self._policies.execute(command)
        if call.headers.get("response-required") is False and action is not Action.RETRIEVE:
            return web.Response(status=202)
        return answer(result, location)
