"""`/api/2/things`: requests become thing commands, results become answers. No rule of things lives here."""

from __future__ import annotations

import re
import uuid
from collections.abc import Awaitable, Callable, Sequence
from urllib.parse import unquote

import msgspec
from aiohttp import hdrs, web

from gateway.ditto.acknowledgements import (
    LIVE_RESPONSE,
    TWIN_PERSISTED,
    Acknowledgements,
    requested,
)
from gateway.ditto.asking import Asking, Good, acknowledged
from gateway.ditto.endpoint import json_response, not_allowed, unknown_path
from gateway.ditto.namespace_access import admitted
from gateway.ditto.request import (
    EVENT_STREAM,
    JSON_PATCH,
    JSON_TYPE,
    MAX_TIMEOUT,
    MERGE_PATCH,
    ApiCall,
    parse_json,
    read_body,
    require_type,
    timeout_of,
)
from gateway.ditto.service import SearchQuery, ThingsService
from gateway.ditto.wot_http import Descriptions, asks_for_description, is_describable
from gateway.errors import BadRequest, MethodNotAllowed
from gateway.model.json import Json, Pointer, parse_pointer
from gateway.model.thing import LIVE, TWIN, Action, HeaderValue, ThingCommand, ThingResult
from gateway.twin.ditto_errors import ditto_error
from gateway.twin.fields import FieldSelector

PREFIX = "/api/2/things"
DEFAULT_NAMESPACE = "org.eclipse.ditto"
FULL = ("GET", "PUT", "PATCH", "DELETE")
_SUB_RESOURCES = frozenset(("definition", "properties", "desiredProperties"))


def rest_of(request: web.Request, prefix: str) -> str:
    """What follows `prefix` in the path, percent-decoded once."""
    raw = request.rel_url.raw_path[len(prefix) :]
    try:
        return unquote(raw, errors="strict")
    except UnicodeDecodeError as error:
        raise BadRequest("The path is not UTF-8.", code="json.pointer.invalid") from error


def resource_path(text: str, method: str = hdrs.METH_GET) -> Pointer:
    """The pointer of a resource below a thing, e.g. `features/motor/properties/rpm`.

    Shape:  one slash may follow the name of a resource, not a pointer below it.
    Errors: NotFound for a path that things do not have; MethodNotAllowed; BadRequest for a bad pointer.
    """
    whole = _WITH_SLASH.fullmatch(text)
    text = whole.group(1) if whole else text
    if not _is_known(text):
        raise unknown_path(text)
    if method not in FULL:
        raise not_allowed(method, FULL)
    if text.endswith("/"):
        raise ditto_error("json.pointer.invalid", path=text)
    return parse_pointer(text)


_WITH_SLASH = re.compile(
    r"(policyId|definition|attributes"
    r"|features(?:/[^/]+(?:/(?:definition|properties|desiredProperties))?)?)/"
)


def _is_known(text: str) -> bool:
    head, *below = text.split("/")
    if head == "features":
        return _is_feature_path(below)
    return head == "attributes" or (head in ("policyId", "definition") and not below)


def _is_feature_path(below: list[str]) -> bool:
    if not below:
        return True
    feature_id, *rest = below
    if not feature_id or not rest:
        return bool(feature_id)
    return rest[0] in _SUB_RESOURCES and (rest[0] != "definition" or len(rest) == 1)


class ThingRoutes:
    """The handlers of things.

    Shape:  `stream(call, thing_id, path)` answers event streams; `message(call, thing_id, rest)` the
            inbox and outbox paths; without `descriptions` there are none.
    """

    def __init__(
        self,
        things: ThingsService,
        asking: Asking,
        max_body: int,
        stream: Callable[[ApiCall, str | None, str], Awaitable[web.StreamResponse]],
        message: Callable[[ApiCall, str, str], Awaitable[web.StreamResponse]],
        descriptions: Descriptions | None = None,
    ) -> None:
        self._things = things
        self._asking = asking
        self._max_body = max_body
        self._stream = stream
        self._message = message
        self._descriptions = descriptions

    # --- /things ----------------------------------------------------------------------------------

    async def collection(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/things`."""
        method = call.request.method
        if method == hdrs.METH_POST:
            return await self._create(call)
        if method != hdrs.METH_GET:
            raise not_allowed(method, ("GET", "POST"))
        if call.accepts_exactly(EVENT_STREAM):
            return await self._stream(call, None, "")
        if "ids" in call.request.query:
            return await self._by_ids(call)
        return await self._list(call)

    async def _by_ids(self, call: ApiCall) -> web.Response:
        ids = tuple(dict.fromkeys(part for part in (call.query("ids") or "").split(",") if part))
        if not ids:
            raise ditto_error("things:ids.missing")
        for thing_id in ids:
            call.caller.access.check("thing", thing_id)
        if self._descriptions and asks_for_description(call):
            return await self._descriptions.several(call, ids)
        fields = selector(call)
        return json_response([*await self._things.retrieve_many(ids, call.subjects, fields)])

    async def _list(self, call: ApiCall) -> web.Response:
        if self._descriptions and asks_for_description(call):
            return await self._descriptions.page(call)
        page = await self._things.search(
            SearchQuery(
                subjects=call.subjects,
                fields=call.query("fields"),
                options=search_options(call.query("option")),
                namespaces=namespaces(call.query("namespaces")),
                scope=call.caller.access.things,
            )
        )
        url = call.url.with_query(call.request.query)
        links = [f'<{url}>; rel="canonical"']
        if page.cursor is not None:
            following = url.update_query(option=f"cursor({page.cursor})")
            links.append(f'<{following}>; rel="next"')
        return json_response(page.items, headers={"Link": ", ".join(links)})

    async def _create(self, call: ApiCall) -> web.Response:
        if _channel(call) == LIVE:
            raise MethodNotAllowed(
                "A Thing cannot be created on the live channel.", code="things:thing.notcreatable"
            )
        require_type(call.request, (JSON_TYPE,))
        body = await read_body(call.request, self._max_body)
        value = parse_json(body) if body.strip() else {}
        if isinstance(value, dict) and "thingId" in value:
            raise ditto_error("things:id.notsettable", found=value["thingId"])
        thing_id = f"{call.query('namespace') or DEFAULT_NAMESPACE}:{uuid.uuid4()}"
        call.caller.access.check("thing", thing_id)
        location = f"{call.url}/{thing_id}"
        return await self._run(call, thing_id, Action.CREATE, (), value, location=location)

    # --- /things/{id}... --------------------------------------------------------------------------

    async def below(self, call: ApiCall) -> web.StreamResponse:
        """`/api/2/things/{id}` and everything below it."""
        thing_id, _, rest = rest_of(call.request, f"{PREFIX}/").partition("/")
        if not thing_id:
            raise unknown_path(call.request.path)
        if call.request.method == hdrs.METH_GET and call.accepts_exactly(EVENT_STREAM):
            return await self._stream(call, thing_id, rest)
        if is_message_path(rest):
            return await self._message(call, thing_id, rest)
        if rest == "migrateDefinition":
            return await self._migrate(call, thing_id)
        path = resource_path(rest, call.request.method) if rest else ()
        return await self._resource(call, thing_id, path)

    async def _migrate(self, call: ApiCall, thing_id: str) -> web.Response:
        if call.request.method != hdrs.METH_POST:
            raise not_allowed(call.request.method, ("POST",))
        require_type(call.request, (JSON_TYPE,))
        value = parse_json(await read_body(call.request, self._max_body))
        return await self._run(call, thing_id, Action.MIGRATE, (), value)

    async def _resource(self, call: ApiCall, thing_id: str, path: Pointer) -> web.Response:
        method = call.request.method
        if method not in FULL:
            raise not_allowed(method, FULL)
        if method == hdrs.METH_GET:
            return await self._retrieve(call, thing_id, path)
        if method == hdrs.METH_DELETE:
            if path == ("policyId",):
                raise ditto_error("things:policyId.notdeletable", id=thing_id)
            return await self._run(call, thing_id, Action.DELETE, path)
        allowed = (JSON_TYPE,) if method == hdrs.METH_PUT else (MERGE_PATCH, JSON_PATCH)
        action = _ACTIONS[require_type(call.request, allowed)]
        value = parse_json(await read_body(call.request, self._max_body))
        return await self._run(call, thing_id, action, path, value)

    async def _retrieve(self, call: ApiCall, thing_id: str, path: Pointer) -> web.Response:
        if self._descriptions and is_describable(path) and asks_for_description(call):
            return await self._descriptions.one(call, thing_id, path)
        command = self._command(call, thing_id, Action.RETRIEVE, path, None)
        timeout_of(call.headers, MAX_TIMEOUT, MAX_TIMEOUT)
        outcome = await self._asking.ask(command, None)
        return (
            acknowledged(outcome)
            if isinstance(outcome, Acknowledgements)
            else answer(call, outcome)
        )

    def _command(
        self, call: ApiCall, thing_id: str, action: Action, path: Pointer, value: Json
    ) -> ThingCommand:
        return ThingCommand(
            thing_id=thing_id,
            action=action,
            subjects=call.subjects,
            path=path,
            value=value,
            fields=call.query("fields") if action is Action.RETRIEVE else None,
            headers=call.headers,
            trace=call.trace,
            channel=_channel(call),
        )

    async def _run(
        self,
        call: ApiCall,
        thing_id: str,
        action: Action,
        path: Pointer,
        value: Json = None,
        *,
        location: str | None = None,
    ) -> web.Response:
        command = self._command(call, thing_id, action, path, value)
        admitted(command, call.caller.access)
        default = LIVE_RESPONSE if command.channel == LIVE else TWIN_PERSISTED
        seconds = timeout_of(call.headers, MAX_TIMEOUT, MAX_TIMEOUT)
        wanted = requested(call.headers, default, seconds)
        if wanted.is_silent:
            await self._asking.tell(command, wanted)
            return web.Response(status=202)
        outcome = await self._asking.ask(command, wanted)
        if isinstance(outcome, Acknowledgements):
            return acknowledged(outcome.located(location or str(call.url)))
        if not wanted.response_required:
            return web.Response(status=202)
        if location is None and outcome.status == 201:
            location = str(call.url)
        return answer(call, outcome, location)


_ACTIONS = {JSON_TYPE: Action.MODIFY, MERGE_PATCH: Action.MERGE, JSON_PATCH: Action.PATCH}


def _channel(call: ApiCall) -> str:
    return str(call.headers.get("channel", TWIN)).lower()


def is_message_path(rest: str) -> bool:
    """True for inbox and outbox paths, of a thing or of a feature."""
    parts = rest.split("/")
    at = 2 if parts[0] == "features" else 0
    return len(parts) > at and parts[at] in ("inbox", "outbox")


_TOLD = (
    "channel",
    "live-channel-condition-matched",
    "ditto-metadata",
    "ditto-originator",
    "historical-headers",
)
"""Headers of a result that HTTP hands on."""


def answer(call: ApiCall, result: Good, location: str | None = None) -> web.Response:
    """A result as HTTP answers it; where nobody else is named, its originator is the caller."""
    assert isinstance(result, ThingResult)  # noqa: S101  it is what answers a command
    headers = {"version": "2", "response-required": "false"}
    if call.subjects:
        headers["ditto-originator"] = call.subjects[0]
    for name in _TOLD:
        if name in result.headers:
            headers[name] = _text(result.headers[name])
    if result.etag:
        headers[hdrs.ETAG] = result.etag
    if result.revision is not None:
        headers["entity-revision"] = str(result.revision)
    if result.status == 201 and location:
        headers[hdrs.LOCATION] = location
    if result.has_value:
        return json_response(result.value, result.status, headers)
    return web.Response(status=result.status, headers=headers)


def _text(value: HeaderValue) -> str:
    return value if isinstance(value, str) else msgspec.json.encode(value).decode()


def selector(call: ApiCall) -> FieldSelector | None:
    """The `fields` parameter, parsed."""
    text = call.query("fields")
    return None if text is None else FieldSelector.parse(text)


def namespaces(text: str | None) -> tuple[str, ...]:
    """A comma list of namespaces."""
    return tuple(part for one in (text or "").split(",") if (part := one.strip()))


def search_options(text: str | None) -> str | None:
    """The `option` parameter; an unescaped `+` of `sort(+a)` arrives as a blank."""
    return None if text is None else text.replace(" ", "+")


def joined_filter(filters: Sequence[str]) -> str | None:
    """Several filters all have to hold."""
    if not filters:
        return None
    return filters[0] if len(filters) == 1 else f"and({','.join(filters)})"
