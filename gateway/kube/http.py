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
from gateway.errors import BadRequest, GatewayError, NotFound, TooLarge
from gateway.kube import listing
from gateway.kube.admission import Remarks, WriteOptions
from gateway.kube.audit import AuditLog
from gateway.kube.auditing import Auditing, note_body, note_caller, note_decision
from gateway.kube.auth import Access, Authenticator, User, access_to
from gateway.kube.bodies import delete_options, read_object, read_patch, write_options
from gateway.kube.checks import allow, metadata_namespace
from gateway.kube.documents import JSON, Document, Documents
from gateway.kube.impersonation import impersonated, wanted_of
from gateway.kube.lenses import shown_through
from gateway.kube.objects import Objects, Written
from gateway.kube.reviews import review
from gateway.kube.strategies import table
from gateway.kube.streams import stream_watch
from gateway.model.json import Json, JsonObject
from gateway.observe.metrics import Metrics
from gateway.wire.kube.requests import Target, flag, parse_target
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import status_of

log = logging.getLogger(__name__)

SERVER = "kube"
BINDINGS = "bindings"
BODY_SECONDS = 30.0
MAX_WARNING = 256
"""Characters of one warning in a header."""
METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")

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
    ) -> None:
        self.objects = objects
        self.documents = documents
        self._authenticator = authenticator
        self._metrics = metrics
        self._max_body = max_body
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
        try:
            response = await self._dispatch(request)
        except GatewayError as error:
            response = error_response(error)
        except web.HTTPRequestEntityTooLarge:
            limit = f"Request entity too large: limit is {self._max_body}"
            response = error_response(TooLarge(limit))
        except web.HTTPException as error:
            response = web.Response(status=error.status, text=error.reason)
        except Exception:
            log.exception("request failed", extra={"method": request.method, "path": request.path})
            response = error_response(GatewayError("Internal error occurred"))
        self._auditing.end(request, response)
        method = request.method if request.method in METHODS else "other"
        self._metrics.http_requests.labels(SERVER, method, str(response.status)).inc()
        if isinstance(response, web.Response):
            self._metrics.http_seconds.labels(SERVER, method).observe(loop_time() - started)
        return response

    async def _dispatch(self, request: web.Request) -> web.StreamResponse:
        user = request[_USER] = self._caller(request)
        target = parse_target(request.path)
        if target is not None:
            return await self._on_resource(request, user, target)
        path = request.path.rstrip("/") or "/"
        self._require(request, user, Access(verb=request.method.lower(), path=path))
        if request.method not in ("GET", "HEAD"):
            return web.Response(status=405, text="405 method not allowed")
        return self._on_path(request, path)

    def _caller(self, request: web.Request) -> User:
        """Return whom the request is made for. Errors: Unauthenticated; Forbidden; BadRequest."""
        transport, headers = request.transport, request.headers
        certificate = transport.get_extra_info("peercert") if transport else None
        caller = self._authenticator.user(
            certificate, headers.get("Authorization"), _der(transport) if certificate else None
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
        found = self.documents.find(path, request.headers.get("Accept"))
        if found is None:
            return no_such_path()
        if found.is_cacheable:
            return _cacheable(request, found)
        headers = {"Content-Type": found.content_type}
        if found.content_type == JSON:
            headers = dict(_JSON_HEADERS)
        return web.Response(body=found.body, status=found.status, headers=headers)

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
            if target.group_version not in registry.group_versions():
                return no_such_path()
            raise NotFound("the server could not find the requested resource")
        if target.namespace and not resource.namespaced:
            raise NotFound("the server could not find the requested resource")
        if resource.is_virtual:
            return await self._on_review(request, resource, user, target.namespace)
        if target.subresource and resource.subresource(target.subresource) is None:
            raise NotFound("the server could not find the requested resource")
        if verb == "create":
            return await self._create(request, resource, target, user)
        handler = self._VERBS.get(verb)
        if handler is None:
            return web.Response(status=405, text="405 method not allowed")
        return await handler(self, request, resource, target)

    async def _on_review(
        self, request: web.Request, resource: ResourceType, user: User, namespace: str
    ) -> web.Response:
        if request.method != "POST":
            return error_response(listing.method_not_allowed(resource))
        body = read_object(await _body(request), request.headers.get("Content-Type"))
        if resource.plural == BINDINGS:
            return await self._bind(request, namespace, body)
        question: JsonObject = body if isinstance(body, dict) else {}
        question = {**question, "kind": resource.kind, "apiVersion": resource.group_version}
        answer = review(resource.plural, question, user, self.objects, namespace)
        return _json(msgspec.json.encode(answer), status=201)

    async def _bind(self, request: web.Request, namespace: str, body: Json) -> web.Response:
        """The older place of a Pod's Binding, which names the Pod itself."""
        metadata = table(body, "metadata") if isinstance(body, dict) else {}
        name = str(metadata.get("name") or "")
        pods = self.objects.resource("v1", "pods")
        options = _options(request, _CREATE_OPTIONS)
        remarks = Remarks.of(options)
        answer = await self.objects.ask(pods, namespace, name, "binding", body, options, remarks)
        return _warned(_json(msgspec.json.encode(answer), status=201), remarks)

    async def _get(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        wanted = listing.wanted_form(request.headers.get("Accept"))
        listing.check_version(request.query, self.objects.storage.version)
        if target.subresource:
            allow(resource, "get", target.subresource)
        stored = self.objects.get(resource, target.namespace, target.name)
        stored = shown_through(resource, target.subresource, stored)
        body = listing.one(resource, stored, wanted, request.query, self.objects.now())
        return _json(body)

    async def _list(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.StreamResponse:
        listing.check_verb(resource, "list")
        wanted = listing.wanted_form(request.headers.get("Accept"))
        namespace = target.namespace or None
        return _json(listing.collection(self.objects, resource, namespace, wanted, request.query))

    async def _watch(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.StreamResponse:
        listing.check_verb(resource, "watch")
        wanted = listing.wanted_form(request.headers.get("Accept"))
        namespace = target.namespace or None
        with self._metrics.kube_watchers.track_inprogress():
            return await stream_watch(request, self.objects, resource, namespace, wanted)

    async def _create(
        self, request: web.Request, resource: ResourceType, target: Target, user: User
    ) -> web.Response:
        if target.subresource:
            return await self._ask(request, resource, target, user)
        if target.name:
            raise listing.method_not_allowed(resource)
        listing.check_verb(resource, "create")
        options = _options(request, _CREATE_OPTIONS)
        body = read_object(await _body(request), request.headers.get("Content-Type"))
        if resource.namespaced and not target.namespace:
            _check_body_namespace(resource, body)
        written = await self.objects.create(resource, target.namespace or None, body, options)
        return self._written(request, resource, written)

    async def _ask(
        self, request: web.Request, resource: ResourceType, target: Target, user: User
    ) -> web.Response:
        """A create of a subresource."""
        allow(resource, "create", target.subresource)
        options = _options(request, _CREATE_OPTIONS)
        body = read_object(await _body(request), request.headers.get("Content-Type"))
        self.objects.rights.require_asking(user, _asked(target), body)
        remarks = Remarks.of(options)
        answer = await self.objects.ask(
            resource,
            target.namespace or None,
            target.name,
            target.subresource,
            body,
            options,
            remarks,
        )
        return _warned(_json(msgspec.json.encode(answer), status=201), remarks)

    async def _update(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        options = _options(request, _UPDATE_OPTIONS)
        body = read_object(await _body(request), request.headers.get("Content-Type"))
        written = await self.objects.update(
            resource,
            target.namespace or None,
            target.name,
            body,
            options,
            subresource=target.subresource or None,
        )
        return self._written(request, resource, written)

    async def _patch(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        options = _options(request, _PATCH_OPTIONS)
        body = await _body(request)
        patch, kind = read_patch(body, request.headers.get("Content-Type"))
        written = await self.objects.patch(
            resource,
            target.namespace or None,
            target.name,
            patch,
            kind,
            options,
            subresource=target.subresource or None,
        )
        return self._written(request, resource, written)

    async def _delete(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        options = delete_options(await self._options_body(request), request.query)
        namespace = target.namespace or None
        deleted = await self.objects.delete(resource, namespace, target.name, options)
        return _json(msgspec.json.encode(self.objects.deletion_status(resource, deleted)))

    async def _delete_collection(
        self, request: web.Request, resource: ResourceType, target: Target
    ) -> web.Response:
        listing.check_verb(resource, "deletecollection")
        options = delete_options(await self._options_body(request), request.query)
        query = request.query
        wanted = self.objects.filter(
            resource,
            target.namespace or None,
            query.get("labelSelector"),
            query.get("fieldSelector"),
        )
        items = await self.objects.delete_collection(resource, wanted, options)
        metadata: JsonObject = {"resourceVersion": str(self.objects.storage.version)}
        return _json(listing.joined(resource, items, metadata))

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
        "update": _update,
        "patch": _patch,
        "delete": _delete,
        "deletecollection": _delete_collection,
    }

    def _written(
        self, request: web.Request, resource: ResourceType, written: Written
    ) -> web.Response:
        wanted = listing.wanted_form(request.headers.get("Accept"))
        body = listing.one(resource, written.stored, wanted, request.query, self.objects.now())
        return _warned(_json(body, status=201 if written.is_new else 200), written.remarks)


# --- helpers --------------------------------------------------------------------------------------


def _warned(response: web.Response, remarks: Remarks) -> web.Response:
    for text in remarks.texts:
        response.headers.add("Warning", f'299 - "{_header_text(text)}"')
    return response


def verb_of(request: web.Request, target: Target) -> str:
    """The API's verb: reads of a collection are list or watch, deletions may be of a collection."""
    match request.method:
        case "GET" | "HEAD":
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


def _check_body_namespace(resource: ResourceType, body: Json) -> None:
    metadata = table(body, "metadata") if isinstance(body, dict) else {}
    metadata_namespace(resource, dict(metadata), None)


async def _body(request: web.Request) -> bytes:
    """The whole body. Errors: BadRequest (408) when it does not come; HTTPRequestEntityTooLarge."""
    try:
        async with asyncio.timeout(BODY_SECONDS):
            body = await request.read()
    except TimeoutError as error:
        text = "the body of the request did not arrive in time"
        raise BadRequest(text, status=408, details={"reason": "Timeout"}) from error
    note_body(request, body)
    return body


def _header_text(text: str) -> str:
    """What a quoted string in a header may hold: field names come from clients and may be anything."""
    plain = "".join(mark if mark.isprintable() else "?" for mark in text[:MAX_WARNING])
    return plain.replace("\\", "\\\\").replace('"', '\\"')


def _der(transport: asyncio.Transport | None) -> bytes | None:
    """The whole certificate of the caller."""
    tls = transport.get_extra_info("ssl_object") if transport else None
    return tls.getpeercert(binary_form=True) if tls is not None else None


def _options(request: web.Request, kind: str) -> WriteOptions:
    """How to write, and for whom. Errors: Unprocessable."""
    options = write_options(request.query, _agent(request), kind=kind)
    return replace(options, user=request[_USER])


def _agent(request: web.Request) -> str:
    return request.headers.get("User-Agent", "")


def _json(body: bytes, *, status: int = 200) -> web.Response:
    return web.Response(body=body, status=status, headers=_JSON_HEADERS)


_JSON_HEADERS = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}


def _cacheable(request: web.Request, document: Document) -> web.Response:
    """An answer that the client may keep and ask about by its tag."""
    headers = {"ETag": document.tag, "Vary": "Accept", "Cache-Control": "public"}
    if request.headers.get("If-None-Match") == document.tag:
        return web.Response(status=304, headers=headers)
    headers["Content-Type"] = document.content_type
    return web.Response(body=document.body, headers=headers)


def no_such_path() -> web.Response:
    return web.Response(status=404, text="404 page not found\n")


def error_response(error: GatewayError) -> web.Response:
    """A `Status` with the error's code."""
    response = _json(msgspec.json.encode(status_of(error)), status=error.status)
    wait = error.details.get("retryAfterSeconds")
    if error.status == 503 and wait is None:
        wait = 1
    if wait is not None:
        response.headers["Retry-After"] = str(wait)
    return response
