"""What MetaServer does: reads from the cloud or the disk, writes through the cloud alone.

The cloud's word counts, also its 404; only a cloud that cannot answer is replaced by the disk.
Source: KubeEdge reference, sections 13.1 and 13.2.
"""

from __future__ import annotations

import base64
import logging
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from functools import partial

import msgspec

from edge.applications import Applications, failure_of
from edge.metaanswers import (
    CLOUD,
    DISK,
    fields_of,
    many,
    one,
    respond,
    respond_json,
    wanted_form,
)
from edge.metakinds import text_of
from edge.metamethods import is_of_methods
from edge.metarecords import Listing, MetaRecords, Selection, listing_of
from edge.metarequests import Call
from edge.metawatch import (
    Lines,
    Shower,
    WatchOptions,
    error_line,
    follow,
    lines_of,
    watch_options,
)
from edge.metawindow import Follower
from gateway.errors import (
    Gone,
    MalformedPacket,
    MethodNotAllowed,
    NotBuilt,
    NotFound,
    QuotaExceeded,
    Undeliverable,
    UnsupportedMediaType,
)
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.runtime.small_service import Request, Response
from gateway.wire.cloudedge.applications import ApiKey, Application, Verb, make_application
from gateway.wire.kube.requests import media_parts
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.selectors import EVERY_LABEL, parse_labels
from gateway.wire.kube.status import not_found, success

log = logging.getLogger(__name__)

RUNTIME = frozenset({"log", "exec", "attach", "portforward", "proxy"})
"""Subresources that reach into containers."""
ACTIONS = frozenset({"restart", "unhold-upgrade", "confirm-upgrade"})
"""What KubeEdge's tools post in place of a name."""
META = "meta.k8s.io/v1"
Twins = Callable[[Call, JsonObject], Awaitable[JsonObject]]
Methods = Callable[[Call, Request], Awaitable[Response]]


class MetaVerbs:
    """Answers requests about objects that the caller has a right to."""

    def __init__(
        self,
        node: str,
        records: MetaRecords,
        cloud: Applications,
        twins: Twins,
        methods: Methods,
        metrics: Metrics,
        max_watches: int,
    ) -> None:
        self._node = node
        self._records = records
        self._cloud = cloud
        self._twins = twins
        self._methods = methods
        self._metrics = metrics
        self._max_watches = max_watches
        cloud.refresh = self.refresh

    async def answer(self, call: Call, request: Request) -> Response:
        """Answer one request. Errors: what the API says; Undeliverable; NotBuilt."""
        if is_of_methods(call):
            return await self._methods(call, request)
        if call.subresource in RUNTIME or (call.verb == "create" and call.name in ACTIONS):
            raise NotBuilt(
                "MetaServer does not reach into containers: ask the cloud's API, or 'twinspan edge logs' here"
            )
        return await self._VERBS[call.verb](self, call, request)

    # --- reads --------------------------------------------------------------------------------

    async def _get(self, call: Call, request: Request) -> Response:
        wanted = wanted_form(request.headers.get("accept"))
        origin = CLOUD
        try:
            item = await self._get_cloud(call)
        except Undeliverable as error:
            origin = DISK
            found = await self._records.get(str(call.key))
            if found is None:
                raise _absent(error, call) from error
            item = found
        resource = self._learn(call, item)
        return respond_json(one(resource, item, wanted, call.query), origin)

    async def _get_cloud(self, call: Call) -> JsonObject:
        try:
            item = await self._ask(call, Verb.GET, option={})
        except NotFound:
            known = self._records.kinds.find(call.group, call.version, call.plural)
            if known is not None and not call.subresource:
                await self._records.forget(known, str(call.key))
            raise
        if not call.subresource:
            await self._records.keep(self._learn(call, item), item)
        return item

    async def _list(self, call: Call, request: Request) -> Response:
        wanted = wanted_form(request.headers.get("accept"))
        origin = CLOUD
        try:
            selection, found = await self._list_cloud(call)
        except Undeliverable as error:
            origin = DISK
            selection = self._selection(call, _known(self._find(call), error))
            found = await self._records.list(selection)
        return respond_json(many(selection.resource, found, wanted, call.query), origin)

    async def _list_cloud(self, call: Call) -> tuple[Selection, Listing]:
        """Return the cloud's list, and keep it."""
        place = self._records.window.place
        answer = await self._ask(call, Verb.LIST, option=_list_options(call), named=False)
        selection = self._selection(call, self._learn_list(call, answer))
        found = listing_of(selection.resource, answer)
        is_whole = not call.query.get("continue") and not found.rest.get("continue")
        await self._records.keep_list(selection, found, place, is_whole=is_whole)
        return selection, found

    async def _watch(self, call: Call, request: Request) -> Response:
        wanted, options = wanted_form(request.headers.get("accept")), watch_options(call.query)
        if self._records.window.followers >= self._max_watches:
            raise QuotaExceeded(f"at most {self._max_watches} watches at a time")
        app = self._application(call, Verb.WATCH, option=_watch_options(call), named=False)
        await self._cloud.hold(app)
        follower: Follower | None = None
        try:
            if options.since is None or self._find(call) is None:
                await self._find_out(call)
            selection = self._selection(call, _known(self._find(call), None))
            follower = self._records.window.follow(selection.gvr, options.since)
            first = Listing((), 0, {})
            if options.since is None:
                first = await self._records.list(selection)
            shower = Shower(selection, wanted, call.query, is_resumed=options.since is not None)
            lines = self._stream(follower, shower, first, options)
            return Response(200, _STREAM, Lines(lines, partial(self._end, app, follower)))
        except BaseException as error:
            self._end(app, follower)
            if isinstance(error, Gone):
                return respond(error_line(error), DISK)
            raise

    async def _find_out(self, call: Call) -> None:
        """Have the cloud say what there is, where it answers."""
        try:
            await self._list_cloud(call)
        except Undeliverable as error:
            log.debug("a watch starts from disk", extra={"cause": error.message})

    async def _stream(
        self, follower: Follower, shower: Shower, first: Listing, options: WatchOptions
    ) -> AsyncGenerator[bytes, None]:
        with self._metrics.edge.metaserver_watches.track_inprogress():
            for lines in lines_of(shower, list(first.items)):
                yield lines
            if options.marks_end:
                yield shower.bookmark(first.version, ends_initial=True)
            async for lines in follow(shower, follower, self._records.window, options):
                yield lines

    def _end(self, app: Application, follower: Follower | None) -> None:
        if follower is not None:
            follower.close()
        self._cloud.release(app)

    async def refresh(self, app: Application) -> None:
        """List anew what a watch watches: what went while the link was down must be found out."""
        key, option = ApiKey.parse(app.key), app.option_json()
        query = {name: str(option[name]) for name in _SELECTORS if option.get(name)}
        namespace = key.namespace or ""
        call = Call("list", key.group, key.version, key.resource, namespace, "", "", query)
        await self._list_cloud(call)

    # --- writes -------------------------------------------------------------------------------

    async def _create(self, call: Call, request: Request) -> Response:
        if call.name and not call.subresource:
            raise MethodNotAllowed(
                "the server does not allow this method on the requested resource"
            )
        body = _json_body(request)
        option = _write_options(call, "CreateOptions")
        item = await self._ask(call, Verb.CREATE, option=option, body=body)
        return await self._written(call, request, item, status=201)

    async def _update(self, call: Call, request: Request) -> Response:
        body = _json_body(request)
        if call.plural == "devices" and not call.subresource:
            document = msgspec.json.decode(body)
            return respond_json(await self._twins(call, _object(document)), DISK)
        verb = Verb.UPDATE_STATUS if call.subresource == "status" else Verb.UPDATE
        item = await self._ask(call, verb, option=_write_options(call, "UpdateOptions"), body=body)
        return await self._written(call, request, item)

    async def _patch(self, call: Call, request: Request) -> Response:
        kind, _ = media_parts(request.headers.get("content-type", ""))
        if kind not in PATCHES:
            raise UnsupportedMediaType(f"expected one of {', '.join(PATCHES)}, got {kind[:100]!r}")
        option: JsonObject = {
            "Name": call.name,
            "PatchType": kind,
            "Data": base64.b64encode(request.body).decode(),
            "Options": _write_options(call, "PatchOptions"),
            "Subresources": [call.subresource] if call.subresource else [],
        }
        item = await self._ask(call, Verb.PATCH, option=option)
        return await self._written(call, request, item)

    async def _delete(self, call: Call, request: Request) -> Response:
        option = _object(msgspec.json.decode(_json_body(request))) if request.body else {}
        for name in ("gracePeriodSeconds", "propagationPolicy", "dryRun"):
            if call.query.get(name) and name not in option:
                text = call.query[name]
                option[name] = (
                    int(text) if _is_number(text) else [text] if name == "dryRun" else text
                )
        item = await self._ask(call, Verb.DELETE, option=option)
        if text_of(item, "kind") not in ("", "Status"):
            return await self._written(call, request, item)
        known = self._find(call)
        if known is not None and not option.get("dryRun"):
            await self._records.forget(known, str(call.key))
        return respond_json(item or success(call.name, call.group, call.plural, ""), CLOUD)

    async def _written(
        self, call: Call, request: Request, item: JsonObject, *, status: int = 200
    ) -> Response:
        """Answer with an object as the cloud wrote it, and keep it."""
        wanted = wanted_form(request.headers.get("accept"))
        if call.subresource not in ("", "status") or not item.get("metadata"):
            return respond_json(item, CLOUD, status=status)
        resource = self._learn(call, item)
        if not call.query.get("dryRun"):
            await self._records.keep(resource, item)
        return respond_json(one(resource, item, wanted, call.query), CLOUD, status=status)

    _VERBS: Mapping[str, Callable[[MetaVerbs, Call, Request], Awaitable[Response]]] = {
        "get": _get,
        "list": _list,
        "watch": _watch,
        "create": _create,
        "update": _update,
        "patch": _patch,
        "delete": _delete,
    }

    # --- the cloud ----------------------------------------------------------------------------

    def _application(
        self,
        call: Call,
        verb: Verb,
        *,
        option: Json = None,
        body: bytes | None = None,
        named: bool = True,
    ) -> Application:
        key = call.key
        if not named:
            key = ApiKey(key.group, key.version, key.resource, key.namespace)
        return make_application(
            self._node, key, verb, option=option, body=body, subresource=call.subresource
        )

    async def _ask(
        self,
        call: Call,
        verb: Verb,
        *,
        option: Json = None,
        body: bytes | None = None,
        named: bool = True,
    ) -> JsonObject:
        """Return what the cloud answers. Errors: what the API refused; Undeliverable."""
        app = self._application(call, verb, option=option, body=body, named=named)
        answer = await self._cloud.apply(app)
        failure = failure_of(answer)
        if failure is not None:
            raise failure
        try:
            data = answer.response_bytes()
            document = msgspec.json.decode(data) if data else {}
        except (MalformedPacket, msgspec.DecodeError) as error:
            raise Undeliverable(f"the cloud's answer cannot be read: {error}") from error
        return _object(document)

    # --- kinds --------------------------------------------------------------------------------

    def _find(self, call: Call) -> ResourceType | None:
        return self._records.kinds.find(call.group, call.version, call.plural)

    def _learn(self, call: Call, item: JsonObject) -> ResourceType:
        known = self._find(call)
        if known is not None or not text_of(item, "kind"):
            return _known(known, None)
        return self._records.kinds.learn(
            call.group_version,
            text_of(item, "kind"),
            plural=call.plural,
            namespaced=bool(call.namespace),
        )

    def _learn_list(self, call: Call, answer: JsonObject) -> ResourceType:
        kind = text_of(answer, "kind").removesuffix("List")
        return self._learn(call, {"kind": kind})

    def _selection(self, call: Call, resource: ResourceType) -> Selection:
        text = call.query.get("fieldSelector", "")
        if call.name:
            text = ",".join(part for part in (text, f"metadata.name={call.name}") if part)
        labels = call.query.get("labelSelector")
        return Selection(
            resource,
            call.namespace or None,
            parse_labels(labels) if labels else EVERY_LABEL,
            fields_of(text),
        )


_SELECTORS = ("labelSelector", "fieldSelector")
PATCHES = (
    "application/json-patch+json",
    "application/merge-patch+json",
    "application/strategic-merge-patch+json",
    "application/apply-patch+yaml",
)
_STREAM = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}


def _list_options(call: Call) -> JsonObject:
    option: JsonObject = {"kind": "ListOptions", "apiVersion": META}
    option.update({name: call.query[name] for name in _SELECTORS if call.query.get(name)})
    limit = call.query.get("limit", "")
    if _is_number(limit) and 0 < int(limit) < 1_000_000:
        option["limit"] = int(limit)
    if call.query.get("continue"):
        option["continue"] = call.query["continue"]
    return option


def _watch_options(call: Call) -> JsonObject:
    """Say what is watched, and no more: watches of the same are one in the cloud."""
    option: JsonObject = {"kind": "ListOptions", "apiVersion": META, "watch": True}
    option.update({name: call.query[name] for name in _SELECTORS if call.query.get(name)})
    return option


def _write_options(call: Call, kind: str) -> JsonObject:
    option: JsonObject = {"kind": kind, "apiVersion": META}
    for name in ("fieldManager", "fieldValidation"):
        if call.query.get(name):
            option[name] = call.query[name]
    if call.query.get("dryRun"):
        option["dryRun"] = [call.query["dryRun"]]
    if kind == "PatchOptions" and call.query.get("force"):
        option["force"] = call.query["force"] == "true"
    return option


def _json_body(request: Request) -> bytes:
    """Return a body that is a JSON object. Errors: UnsupportedMediaType; MalformedPacket."""
    kind, _ = media_parts(request.headers.get("content-type", "application/json"))
    if kind not in ("application/json", ""):
        raise UnsupportedMediaType(f"expected application/json, got {kind[:100]!r}")
    try:
        document = msgspec.json.decode(request.body)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise MalformedPacket(f"the body is not JSON: {error}") from error
    _object(document)
    return request.body


def _object(document: Json) -> JsonObject:
    if not isinstance(document, dict):
        raise MalformedPacket(f"expected a JSON object, got {type(document).__name__}")
    return document


def _known(resource: ResourceType | None, error: Undeliverable | None) -> ResourceType:
    if resource is not None:
        return resource
    raise error or Undeliverable("this kind was never seen at this edge, and the cloud is away")


def _absent(error: Undeliverable, call: Call) -> Undeliverable:
    """Say why there is no answer: without the cloud nobody knows that an object does not exist."""
    gone = not_found(call.plural, call.group, call.name)
    return Undeliverable(f"{gone.message} at this edge, and the cloud is away: {error.message}")


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 18
