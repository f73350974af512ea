"""KubeEdge's admission webhook for a cluster of its own: `AdmissionReview` v1 over HTTPS.

The same rules as at the embedded API (`cloud.admission`), under KubeEdge's paths, so that its webhook
configurations work with another address and CA. Whoever reaches the listener may ask; nothing is written.
Source: Kubernetes, "Dynamic Admission Control"; KubeEdge reference, section 24.5.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import msgspec
from aiohttp import web

from gateway.errors import BadRequest, GatewayError
from gateway.kube.hooks import Hooks, Review
from gateway.model.json import Json, JsonObject
from gateway.runtime.listener import Endpoints, serve_app
from gateway.wire.cloudedge.devices import mapping, text

if TYPE_CHECKING:
    from cloud.identity import Identity
    from gateway.config.cloud_services import AdmissionWebhook

log = logging.getLogger(__name__)

ENDPOINT = "admission.https"
VERSION, KIND = "admission.k8s.io/v1", "AdmissionReview"
MAX_BODY = 4_194_304
"""Bytes of one review, which holds the object twice."""
BODY_SECONDS = 10.0
JUDGES = {
    "/devices": "devices.devices.kubeedge.io",
    "/devicemodels": "devicemodels.devices.kubeedge.io",
    "/rules": "rules.rules.kubeedge.io",
    "/ruleendpoints": "ruleendpoints.rules.kubeedge.io",
    "/nodeupgradejobs": "nodeupgradejobs.operations.kubeedge.io",
}
CHANGERS = {"/offlinemigration": "pods"}
_WRITES = ("CREATE", "UPDATE")


class AdmissionServer:
    """Module: the webhook's listener."""

    name = "cloud.admission"

    def __init__(
        self, settings: AdmissionWebhook, identity: Identity, hooks: Hooks, endpoints: Endpoints
    ) -> None:
        self._settings = settings
        self._identity = identity
        self._hooks = hooks
        self._endpoints = endpoints

    async def run(self, ready: Callable[[], None]) -> None:
        async with serve_app(
            self._endpoints,
            ENDPOINT,
            self._settings.bind,
            self.app(),
            ssl=self._identity.tls(ssl.CERT_NONE),
            setting="cloud.admission.bind",
        ):
            ready()
            await asyncio.Event().wait()

    def app(self) -> web.Application:
        """Build the application."""
        app = web.Application(client_max_size=MAX_BODY)
        for path in (*JUDGES, *CHANGERS):
            app.router.add_post(path, self._answer)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        try:
            async with asyncio.timeout(BODY_SECONDS):
                asked = read_review(await request.read())
            answer = await self._judged(request.path, asked)
        except GatewayError as error:
            log.info("admission not judged", extra={"cause": error.message, "path": request.path})
            return web.Response(status=error.status, text=error.message)
        review: JsonObject = {
            "apiVersion": VERSION,
            "kind": KIND,
            "response": {"uid": asked.get("uid"), **answer},
        }
        return web.Response(body=msgspec.json.encode(review), content_type="application/json")

    async def _judged(self, path: str, asked: JsonObject) -> JsonObject:
        item, old = asked.get("object"), asked.get("oldObject")
        if asked.get("operation") not in _WRITES or not isinstance(item, dict):
            return {"allowed": True}
        if path in CHANGERS:
            return _patched(item, self._hooks.completed(CHANGERS[path], item))
        warnings: list[Json] = []
        review = Review(item, old if isinstance(old, dict) else None)
        async for _, opinion in self._hooks.opinions(JUDGES[path], review):
            if opinion.refusal:
                return {"allowed": False, "status": {"message": opinion.refusal}}
            warnings += opinion.warnings
        return {"allowed": True, **({"warnings": warnings} if warnings else {})}


def read_review(body: bytes) -> JsonObject:
    """Return the request of an `AdmissionReview`. Errors: BadRequest."""
    try:
        review = mapping(msgspec.json.decode(body))
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise BadRequest(f"the body is not JSON: {error}") from error
    request = mapping(review.get("request"))
    if (review.get("apiVersion"), review.get("kind")) != (VERSION, KIND) or not text(
        request.get("uid")
    ):
        raise BadRequest(f"expected an {KIND} of {VERSION} with a request")
    return request


def _patched(before: JsonObject, after: JsonObject) -> JsonObject:
    """The answer of a webhook that completes: a JSON Patch of the members of the spec that differ."""
    old, new = mapping(before.get("spec")), mapping(after.get("spec"))
    patch: list[Json] = [
        {"op": "add", "path": f"/spec/{key}", "value": value}
        for key, value in new.items()
        if old.get(key) != value
    ]
    if not patch:
        return {"allowed": True}
    encoded = base64.b64encode(msgspec.json.encode(patch)).decode("ascii")
    return {"allowed": True, "patchType": "JSONPatch", "patch": encoded}
