"""What nodes read for their Pods: ConfigMaps, Secrets, claims and their volumes, tokens; and certificates.

A node may read what its Pods name and nothing else, as Kubernetes' Node authorizer rules; tokens are bound to
one of its Pods, as NodeRestriction wants. A real KubeEdge edge takes the Status of a failure for the object:
what is not there, or cannot be read now, is not answered to it before it can be.
Source: KubeEdge reference, sections 5.1, 9 and 11.3.
"""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from typing import TYPE_CHECKING

from cloud.asks import Answering, Ask, Form
from cloud.authorizer import NODES, node_user
from cloud.references import Reference, account_of, references
from cloud.restrictions import check_pod_of
from gateway.errors import Forbidden, GatewayError, NotFound, QuotaExceeded, Undeliverable
from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.cloudedge.names import Operation

if TYPE_CHECKING:
    from cloud.ports import PodsOfNodes
    from gateway.config.cloud_services import Authorization

log = logging.getLogger(__name__)

TOKENS = "authentication.k8s.io/v1"
STORAGE = "storage.k8s.io/v1"
CERTIFICATES = "certificates.k8s.io/v1"
REQUESTS = "certificatesigningrequests"
SIGNERS = frozenset(
    {"kubernetes.io/kubelet-serving", "kubernetes.io/kube-apiserver-client-kubelet"}
)
"""Who may sign for a node."""
PATIENCE_SECONDS = 60.0
"""A real edge waits so long for an answer."""
LOOK_SECONDS = 1.0
MAX_WAITING = 64
"""Questions of one node that wait for what is not there yet; more are dropped, and asked again."""


Rule = Callable[[str, Reference, str], bool]
"""True when the node (first) may read the object in this namespace (last)."""


class Unanswered(GatewayError):
    """No answer is better than one now: the edge asks again."""

    status = 404
    code = "cloud:unanswered"


_PASSING = (Undeliverable, QuotaExceeded)
"""What the API answers when it can be asked again later."""


class NodeAsks:
    """Answering functions for `EdgeController`."""

    def __init__(self, kube: KubeClient, pods: PodsOfNodes, settings: Authorization) -> None:
        self._kube = kube
        self._pods = pods
        self._settings = settings
        self._waiting: Counter[str] = Counter()
        self._rules: list[Rule] = []

    def allow(self, rule: Rule) -> None:
        """Let nodes read what a rule says, beside what their Pods name."""
        self._rules.append(rule)

    @property
    def table(self) -> dict[tuple[str, str], tuple[Form, Answering]]:
        """What is answered, by type and operation."""
        query, insert = str(Operation.QUERY), str(Operation.INSERT)
        return {
            ("configmap", query): (Form.BARE, self._patiently(self._named("configmaps"))),
            ("secret", query): (Form.BARE, self._patiently(self._named("secrets"))),
            ("persistentvolumeclaim", query): (
                Form.BARE,
                _or_nothing(self._named("persistentvolumeclaims")),
            ),
            ("persistentvolume", query): (Form.BARE, _or_nothing(self._volume)),
            ("volumeattachment", query): (Form.BARE, _or_nothing(self._attachment)),
            ("serviceaccounttoken", query): (Form.BARE, _or_nothing(self._token)),
            ("certificatesigningrequest", insert): (Form.RESULT, self._request_certificate),
            ("certificatesigningrequest", query): (Form.BARE, self._certificate),
        }

    # --- what Pods name -----------------------------------------------------------------------

    def _named(self, plural: str) -> Answering:
        async def answering(ask: Ask) -> JsonObject:
            reference = (ask.message.subject.type, ask.name)
            if not await self._is_used(ask, reference, ask.namespace):
                self._refuse(ask, f"no Pod of node {ask.node} uses {ask.message.subject}")
            return await self._kube.get("v1", plural, ask.namespace, ask.name)

        return answering

    async def _is_used(self, ask: Ask, reference: Reference, namespace: str) -> bool:
        """Look in memory, and ask the cluster before saying no: a Pod may have come just now."""
        if self._pods.uses(ask.node, reference, namespace):
            return True
        if any(rule(ask.node, reference, namespace) for rule in self._rules):
            return True
        try:
            found = await self._kube.list(
                "v1", "pods", namespace, fields=f"spec.nodeName={ask.node}"
            )
        except NotFound:  # an API without pods
            return False
        return any(reference in references(pod) for pod in found.items)

    async def _volume(self, ask: Ask) -> JsonObject:
        volume = await self._kube.get("v1", "persistentvolumes", None, ask.name)
        claim = mapping(mapping(volume.get("spec")).get("claimRef"))
        namespace, name = text(claim.get("namespace")), text(claim.get("name"))
        reference = ("persistentvolumeclaim", name)
        if not name or not await self._is_used(ask, reference, namespace):
            self._refuse(ask, f"no Pod of node {ask.node} uses persistentvolume {ask.name}")
        return volume

    async def _attachment(self, ask: Ask) -> JsonObject:
        item = await self._kube.get(STORAGE, "volumeattachments", None, ask.name)
        if text(mapping(item.get("spec")).get("nodeName")) != ask.node:
            self._refuse(ask, f"volumeattachment {ask.name} is not of node {ask.node}")
        return item

    # --- tokens -------------------------------------------------------------------------------

    async def _token(self, ask: Ask) -> JsonObject:
        """Ask for a token as the node wants it; what the API fills in goes back with it."""
        spec = mapping(ask.object().get("spec"))
        await self._check_bound(ask, mapping(spec.get("boundObjectRef")))
        body: JsonObject = {"apiVersion": TOKENS, "kind": "TokenRequest", "spec": spec}
        found = await self._kube.create(
            "v1", "serviceaccounts", ask.namespace, body, name=ask.name, subresource="token"
        )
        return {"apiVersion": TOKENS, "kind": "TokenRequest", **found}

    async def _check_bound(self, ask: Ask, bound: JsonObject) -> None:
        """Refuse tokens that are not for the node's Pods, in every mode. Errors: Forbidden; NotFound."""
        if text(bound.get("kind")) != "Pod" or not text(bound.get("uid")):
            raise Forbidden(f"node {ask.node} asked for a token that is not bound to a Pod")
        pod = await self._kube.get("v1", "pods", ask.namespace, text(bound.get("name")))
        check_pod_of(ask.node, pod)
        if account_of(pod) != ask.name or ObjectMeta.read(pod).uid != bound.get("uid"):
            raise Forbidden(f"the Pod does not run as {ask.message.subject}")

    # --- certificates -------------------------------------------------------------------------

    async def _request_certificate(self, ask: Ask) -> JsonObject:
        """Make the node's request in its own name: the API notes who asks, and signs for no other."""
        sent = ask.object()
        signer = text(mapping(sent.get("spec")).get("signerName"))
        if signer not in SIGNERS:
            raise Forbidden(f"node {ask.node} may not ask {signer[:200]!r} for a certificate")
        meta: JsonObject = {"name": ask.name}
        body: JsonObject = {
            "apiVersion": CERTIFICATES,
            "kind": "CertificateSigningRequest",
            "metadata": meta,
            "spec": mapping(sent.get("spec")),
        }
        own = self._kube.acting_as(node_user(ask.node), (NODES,))
        return await own.create(CERTIFICATES, REQUESTS, None, body)

    async def _certificate(self, ask: Ask) -> JsonObject:
        item = await self._kube.get(CERTIFICATES, REQUESTS, None, ask.name)
        if text(mapping(item.get("spec")).get("username")) != node_user(ask.node):
            raise Forbidden(f"certificatesigningrequest {ask.name} is not of node {ask.node}")
        return item

    # --- refusing and waiting -----------------------------------------------------------------

    def _refuse(self, ask: Ask, why: str) -> None:
        """Errors: Forbidden, unless the settings let it pass."""
        if not self._settings.enabled:
            return
        if not self._settings.debug:
            raise Forbidden(why)
        facts = {"node": ask.node, "resource": str(ask.message.subject)[:200], "cause": why}
        log.warning(
            "an edge's request would be refused (cloud.hub.authorization.debug)", extra=facts
        )

    def _patiently(self, answering: Answering) -> Answering:
        """Let a foreign edge wait for what is not there yet, or cannot be read now."""

        async def waiting(ask: Ask) -> JsonObject:
            try:
                found = await answering(ask)
            except (NotFound, *_PASSING) as error:
                if ask.inbound.session.is_ours:
                    raise
                return await self._wait(ask, answering, error)
            return mapping(found)

        return waiting

    async def _wait(self, ask: Ask, answering: Answering, error: GatewayError) -> JsonObject:
        """Errors: Unanswered."""
        if self._waiting[ask.node] >= MAX_WAITING:
            raise Unanswered(error.message)
        self._waiting[ask.node] += 1
        try:
            async with asyncio.timeout(PATIENCE_SECONDS):
                while not ask.inbound.session.link.closed:
                    await asyncio.sleep(LOOK_SECONDS)
                    try:
                        return mapping(await answering(ask))
                    except (NotFound, *_PASSING):
                        continue
        except TimeoutError:
            log.info(
                "an edge asked for what is not there, and got no answer",
                extra={"node": ask.node, "resource": str(ask.message.subject)[:200]},
            )
        finally:
            self._waiting[ask.node] -= 1
            self._waiting = +self._waiting
        raise Unanswered(error.message)


def _or_nothing(answering: Answering) -> Answering:
    """Do not answer a foreign edge while the API is away: the failure would take the place of what it has."""

    async def asking(ask: Ask) -> JsonObject:
        try:
            return mapping(await answering(ask))
        except _PASSING as error:
            if ask.inbound.session.is_ours:
                raise
            raise Unanswered(error.message) from error

    return asking
