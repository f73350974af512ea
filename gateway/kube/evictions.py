"""Evictions: a Pod is asked to go, if its disruption budget allows that.

Source: Kubernetes "API-initiated Eviction", API `policy/v1` Eviction and PodDisruptionBudget.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from gateway.errors import BadRequest, Conflict, GatewayError
from gateway.kube.bodies import delete_options
from gateway.kube.checks import DeleteOptions
from gateway.kube.objects import Objects
from gateway.kube.questions import Question, done
from gateway.kube.strategies import own_table, table
from gateway.kube.watch import Filter, Stored
from gateway.model.json import Json, JsonObject
from gateway.wire.kube import disruption
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.resources import ResourceType
from gateway.wire.kube.status import conflict

_BUDGETS = "poddisruptionbudgets.policy"
MAX_TRIES = 20
_MANY = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support."


async def evict(objects: Objects, question: Question) -> JsonObject:
    """Answer an Eviction.

    Errors: BadRequest for another name; QuotaExceeded (429) when the budget allows no disruption now;
            Conflict when a precondition fails; GatewayError (500) for a Pod with several budgets.
    """
    how = _how(question)
    is_bound = how.resource_version is not None
    for tries_left in reversed(range(1 if is_bound else MAX_TRIES)):
        try:
            return await _evict(objects, question, how)
        except Conflict:
            if not tries_left:
                raise
    raise AssertionError("the last try returns or raises")


def _how(question: Question) -> DeleteOptions:
    """How the Pod is to be deleted; a dry run may be said on either side. Errors: BadRequest."""
    if table(question.body, "metadata").get("name") != question.stored.key.name:
        raise BadRequest("name in URL does not match name in Eviction object")
    how = delete_options(question.body.get("deleteOptions"), {})
    return replace(how, dry_run=how.dry_run or question.options.dry_run)


async def _evict(objects: Objects, question: Question, how: DeleteOptions) -> JsonObject:
    pod = objects.get(question.resource, question.stored.key.namespace, question.stored.key.name)
    if disruption.needs_no_budget(pod.object):
        pinned = table(pod.object, "status").get("phase") == "Pending"
        return await _delete(objects, question.resource, pod, _pinned(how, pod) if pinned else how)
    budgets = disruption.budgets_of(
        pod.object,
        (each.object for each in objects.storage.all(_BUDGETS, Filter(pod.key.namespace))),
    )
    if len(budgets) > 1:
        raise GatewayError(_MANY, details={"reason": ""})
    if not budgets:
        return await _delete(objects, question.resource, pod, how)
    return await _within(objects, question.resource, pod, budgets[0], how)


async def _within(
    objects: Objects, pods: ResourceType, pod: Stored, budget: JsonObject, how: DeleteOptions
) -> JsonObject:
    """Take one disruption from the budget and delete the Pod."""
    name = str(table(budget, "metadata").get("name"))
    if not disruption.passes_as_unhealthy(pod.object, budget):
        change = partial(_noted, pod.key.name, rfc3339(objects.now()))
        kind = objects.resource("policy/v1", "poddisruptionbudgets")
        await objects.rewrite(kind, pod.key.namespace, name, change, dry_run=how.dry_run)
        return await _delete(objects, pods, pod, how)
    try:
        return await _delete(objects, pods, pod, _pinned(how, pod))
    except Conflict as error:  # it may have become ready meanwhile: then the budget counts
        if how.resource_version is not None:
            raise
        raise disruption.still_processed(name) from error


def _noted(pod_name: str, now: str, budget: JsonObject) -> JsonObject:
    return disruption.after_eviction(budget, pod_name, now)


def _pinned(how: DeleteOptions, pod: Stored) -> DeleteOptions:
    """Delete the Pod only as it was seen."""
    if how.resource_version is not None:
        return how
    return replace(how, resource_version=str(pod.version))


async def _delete(
    objects: Objects, pods: ResourceType, pod: Stored, how: DeleteOptions
) -> JsonObject:
    """Note in the Pod why it goes, and delete it."""
    namespace, name = pod.key.namespace, pod.key.name
    if not how.dry_run:
        change = partial(_told, how, rfc3339(objects.now()))
        told = await objects.rewrite(pods, namespace, name, change)
        if how.resource_version is not None:
            how = replace(how, resource_version=str(told.version))
    await objects.delete(pods, namespace, name, how)
    return done()


def _told(how: DeleteOptions, now: str, pod: JsonObject) -> JsonObject:
    """The Pod with the condition that it is evicted. Errors: Conflict."""
    metadata = table(pod, "metadata")
    checks = (
        ("UID", how.uid, metadata.get("uid"), "deleted and then recreated"),
        ("ResourceVersion", how.resource_version, metadata.get("resourceVersion"), "modified"),
    )
    for word, wanted, found, what in checks:
        if wanted and wanted != found:
            why = (
                f"the {word} in the precondition ({wanted}) does not match the {word} in record"
                f" ({found}). The object might have been {what}"
            )
            raise conflict("Pod", "", str(metadata.get("name")), why)
    marked = dict(pod)
    status = own_table(marked, "status")
    status["conditions"] = _disrupted(status.get("conditions"), now)
    return marked


def _disrupted(rows: Json, now: str) -> list[Json]:
    kept: list[Json] = [
        row
        for row in (rows if isinstance(rows, list) else [])
        if not (isinstance(row, dict) and row.get("type") == "DisruptionTarget")
    ]
    condition: JsonObject = {
        "type": "DisruptionTarget",
        "status": "True",
        "reason": "EvictionByEvictionAPI",
        "message": "Eviction API: evicting",
        "lastProbeTime": None,
        "lastTransitionTime": now,
    }
    return [*kept, condition]
