"""`/api/2/policies`: requests become policy commands."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from aiohttp import hdrs, web

from gateway.ditto.auth import JWT
from gateway.ditto.endpoint import not_allowed, unknown_path
from gateway.ditto.namespace_access import admitted
from gateway.ditto.request import (
    JSON_TYPE,
    MAX_TIMEOUT,
    ApiCall,
    parse_json,
    read_body,
    require_type,
    timeout_of,
)
from gateway.ditto.service import PoliciesService
from gateway.ditto.things_http import DEFAULT_NAMESPACE, answer, rest_of
from gateway.ditto.tokens import claim
from gateway.model.entity_id import check_entity_id
from gateway.model.json import Json, Pointer
from gateway.model.policy import PolicyCommand, parse_policy_path
from gateway.model.thing import Action
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.policy_actions import PolicyAction, TokenAction, action_failed
from gateway.wire.ditto.placeholders import Scope, Template

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
        self._token_subject = Template.parse(
            policies.settings.token_subject, frozenset(("jwt", "policy-entry"))
        )

    async def collection(self, call: ApiCall) -> web.StreamResponse:
        """`POST /api/2/policies`."""
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        value = await self._body(call)
        if isinstance(value, dict) and "policyId" in value:
            raise ditto_error("policies:id.notsettable", found=value["policyId"])
        policy_id = f"{call.query('namespace') or DEFAULT_NAMESPACE}:{uuid.uuid4()}"
        check_entity_id(policy_id, "policies:id.invalid")
        call.caller.access.check("policy", policy_id)
        location = f"{call.url}/{policy_id}"
        return await self._run(call, policy_id, Action.CREATE, (), value, location)

    async def below(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/policies/{id}` and everything below it."""
        policy_id, _, rest = rest_of(call.request, f"{PREFIX}/").partition("/")
        action = _action_of(rest)
        if action is not None:
            return await self._act(call, policy_id, *action)
        path = parse_policy_path(rest)
        methods, method = methods_of(path), call.request.method
        if methods is None:
            raise unknown_path(rest)
        if method not in methods:
            raise not_allowed(method, methods)
        check_entity_id(policy_id, "policies:id.invalid")
        value = await self._body(call) if method == hdrs.METH_PUT else None
        location = str(call.url)
        return await self._run(call, policy_id, _ACTIONS[method], path, value, location)

    async def _act(
        self, call: ApiCall, policy_id: str, label: str | None, name: str
    ) -> web.Response:
        """Token integration, for the entries or one of them."""
        try:
            action = TokenAction(name)
        except ValueError as error:
            raise unknown_path(f"actions/{name}") from error
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        if call.caller.kind != JWT or call.caller.expires is None:
            raise action_failed(action, 400, "It is possible with a JWT only.")
        asked = PolicyAction(
            policy_id=check_entity_id(policy_id, "policies:id.invalid"),
            action=action,
            subjects=call.subjects,
            token_subjects=self._token_subjects(call.caller.claims),
            expires=call.caller.expires,
            label=label,
            announcement=await self._announcement(call),
            trace=call.trace,
        )
        await self._policies.act(asked)
        wants_answer = call.headers.get("response-required") is not False
        return web.Response(status=204 if wants_answer else 202)

    def _token_subjects(self, claims: Mapping[str, Any]) -> Callable[[str], tuple[str, ...]]:
        """What the template of the settings makes of a token, for the entry with a label."""

        def subjects(label: str) -> tuple[str, ...]:
            scope: Scope = {
                "jwt": lambda name: claim(claims, name),
                "policy-entry": lambda name: label if name == "label" else None,
            }
            return tuple(dict.fromkeys(self._token_subject.resolve_all(scope)))

        return subjects

    async def _announcement(self, call: ApiCall) -> Json:
        """The `announcement` of a body that may be left out."""
        if not call.request.body_exists:
            return None
        body = await self._body(call)
        if not isinstance(body, dict):
            raise ditto_error("json.invalid", reason="the body is a JSON object")
        return body.get("announcement")

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
        admitted(command, call.caller.access)
        timeout_of(call.headers, MAX_TIMEOUT, MAX_TIMEOUT)
        result = await self._policies.execute(command)
        if call.headers.get("response-required") is False and action is not Action.RETRIEVE:
            return web.Response(status=202)
        return answer(call, result, location)


def _action_of(rest: str) -> tuple[str | None, str] | None:
    """The label and the name of an action, None for a path that is none."""
    match rest.split("/"):
        case ["actions", name]:
            return None, name
        case ["entries", label, "actions", name]:
            return label, name
        case _:
            return None
