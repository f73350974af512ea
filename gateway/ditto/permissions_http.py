"""`/api/2/checkPermissions`: may the caller do this, and that? Asked before a page shows a button."""

from __future__ import annotations

from aiohttp import hdrs, web

from gateway.ditto.endpoint import json_response, not_allowed
from gateway.ditto.permissions import PermissionChecks
from gateway.ditto.request import JSON_TYPE, ApiCall, parse_json, read_body, require_type
from gateway.ditto.service import PoliciesService, ThingsService


class PermissionRoutes:
    """The handler of permission checks."""

    def __init__(self, things: ThingsService, policies: PoliciesService, max_body: int) -> None:
        self._checks = PermissionChecks(things, policies)
        self._max_body = max_body

    async def check(self, call: ApiCall) -> web.StreamResponse:
        """Answer each question by its name."""
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        require_type(call.request, (JSON_TYPE,))
        asked = parse_json(await read_body(call.request, self._max_body))
        return json_response(await self._checks.answers(asked, call.subjects, call.caller.access))
