"""EdgeController: answers what edge nodes ask of the Kubernetes API, each for itself only.

A node may write its own Node, its own Lease and its own Pods' status, and read what its Pods name; everything
else is Forbidden, in the Status form that edges understand. Source: KubeEdge, edge-to-cloud catalogue;
who may read what: Kubernetes' Node authorizer.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from cloud.asks import Answering, Ask, Form
from cloud.catalog import STORE
from cloud.hub import CloudHub
from cloud.identity import LEASE_NAMESPACE, LEASES, ensure_namespace
from cloud.nodeasks import NodeAsks, Unanswered
from cloud.restrictions import (
    CERTIFICATE,
    CLOUDCORE,
    check_event_about,
    check_event_of,
    check_mirror_pod,
    check_pod_of,
    event_from,
    own_words,
    status_patch_of,
)
from cloud.runtimetaint import taints_for
from cloud.sessions import Inbound, stamp
from gateway.errors import (
    Conflict,
    Forbidden,
    GatewayError,
    MalformedPacket,
    NotBuilt,
    NotFound,
)
from gateway.kube.client import KubeClient, PatchType
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge.devices import ObjectMeta, mapping, text
from gateway.wire.cloudedge.envelope import json_of, text_of
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.to_cloud import CaAsked, ResourceAsked
from gateway.wire.cloudedge.to_edge import (
    answer_ca,
    answer_object,
    answer_result,
    err_status,
)
from gateway.wire.kube.status import AlreadyExists, status_of

if TYPE_CHECKING:
    from cloud.identity import Identity
    from cloud.podstatus import PodReports
    from cloud.streamport import StreamPort
    from gateway.observe.tracing import Tracer

log = logging.getLogger(__name__)

EVENTS = "v1"
_COUNTED = ("count", "lastTimestamp", "message")
"""What changes in an event that happens again."""
TAINT_ATTEMPTS = 5
ROOT_CERTIFICATE = "kube-root-ca.crt"
"""ConfigMap that a cluster keeps its CA in, in each namespace."""


class EdgeController:
    """Answers `ResourceAsked` and `CaAsked`. Holds no state of its own."""

    def __init__(
        self,
        kube: KubeClient,
        identity: Identity,
        tracer: Tracer,
        place: StreamPort,
        reports: PodReports,
        asks: NodeAsks,
    ) -> None:
        self._kube = kube
        self._asks = asks
        self._reports = reports
        self._identity = identity
        self._tracer = tracer
        self._place = place
        self._table = self._make_table()

    def attach(self, hub: CloudHub) -> None:
        """Take the hub's questions."""
        hub.on(ResourceAsked, self.on_asked, _lane)
        hub.on(CaAsked, self.on_ca_asked, lambda _: "ca")

    async def on_ca_asked(self, inbound: Inbound, _: CaAsked) -> None:
        """Answer with the cluster's CA, not ours: for whom a Pod asks, that is who signs API servers.

        Errors: Undeliverable; the node asks again.
        """
        try:
            found = await self._kube.get("v1", "configmaps", "default", ROOT_CERTIFICATE)
            pem = text(mapping(found.get("data")).get("ca.crt"))
        except NotFound:
            pem = ""
        inbound.reply(
            answer_ca(inbound.envelope, stamp(), pem or self._identity.ca.certificate_pem)
        )

    async def on_asked(self, inbound: Inbound, message: ResourceAsked) -> None:
        """Answer one question in the form that it wants."""
        key = (message.subject.type, message.operation)
        form, answering = self._table.get(key, (Form.BARE, _unknown))
        with self._tracer.start_frequent(
            f"edgecontroller {message.operation} {message.subject.type}",
            inbound.envelope.trace,
            "server",
            {"node": inbound.node},
        ):
            try:
                value = await answering(Ask(inbound.node, message, inbound))
            except Unanswered:
                return
            except GatewayError as error:
                self._refuse(inbound, form, error)
            else:
                self._answer(inbound, form, value)

    def _answer(self, inbound: Inbound, form: Form, value: JsonObject | list[Json] | None) -> None:
        asked = inbound.envelope
        if form is Form.RESULT:
            inbound.reply(answer_result(asked, stamp(), unclaimed(mapping(value))))
        elif form is Form.BARE:
            inbound.reply(answer_object(asked, stamp(), value))
        elif form is Form.OK:
            inbound.reply(answer_object(asked, stamp(), "OK"))

    def _refuse(self, inbound: Inbound, form: Form, error: GatewayError) -> None:
        level = logging.DEBUG if isinstance(error, NotFound | AlreadyExists) else logging.INFO
        log.log(
            level,
            "edge request refused",
            extra={
                "node": inbound.node,
                "resource": inbound.envelope.route.resource[:200],
                "operation": inbound.envelope.route.operation,
                "cause": error.message,
            },
        )
        status = status_of(error)
        if form is Form.RESULT:
            inbound.reply(answer_result(inbound.envelope, stamp(), None, status))
        elif form is not Form.NONE:
            inbound.reply(answer_object(inbound.envelope, stamp(), err_status(status)))

    def _make_table(self) -> dict[tuple[str, str], tuple[Form, Answering]]:
        operation = Operation
        return {
            ("node", operation.INSERT): (Form.RESULT, self._register_node),
            ("node", operation.UPDATE): (Form.RESULT, self._register_node),
            ("node", operation.QUERY): (Form.BARE, self._get_node),
            ("nodepatch", operation.PATCH): (Form.RESULT, self._patch_node),
            ("nodestatus", operation.INSERT): (Form.OK, self._legacy_status),
            ("nodestatus", operation.UPDATE): (Form.NONE, self._legacy_status),
            ("lease", operation.QUERY): (Form.RESULT, self._get_lease),
            ("lease", operation.INSERT): (Form.RESULT, self._create_lease),
            ("lease", operation.UPDATE): (Form.RESULT, self._update_lease),
            ("pod", operation.INSERT): (Form.RESULT, self._create_mirror_pod),
            ("pod", operation.DELETE): (Form.OK, self._delete_pod),
            ("pod", operation.QUERY): (Form.BARE, self._get_pod),
            ("podlist", operation.QUERY): (Form.BARE, self._list_pods),
            ("podpatch", operation.PATCH): (Form.RESULT, self._patch_pod),
            ("podstatus", operation.UPDATE): (Form.NONE, _drop),
            **self._asks.table,
            ("event", operation.INSERT): (Form.NONE, self._create_event),
            ("event", operation.UPDATE): (Form.NONE, self._create_event),
            ("event", operation.PATCH): (Form.NONE, self._patch_event),
        }

    # --- node and lease -------------------------------------------------------------------------

    async def _register_node(self, ask: Ask) -> JsonObject:
        """Create the Node, or bring the existing one in line with what the edge says of itself."""
        name = ask.own()
        sent = ask.object()
        meta = mapping(sent.get("metadata"))
        annotations: JsonObject = {
            **own_words(meta.get("annotations")),
            CLOUDCORE: self._place.address,
            CERTIFICATE: ask.inbound.session.serial,
            STORE: ask.inbound.session.edge,
        }
        wanted: JsonObject = {
            "name": name,
            "labels": own_words(meta.get("labels")),
            "annotations": annotations,
        }
        status = self._place.told(mapping(sent.get("status")))
        body: JsonObject = {**sent, "apiVersion": "v1", "kind": "Node", "metadata": wanted}
        body |= {"status": status} if status else {}
        spec = mapping(sent.get("spec"))
        taints = taints_for(spec.get("taints"), status)
        if taints is not None:
            body["spec"] = {**spec, "taints": taints}
        try:
            node = await self._kube.create("v1", "nodes", None, body)
        except AlreadyExists:
            patch: JsonObject = {
                "metadata": {"labels": wanted["labels"], "annotations": annotations}
            }
            await self._kube.patch("v1", "nodes", None, name, patch)
            node = await self._taint(name, status)
        if status and node.get("status") != status:
            node = await self._patch_status("nodes", None, name, {"status": status})
        return node

    async def _taint(self, name: str, status: JsonObject) -> JsonObject:
        """Bring the taint for nodes that run nothing in line with what the edge says. Errors: Conflict."""
        for _ in range(TAINT_ATTEMPTS - 1):
            try:
                return await self._taint_once(name, status)
            except Conflict:
                continue  # others write taints, too
        return await self._taint_once(name, status)

    async def _taint_once(self, name: str, status: JsonObject) -> JsonObject:
        node = await self._kube.get("v1", "nodes", None, name)
        taints = taints_for(mapping(node.get("spec")).get("taints"), status)
        if taints is None:
            return node
        seen: JsonObject = {"resourceVersion": ObjectMeta.read(node).version}
        patch: JsonObject = {"metadata": seen, "spec": {"taints": taints or None}}
        return await self._kube.patch("v1", "nodes", None, name, patch)

    async def _get_node(self, ask: Ask) -> JsonObject:
        return await self._kube.get("v1", "nodes", None, ask.own())

    async def _patch_node(self, ask: Ask) -> JsonObject:
        patch = _patch_of(ask)
        status = self._place.told(mapping(patch.get("status")))
        patch["status"] = status
        name = ask.own()
        node = await self._patch_status("nodes", None, name, patch)
        if taints_for(mapping(node.get("spec")).get("taints"), status) is None:
            return node
        return await self._taint(name, status)  # its container runtime came since it registered

    async def _legacy_status(self, ask: Ask) -> None:
        status = self._place.told(mapping(ask.object().get("Status")))
        await self._patch_status("nodes", None, ask.own(), {"status": status})

    async def _patch_status(
        self, plural: str, namespace: str | None, name: str, patch: JsonObject
    ) -> JsonObject:
        return await self._kube.patch(
            "v1",
            plural,
            namespace,
            name,
            patch,
            patch_type=PatchType.STRATEGIC,
            subresource="status",
        )

    async def _get_lease(self, ask: Ask) -> JsonObject:
        return await self._kube.get(LEASES, "leases", _lease_namespace(ask), ask.own())

    async def _create_lease(self, ask: Ask) -> JsonObject:
        ask.own()
        namespace, body = _lease_namespace(ask), _named(ask, "Lease", LEASES)
        try:
            return await self._kube.create(LEASES, "leases", namespace, body)
        except AlreadyExists:
            raise
        except NotFound:  # a fresh API has no such namespace yet
            await ensure_namespace(self._kube, namespace)
            return await self._kube.create(LEASES, "leases", namespace, body)

    async def _update_lease(self, ask: Ask) -> JsonObject:
        ask.own()
        body = unclaimed(_named(ask, "Lease", LEASES))
        return await self._kube.update(LEASES, "leases", _lease_namespace(ask), body)

    # --- pods and what they name ----------------------------------------------------------------

    async def _create_mirror_pod(self, ask: Ask) -> JsonObject:
        body = _named(ask, "Pod", "v1")
        check_mirror_pod(ask.node, body)
        return await self._kube.create("v1", "pods", ask.namespace, body)

    async def _own_pod(self, ask: Ask) -> JsonObject:
        pod = await self._kube.get("v1", "pods", ask.namespace, ask.name)
        check_pod_of(ask.node, pod)
        return pod

    async def _get_pod(self, ask: Ask) -> JsonObject:
        return await self._own_pod(ask)

    async def _list_pods(self, ask: Ask) -> list[Json]:
        return [*await self._pods_of(ask.node)]

    async def _pods_of(self, node: str, namespace: str | None = None) -> list[JsonObject]:
        try:
            found = await self._kube.list("v1", "pods", namespace, fields=f"spec.nodeName={node}")
        except NotFound:  # an API without pods
            return []
        return found.items

    async def _patch_pod(self, ask: Ask) -> JsonObject:
        pod = await self._own_pod(ask)
        patch = status_patch_of(ask.node, ask.object(), ("annotations",))
        uid = text(mapping(patch.get("metadata")).get("uid"))
        if uid and uid != ObjectMeta.read(pod).uid:
            raise Conflict(f"pod {ask.name} has another uid", details={"reason": "Conflict"})
        return await self._reports.write(ask.node, pod, patch)

    async def _delete_pod(self, ask: Ask) -> None:
        try:
            own = ObjectMeta.read(await self._own_pod(ask)).uid
            uid, grace = _deletion_of(ask)
            await self._kube.delete(
                "v1", "pods", ask.namespace, ask.name, uid=uid or own, grace_seconds=grace
            )
        except NotFound:
            return

    # --- events ---------------------------------------------------------------------------------

    async def _create_event(self, ask: Ask) -> None:
        await self._store_event(ask, ask.name, _named(ask, "Event", "v1"))

    async def _store_event(self, ask: Ask, name: str, sent: JsonObject) -> None:
        body = event_from(ask.node, sent)
        check_event_about(ask.node, body, await self._pod_of(body, ask.namespace))
        try:
            await self._kube.create(EVENTS, "events", ask.namespace, body)
        except AlreadyExists:
            await self._change_event(ask, name, body)

    async def _pod_of(self, event: JsonObject, namespace: str) -> JsonObject | None:
        """Return the Pod that an event is about, None for another kind and for one that is gone."""
        involved = mapping(event.get("involvedObject"))
        if involved.get("kind") != "Pod" or not text(involved.get("name")):
            return None
        try:
            return await self._kube.get("v1", "pods", namespace, text(involved.get("name")))
        except NotFound:
            return None

    async def _patch_event(self, ask: Ask) -> None:
        sent = ask.object()
        event = mapping(sent.get("event"))
        meta = mapping(event.get("metadata"))
        name = text(meta.get("name")) or ask.name
        try:
            await self._change_event(ask, name, event)
        except NotFound:  # the API keeps events for a while only
            named: JsonObject = {"name": name, "namespace": ask.namespace}
            anew: JsonObject = {**event, "apiVersion": "v1", "kind": "Event", "metadata": named}
            await self._store_event(ask, name, anew)

    async def _change_event(self, ask: Ask, name: str, event: JsonObject) -> None:
        check_event_of(ask.node, await self._kube.get(EVENTS, "events", ask.namespace, name))
        patch = {k: v for k, v in event.items() if k in _COUNTED}
        await self._kube.patch(EVENTS, "events", ask.namespace, name, patch)


async def _unknown(ask: Ask) -> None:
    raise NotBuilt(f"{ask.message.operation} of {ask.message.subject.type} is not built")


async def _drop(_: Ask) -> None:
    """Legacy status reports of Pods: every edge since 2021 sends podpatch."""


def _lease_namespace(ask: Ask) -> str:
    if ask.namespace != LEASE_NAMESPACE:
        raise Forbidden(f"node {ask.node} may not touch leases of {ask.namespace}")
    return ask.namespace


def _named(ask: Ask, kind: str, group_version: str) -> JsonObject:
    """Return the object sent, with the identity that the route says."""
    body = ask.object()
    meta: JsonObject = {
        **mapping(body.get("metadata")),
        "name": ask.name,
        "namespace": ask.namespace,
    }
    return {**body, "apiVersion": group_version, "kind": kind, "metadata": meta}


def unclaimed(item: JsonObject) -> JsonObject:
    """Return an object without who manages which field: no edge reads it, and it is half of a Lease.

    An update without it leaves it as it is.
    """
    metadata = mapping(item.get("metadata"))
    if "managedFields" not in metadata:
        return item
    kept: JsonObject = {k: v for k, v in metadata.items() if k != "managedFields"}
    return {**item, "metadata": kept}


def _patch_of(ask: Ask) -> JsonObject:
    return status_patch_of(ask.node, ask.object())


def _deletion_of(ask: Ask) -> tuple[str | None, int]:
    """Read uid and grace of a delete: DeleteOptions, or (older edges) the uid as text.

    The edge asks once the Pod's containers have ended, so it means at once where it says nothing.
    """
    try:
        options = mapping(json_of(ask.message.content))
    except MalformedPacket:
        return text_of(ask.message.content) or None, 0
    grace = options.get("gracePeriodSeconds")
    if not isinstance(grace, int) or isinstance(grace, bool) or grace < 0:
        grace = 0
    return text(mapping(options.get("preconditions")).get("uid")) or None, grace


def _lane(message: ResourceAsked) -> tuple[str, str, str]:
    """Keep what is about one object in order; a question that waits holds up no namesake elsewhere."""
    subject = message.subject
    kind = subject.type.removesuffix("patch").removesuffix("status")
    return kind, "" if kind == "node" else subject.namespace or "", subject.name
