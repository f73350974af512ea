"""Bindings: a Pod gets its Node, once. Source: Kubernetes API `v1` Binding."""

from __future__ import annotations

from functools import partial

from gateway.errors import BadRequest, GatewayError
from gateway.kube.objects import Objects
from gateway.kube.questions import Question, done
from gateway.kube.strategies import own_table, table
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.names import quoted
from gateway.wire.kube.status import conflict

_RESOURCE = "pods/binding"


async def bind(objects: Objects, question: Question) -> JsonObject:
    """Answer a Binding.

    Errors: BadRequest for another name; Conflict when the Pod has a Node, ends, or is another one.
    """
    binding, pod = question.body, question.stored.key
    if table(binding, "metadata").get("name") != pod.name:
        raise BadRequest("name in URL does not match name in Binding object")
    target = table(binding, "target")
    _check_target(target)
    change = partial(_bound, binding, str(target["name"]), rfc3339(objects.now()))
    dry_run = question.options.dry_run
    await objects.rewrite(question.resource, pod.namespace, pod.name, change, dry_run=dry_run)
    return done()


def _check_target(target: JsonObject) -> None:
    """Errors: GatewayError (500) without a reason, as an API server answers here."""
    kind = target.get("kind")
    faults = []
    if kind not in (None, "", "Node"):
        text = f'Unsupported value: {quoted(kind)}: supported values: "Node", "<empty>"'
        faults.append(f"target.kind: {text}")
    if not target.get("name"):
        faults.append("target.name: Required value")
    if faults:
        text = faults[0] if len(faults) == 1 else f"[{', '.join(faults)}]"
        raise GatewayError(text, details={"reason": ""})


def _bound(binding: JsonObject, node: str, now: str, pod: JsonObject) -> JsonObject:
    """The Pod on its Node, with what the Binding says of it. Errors: Conflict."""
    metadata, asked = table(pod, "metadata"), table(binding, "metadata")
    name = str(metadata.get("name"))
    _check_same(asked, metadata)
    why = _why_not(pod, name)
    if why:
        raise conflict(_RESOURCE, "", name, why)
    bound = dict(pod)
    fresh = own_table(bound, "metadata")
    for key in ("labels", "annotations"):
        if table(asked, key):
            fresh[key] = table(metadata, key) | table(asked, key)
    bound["spec"] = {**table(pod, "spec"), "nodeName": node}
    status = own_table(bound, "status")
    status.pop("nominatedNodeName", None)
    status["conditions"] = _scheduled(status.get("conditions"), now)
    return bound


def _check_same(asked: JsonObject, metadata: JsonObject) -> None:
    for key, word in (("uid", "UID"), ("resourceVersion", "ResourceVersion")):
        wanted, found = asked.get(key), metadata.get(key)
        if wanted and wanted != found:
            why = (
                f"Precondition failed: {word} in precondition: {wanted},"
                f" {word} in object meta: {found}"
            )
            raise conflict("pods", "", str(metadata.get("name")), why)


def _why_not(pod: JsonObject, name: str) -> str:
    spec = table(pod, "spec")
    if table(pod, "metadata").get("deletionTimestamp"):
        return f"pod {name} is being deleted, cannot be assigned to a host"
    if spec.get("nodeName"):
        return f"pod {name} is already assigned to node {quoted(spec['nodeName'])}"
    if spec.get("schedulingGates"):
        return f"pod {name} has non-empty .spec.schedulingGates"
    return ""


def _scheduled(value: Json, now: str) -> list[Json]:
    rows: list[Json] = list(value) if isinstance(value, list) else []
    held = [row for row in rows if isinstance(row, dict) and row.get("type") == "PodScheduled"]
    if held and held[0].get("status") == "True":
        return rows
    condition: JsonObject = {
        "type": "PodScheduled",
        "status": "True",
        "lastProbeTime": None,
        "lastTransitionTime": now,
    }
    return [*(row for row in rows if row not in held), condition]
