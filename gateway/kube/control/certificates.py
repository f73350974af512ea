"""Certificate requests: those of nodes approved, approved ones signed, old ones forgotten.

Source: kube-controller-manager's csrapproving, csrsigning and csrcleaner.
"""

from __future__ import annotations

import base64
import logging
from abc import ABC, abstractmethod
from collections.abc import Callable

from gateway.errors import Conflict, NotFound
from gateway.kube.control.context import Context
from gateway.kube.control.loop import Loop
from gateway.kube.control.mirrors import metadata_of, uid_of
from gateway.kube.informer import Change
from gateway.kube.signers import lifetime, sign
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.requestfiles import (
    KUBELET_CLIENT,
    SIGNERS,
    Request,
    read_request,
    signer_fault,
)
from gateway.wire.kube.signingrequests import (
    APPROVED,
    DENIED,
    FAILED,
    conditions,
    has,
    is_issued,
    old_at,
)

log = logging.getLogger(__name__)

GROUP_VERSION, PLURAL = "certificates.k8s.io/v1", "certificatesigningrequests"
REVIEWS = "authorization.k8s.io/v1"
_MESSAGES = {
    "selfnodeclient": "Auto approving self kubelet client certificate after SubjectAccessReview.",
    "nodeclient": "Auto approving kubelet client certificate after SubjectAccessReview.",
}


class _Requests(ABC):
    """What the three loops share: one key for each request, looked at when it changes."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._kube = context.kube
        self._requests = context.mirrors.of(GROUP_VERSION, PLURAL)
        self._loop: Loop[str] = Loop(self._look)
        self._requests.on_change(self._changed)

    async def run(self) -> None:
        await self._loop.run()

    def _changed(self, change: Change) -> None:
        if change.new is None:
            self._loop.forget(change.key[1])
        else:
            self._loop.poke(change.key[1])

    async def _look(self, name: str) -> None:
        item = self._requests.get(None, name)
        if item is not None:
            await self._handle(item)

    @abstractmethod
    async def _handle(self, item: JsonObject) -> None:
        """Do what there is to do for a request."""

    async def _write(self, item: JsonObject, status: JsonObject, part: str) -> None:
        """Write a status; who was first is looked at again when the change comes."""
        try:
            changed: JsonObject = {**item, "status": status}
            written = await self._kube.update(
                GROUP_VERSION, PLURAL, None, changed, subresource=part
            )
        except (Conflict, NotFound):
            return
        self._requests.put(written)


class Approving(_Requests):
    """Approves what nodes ask for themselves, where the one who asks may."""

    async def _handle(self, item: JsonObject) -> None:
        if is_issued(item) or has(item, APPROVED) or has(item, DENIED):
            return
        spec = _table(item.get("spec"))
        request = _request(item)
        if request is None or spec.get("signerName") != KUBELET_CLIENT:
            return
        if signer_fault(KUBELET_CLIENT, request, _usages(spec)):
            return
        own = spec.get("username") == request.common_name
        for subresource in (["selfnodeclient"] if own else []) + ["nodeclient"]:
            if await self._may(spec, subresource):
                await self._approve(item, _MESSAGES[subresource])
                return

    async def _may(self, spec: JsonObject, subresource: str) -> bool:
        wanted: JsonObject = {
            "group": "certificates.k8s.io",
            "resource": PLURAL,
            "verb": "create",
            "subresource": subresource,
            "version": "*",
        }
        asked: JsonObject = {"resourceAttributes": wanted, "user": spec.get("username")}
        for own in ("uid", "groups", "extra"):
            if own in spec:
                asked[own] = spec[own]
        body: JsonObject = {
            "apiVersion": REVIEWS,
            "kind": "SubjectAccessReview",
            "metadata": {},
            "spec": asked,
        }
        answer = await self._kube.create(REVIEWS, "subjectaccessreviews", None, body)
        return _table(answer.get("status")).get("allowed") is True

    async def _approve(self, item: JsonObject, message: str) -> None:
        now = rfc3339(self._context.now())
        condition: JsonObject = {
            "type": APPROVED,
            "status": "True",
            "reason": "AutoApproved",
            "message": message,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        held: list[Json] = [*conditions(item), condition]
        await self._write(item, {**_table(item.get("status")), "conditions": held}, "approval")


class Signing(_Requests):
    """Signs approved requests for the signers of Kubernetes with the API's own authority."""

    async def _handle(self, item: JsonObject) -> None:
        spec, keys = _table(item.get("spec")), self._context.keys()
        signer = str(spec.get("signerName") or "")
        if is_issued(item) or not has(item, APPROVED) or has(item, FAILED) or keys is None:
            return
        request = _request(item)
        if signer not in SIGNERS or request is None:
            return
        usages = _usages(spec)
        if fault := signer_fault(signer, request, usages):
            await self._fail(item, fault)
            return
        seconds = lifetime(spec.get("expirationSeconds"))
        try:
            pem = sign(keys.authority, request, usages, seconds, self._context.now())
        except ValueError as error:
            log.warning("a request was not signed", extra={"cause": str(error)[:200]})
            return
        text = base64.b64encode(pem).decode()
        await self._write(item, {**_table(item.get("status")), "certificate": text}, "status")

    async def _fail(self, item: JsonObject, why: str) -> None:
        now = rfc3339(self._context.now())
        condition: JsonObject = {
            "type": FAILED,
            "status": "True",
            "reason": "SignerValidationFailure",
            "message": why,
            "lastUpdateTime": now,
            "lastTransitionTime": now,
        }
        held: list[Json] = [*conditions(item), condition]
        await self._write(item, {**_table(item.get("status")), "conditions": held}, "status")


class Cleaning(_Requests):
    """Forgets requests that ended, and those that nobody answered."""

    async def _handle(self, item: JsonObject) -> None:
        end = old_at(item)
        if end is None:
            return
        name, left = str(metadata_of(item).get("name")), end - self._context.now()
        if left > 0:
            self._loop.poke_after(name, left)
            return
        try:
            await self._kube.delete(GROUP_VERSION, PLURAL, None, name, uid=uid_of(item))
        except (Conflict, NotFound):
            return


CertificateLoop = Callable[[Context], _Requests]


def _request(item: JsonObject) -> Request | None:
    try:
        return read_request(_table(item.get("spec")).get("request"))
    except ValueError:
        return None  # it was refused when it came


def _usages(spec: JsonObject) -> frozenset[str]:
    found = spec.get("usages")
    return frozenset(str(each) for each in found) if isinstance(found, list) else frozenset()


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}
