"""The Kubernetes API over HTTP: paths to verbs, bodies to documents, errors to `Status`.

Everything about objects is in `gateway.kube.objects`; here are discovery, OpenAPI and the form of answers.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace

import msgspec
from aiohttp import web

from gateway.config.kube import KubeAudit
from gateway.errors import BadRequest, GatewayError, TooLarge
from gateway.kube import listing
from gateway.kube.admission import Remarks, WriteOptions
from gateway.kube.answers import answer, error_response, no_such_path, plain_json, shown
from gateway.kube.audit import AuditLog
from gateway.kube.auditing import Auditing, note_body, note_caller, note_decision
from gateway.kube.auth import Access, Authenticator, User, access_to, der_of
from gateway.kube.bodies import (
    delete_options,
    patch_type,
    read_aside,
    read_object,
    read_patch,
    repeated_fields,
    write_options,
)
from gateway.kube.checks import allow
from gateway.kube.client import PatchType
from gateway.kube.documents import Documents
from gateway.kube.impersonation import impersonated, wanted_of
from gateway.kube.kubelets import Kubelets, NoKubelets
from gateway.kube.lenses import lens_of, shown_through
from gateway.kube.metering import RequestMeter
from gateway.kube.nodeproxy import NodeProxies, access_to_kubelet
from gateway.kube.objects import Objects
from gateway.kube.patching import check_config
from gateway.kube.podstreams import STREAMED, UPGRADES, PodStreams
from gateway.kube.reviews import review
from gateway.kube.strategies import table
from gateway.kube.streams import stream_watch
from gateway.kube.usage import UsageAnswers
from gateway.kube.written import Written, deletion_status
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.kube.nodeproxy import parse_node_proxy
from gateway.wire.kube.requests import Target, Wanted, flag, number, parse_target
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import not_allowed, not_found, not_served

log = logging.getLogger(__name__)

BINDINGS = "bindings"
BODY_SECONDS = 30.0

_PATCH_OPTIONS, _CREATE_OPTIONS, _UPDATE_OPTIONS = "PatchOptions", "CreateOptions", "UpdateOptions"

_USER = web.RequestKey("kube.user", User)
"""Where a request keeps whom it is made for."""

Answer = Callable[[web.Request], Awaitable[web.StreamResponse]]


class KubeHttp:
    """The application: callers, objects and plain paths."""

    def __init__(
        self,
        objects: Objects,
        documents: Documents,
        authenticator: Authenticator,
        metrics: Metrics,
        *,
        max_body: int,
        audit: AuditLog | None = None,
        kubelets: Kubelets | None = None,
        usage: UsageAnswers | None = None,
    ) -> None:
        self.objects = objects
        kubelets = kubelets or NoKubelets()
        self._streams, self._proxies = PodStreams(objects, kubelets), NodeProxies(objects, kubelets)
        self.documents = documents
        self._authenticator, self._metrics = authenticator, metrics
        self._meter = RequestMeter(metrics, objects.registry.find)
        self._max_body, self._usage = max_body, usage
        self._auditing = Auditing(audit or AuditLog(KubeAudit(), metrics))

    def app(self) -> web.Application:
        app = web.Application(client_max_size=self._max_body)
        app.router.add_route("*", "/{path:.*}", self.answer)
        app.on_shutdown.append(self._end_watches)
        app.on_response_prepare.append(self._auditing.on_prepare)
        return app

    async def _end_watches(self, _app: web.Application) -> None:
        self.objects.storage.end_watches()

    # --- one request ------------------------------------------------------------------------------

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Answer a request; every failure becomes a `Status`."""
        loop_time = asyncio.get_running_loop().time
        started = loop_time()
        self._auditing.begin(request)
        labels = self._meter.begin(request)
        try:
            response = await self._dispatch(request)
        except GatewayError as error:
            response = error_response(error)
        except web.HTTPRequestEntityTooLarge:
            limit = f"Request entity too large: limit is {self._max_body}"
            response = error_response(TooLarge(limit))
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.reason)
        except asyncio.CancelledError:
            self._auditing.cut(request)
            raise
        except Exception:
            log.exception("request failed", extra={"method": request.method, "path": request.path})
            response = error_response(GatewayError("Internal error occurred"))
        finally:
            self._meter.gone(labels)
        self._auditing.end(request, response)
        self._meter.end(request, labels, response, loop_time() - started)
        return response

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        user = request[_USER] = self._caller(request)
        if (asked := parse_node_proxy(request.path)) is not None:
            self._require(request, user, access_to_kubelet(request.method, asked))
            return await self._proxies.answer(request, asked)
        if (target := parse_target(request.path)) is not None:
            return await self._on_resource(request, user, target)
        path = request.path.rstrip("/") or "/"
        self._require(request, user, Access(verb=request.method.lower(), path=path))
        if request.method not in ("GET", "HEAD"):
            raise not_allowed()
        return self._on_path(request, path)

    def _caller(self, request: web.Request) -> User:
        """Return whom the request is made for. Errors: Unauthenticated; Forbidden; BadRequest."""
        transport, headers = request.transport, request.headers
        certificate = transport.get_extra_info("peercert") if transport else None
        caller = self._authenticator.user(
            certificate, headers.get("Authorization"), der_of(transport) if certificate else None
        )
        note_caller(request, caller, caller)
        wanted = wanted_of(headers.items())
        user = impersonated(self.objects.rights.authorizer, caller, wanted)
        note_caller(request, caller, user)
        return user

    def _require(self, request: web.Request, user: User, access: Access) -> None:
        """Errors: Forbidden."""
        decision = self.objects.rights.authorizer.decide(user, access)
        note_decision(request, decision)
        self.objects.rights.require_decided(user, access, decision)

    # --- plain paths ------------------------------------------------------------------------------

    def _on_path(self, request: web.Request, path: str) -> web.Response:
        found = self.documents.find(path, request.headers.get("Accept"), request.query)
        if found is not None:
            return shown(request, found)
        if self._is_below_a_group(path):
            raise not_served()
        return no_such_path()

    def _is_below_a_group(self, path: str) -> bool:
        """True for paths below `/api` and the built-in groups, whose errors are objects."""
        first, _, rest = path.strip("/").partition("/")
        if first == "api":
            return bool(rest)
        group, _, below = rest.partition("/")
        known = self.objects.registry
        return (
            first == "apis"
            and bool(below)
            and any(item.group == group and not item.is_custom for item in known)
        )

    # --- objects ----------------------------------------------------------------------------------

    async def _on_resource(
        self, request: web.Request, user: User, target: Target
    ) -> web.StreamResponse:
        verb = verb_of(request, target)
        group = target.group_version.rpartition("/")[0]
        access = access_to(
            verb,
            group,
            target.plural,
            subresource=target.subresource,
            namespace=target.namespace,
            name=target.name,
            fields=request.query.get("fieldSelector"),
        )
        self._require(request, user, access)
        registry = self.objects.registry
        resource = registry.find(target.group_version, target.plural)
        if resource is None:
            if self._is_below_a_group(request.path):
                raise not_served()
            return no_such_path()
        if target.namespace and not resource.namespaced:
            raise not_served()
        if self._usage is not None and self._usage.serves(resource):
            return await self._usage.respond(request, self.objects, resource, target)
        if resource.is_virtual:
            return await self._on_review(request, resource, user, target.namespace)
        if target.subresource and resource.subresource(target.subresource) is None:
            if resource.is_custom:
                raise not_found(resource.plural, resource.group, target.name)
            raise not_served()
        handler = self._VERBS.get(verb)
        if handler is None or not _fits(resource, target, verb):
            raise not_allowed()
        if target.subresource in STREAMED and resource.storage_key == "pods":
            if target.subresource in UPGRADES and verb != "create":
                self._require(request, user, replace(access, verb="create"))
            return await self._streams.answer(request, target)
        return await handler(self, request, resource, target)

    async def _on_review(
        self, request: web.Request, resource: ResourceType, user: User, namespace: str
    ) -> web.Response:
        if request.method != "POST":
            raise not_allowed()
        body = await self._object(request, None)
        if resource.plural == BINDINGS:
            return await self._bind(request, namespace, body)
        question: JsonObject = body if isinstance(body, dict) else {}
        question = {**question, "kind": resource.kind, "apiVersion": resource.group_version}
        told = review(resource.plural, question, user, self.objects, namespace)
        return plain_json(msgspec.json.encode(told), status=201)

    async def _bind(self, request: web.Request, namespace: str, body: Json) -> web.Response:
        """The older place of a Pod's Binding, which names the Pod itself."""
        metadata = table(body, "metadata") if isinstance(body, dict) else {}
        name = str(metadata.get("name") or "")
        pods = self.objects.resource("v1", "pods")
        options = _options(request, _CREATE_OPTIONS)
        remarks = Remarks.of(options)
        told = await self.objects.ask(pods, namespace, name, "binding", body, options, remarks)
        return await answer(request, msgspec.json.encode(told), status=201, remarks=remarks)

    async def _get(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        wanted = listing.wanted_form(request.headers.get("Accept"), resource)
        if target.subresource:
            allow(resource, "get", target.subresource)
        self._check_version(request)
        stored = self.objects.get(resource, target.namespace, target.name)
        stored = shown_through(resource, target.subresource, stored)
        body = listing.one(resource, stored, wanted, request.query, self.objects.now())
        return await answer(request, body, wanted)

    def _check_version(self, request: web.Request) -> None:
        """Errors: TooEarly; GatewayError (500) for a version that is none, as an API server answers."""
        try:
            listing.check_version(request.query, self.objects.storage.version)
        except BadRequest as error:
            raise GatewayError(str(error), details={"reason": ""}) from error

    async def _list(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.StreamResponse:
        listing.check_verb(resource, "list")
        wanted = listing.wanted_form(request.headers.get("Accept"), resource, is_list=True)
        namespace = target.namespace or None
        body = listing.collection(self.objects, resource, namespace, wanted, request.query)
        return await answer(request, body, wanted)

    async def _watch(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.StreamResponse:
        listing.check_verb(resource, "watch")
        wanted = listing.wanted_form(request.headers.get("Accept"), resource, watches=True)
        namespace = target.namespace or None
        with self._metrics.kube_watchers.track_inprogress():
            return await stream_watch(request, self.objects, resource, namespace, wanted)

    async def _object(self, request: web.Request, resource: ResourceType | None) -> JsonObject:
        """The object in the body. Errors: UnsupportedMediaType; BadRequest."""
        content_type = request.headers.get("Content-Type")
        return await read_aside(await _body(request), read_object, content_type, resource)

    async def _written_as(
        self, request: web.Request, resource: ResourceType, options: WriteOptions
    ) -> tuple[JsonObject, WriteOptions]:
        """The object in the body, and the options that know of fields that it has twice."""
        content_type = request.headers.get("Content-Type")
        body = await _body(request)
        item = await read_aside(body, read_object, content_type, resource)
        if options.validation != "Ignore":
            options = replace(options, repeated=repeated_fields(body, content_type, item))
        return item, replace(options, sent=body) if resource.is_custom else options

    async def _create(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        if target.subresource:
            return await self._ask(request, resource, target)
        listing.check_verb(resource, "create")
        wanted = listing.wanted_form(request.headers.get("Accept"), resource)
        options = _options(request, _CREATE_OPTIONS)
        body, options = await self._written_as(request, resource, options)
        written = await self.objects.create(resource, target.namespace or None, body, options)
        return await self._written(request, resource, wanted, written)

    async def _ask(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        """A create of a subresource."""
        allow(resource, "create", target.subresource)
        options = _options(request, _CREATE_OPTIONS)
        body = await self._object(request, None)
        self.objects.rights.require_asking(request[_USER], _asked(target), body)
        remarks = Remarks.of(options)
        told = await self.objects.ask(
            resource,
            target.namespace or None,
            target.name,
            target.subresource,
            body,
            options,
            remarks,
        )
        return await answer(request, msgspec.json.encode(told), status=201, remarks=remarks)

    async def _update(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        wanted = listing.wanted_form(request.headers.get("Accept"), resource)
        options = _options(request, _UPDATE_OPTIONS)
        body, options = await self._written_as(request, resource, options)
        written = await self.objects.update(
            resource,
            target.namespace or None,
            target.name,
            body,
            options,
            subresource=target.subresource or None,
        )
        return await self._written(request, resource, wanted, written)

    async def _patch(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        kind = patch_type(request.headers.get("Content-Type"))
        wanted = listing.wanted_form(request.headers.get("Accept"), resource)
        options = _options(request, _PATCH_OPTIONS, kind)
        patch = await read_aside(await _body(request), read_patch, kind)
        if kind is PatchType.APPLY:
            lens = lens_of(resource, target.subresource)
            check_config(lens.kind if lens else resource, patch)
        written = await self.objects.patch(
            resource,
            target.namespace or None,
            target.name,
            patch,
            kind,
            options,
            subresource=target.subresource or None,
        )
        return await self._written(request, resource, wanted, written)

    async def _delete(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        wanted = listing.wanted_form(request.headers.get("Accept"), resource)
        options = delete_options(await self._options_body(request), request.query)
        namespace = target.namespace or None
        deleted = await self.objects.delete(resource, namespace, target.name, options)
        told = msgspec.json.encode(deletion_status(resource, deleted))
        return await answer(request, told, wanted)

    async def _delete_collection(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        listing.check_verb(resource, "deletecollection")
        wanted = listing.wanted_form(request.headers.get("Accept"), resource, is_list=True)
        query = request.query
        listing.check_options(query)
        selected = self.objects.filter(
            resource,
            target.namespace or None,
            query.get("labelSelector"),
            query.get("fieldSelector"),
        )
        options = delete_options(await self._options_body(request), query)
        items = await self.objects.delete_collection(
            resource, selected, options, limit=number(query, "limit") or 0
        )
        metadata: JsonObject = {"resourceVersion": str(self.objects.storage.version)}
        return await answer(request, listing.joined(resource, items, metadata), wanted)

    async def _options_body(self, request: web.Request) -> Json:
        body = await _body(request)
        return read_object(body, request.headers.get("Content-Type")) if body else None

    _VERBS: Mapping[
        str,
        Callable[[KubeHttp, web.Request, ResourceType, Target], Awaitable[web.StreamResponse]],
    ] = {
        "get": _get,
        "list": _list,
        "watch": _watch,
        "create": _create,
        "update": _update,
        "patch": _patch,
        "delete": _delete,
        "deletecollection": _delete_collection,
    }

    async def _written(
        self, request: web.Request, resource: ResourceType, wanted: Wanted, written: Written
    ) -> web.Response:
        body = listing.one(resource, written.stored, wanted, request.query, self.objects.now())
        status = 201 if written.is_new else 200
        return await answer(request, body, wanted, status=status, remarks=written.remarks)


# --- helpers --------------------------------------------------------------------------------------


_OF_COLLECTIONS = ("create", "list", "watch", "deletecollection")
_EVERYWHERE = ("list", "watch")


def _fits(resource: ResourceType, target: Target, verb: str) -> bool:
    """True where a verb can be: of an object or of many, in a namespace or in all."""
    if target.subresource:
        sub = resource.subresource(target.subresource)
        return sub is not None and verb in sub.verbs
    if (verb in _OF_COLLECTIONS) is bool(target.name):
        return False
    if target.name or target.namespace or not resource.namespaced:
        return True
    return verb in _EVERYWHERE


def verb_of(request: web.Request, target: Target) -> str:
    """The API's verb: reads of a collection are list or watch, deletions may be of a collection."""
    match request.method:
        case "GET":
            if target.name:
                return "get"
            return "watch" if flag(request.query, "watch") else "list"
        case "POST":
            return "create"
        case "PUT":
            return "update"
        case "PATCH":
            return "patch"
        case "DELETE":
            return "delete" if target.name else "deletecollection"
    return request.method.lower()


def _asked(target: Target) -> Access:
    return Access(
        verb="create",
        group=target.group_version.rpartition("/")[0],
        resource=target.plural,
        subresource=target.subresource,
        namespace=target.namespace,
        name=target.name,
    )


async def _body(request: web.Request) -> bytes:
    """The whole body. Errors: BadRequest (408) when it does not come; HTTPRequestEntityTooLarge."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except web.RequestPayloadError as error:
        raise BadRequest("the body of the request is not packed as it says") from error
    except TimeoutError as error:
        text = "the body of the request did not arrive in time"
        raise BadRequest(text, status=408, details={"reason": "Timeout"}) from error
    note_body(request, body)
    return body


def _options(request: web.Request, kind: str, patch: PatchType | None = None) -> WriteOptions:
    """How to write, and for whom. Errors: Unprocessable."""
    options = write_options(request.query, _agent(request), kind=kind, patch=patch)
    return replace(options, user=request[_USER])


def _agent(request: web.Request) -> str:
    return request.headers.get("User-Agent", "")
