"""PodDisruptionBudgets on the running server: evictions count them down, the loop counts them up again."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from gateway.errors import GatewayError, QuotaExceeded
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.clock import rfc3339
from gateway.wire.kube.parts import part, rows, text
from gateway.wire.kube.templates import owner_reference
from tests.workload_rig import Workloads, eventually, name_of, workloads

BUDGETS = "policy/v1", "poddisruptionbudgets"
SETS = "apps/v1", "statefulsets"


def a_rig(folder: Path, *more: str) -> AbstractAsyncContextManager[Workloads]:
    return workloads(folder, "disruption", *more)


async def add_budget(rig: Workloads, app: str = "web", **spec: Json) -> None:
    body: JsonObject = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "web"},
        "spec": {"selector": {"matchLabels": {"app": app}}, **spec},
    }
    await rig.kube.create(*BUDGETS, "default", body)


async def add_set(rig: Workloads, replicas: int) -> None:
    template: JsonObject = {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "web", "image": "web:1"}]},
    }
    spec: JsonObject = {
        "replicas": replicas,
        "serviceName": "web",
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": {"app": "web"}},
        "template": template,
    }
    body: JsonObject = {"apiVersion": "apps/v1", "kind": "StatefulSet"}
    await rig.kube.create(*SETS, "default", {**body, "metadata": {"name": "web"}, "spec": spec})


async def add_pod(rig: Workloads, name: str, owner: JsonObject | None = None) -> None:
    metadata: JsonObject = {"name": name, "labels": {"app": "web"}}
    if owner is not None:
        metadata["ownerReferences"] = [owner]
    spec: JsonObject = {"containers": [{"name": "web", "image": "web:1"}]}
    body: JsonObject = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec}
    await rig.kube.create("v1", "pods", "default", body)


async def evict(rig: Workloads, name: str) -> None:
    body: JsonObject = {
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": {"name": name, "namespace": "default"},
    }
    await rig.kube.create("v1", "pods", "default", body, name=name, subresource="eviction")


async def until_allowed(rig: Workloads, allowed: int, healthy: int) -> JsonObject:
    def is_so(status: JsonObject) -> bool:
        return (status.get("disruptionsAllowed"), status.get("currentHealthy")) == (
            allowed,
            healthy,
        )

    return await rig.until(BUDGETS, "web", is_so)


async def test_a_budget_counts_what_its_owners_want_and_what_serves(tmp_path: Path) -> None:
    async with a_rig(tmp_path, "statefulset") as rig:
        await add_budget(rig, maxUnavailable="50%")
        await add_set(rig, 4)
        status = await until_allowed(rig, 2, 4)
        condition = rows(status.pop("conditions"))[0]
        assert status == {
            "disruptionsAllowed": 2,
            "currentHealthy": 4,
            "desiredHealthy": 2,
            "expectedPods": 4,
            "observedGeneration": 1,
        }
        assert (condition["status"], condition["reason"]) == ("True", "SufficientPods")
        rig.kubelet.fate = lambda pod: "running" if name_of(pod) == "web-1" else "ready"
        rig.kubelet.review()
        await until_allowed(rig, 1, 3)
        await rig.kube.patch(*BUDGETS, "default", "web", {"spec": {"maxUnavailable": 0}})
        status = await rig.until(BUDGETS, "web", lambda it: it.get("observedGeneration") == 2)
        assert (status["desiredHealthy"], status["disruptionsAllowed"]) == (4, 0)


async def test_evictions_use_a_budget_up_until_others_serve(tmp_path: Path) -> None:
    async with a_rig(tmp_path, "statefulset") as rig:
        await add_budget(rig, minAvailable=2)
        await add_set(rig, 3)
        await until_allowed(rig, 1, 3)
        rig.kubelet.lets_go = False
        await evict(rig, "web-0")
        await until_allowed(rig, 0, 2)
        with pytest.raises(QuotaExceeded, match="disruption budget"):
            await evict(rig, "web-1")
        rig.kubelet.lets_go = True
        rig.kubelet.review()
        await until_allowed(rig, 1, 3)


async def test_pods_without_an_owner_count_only_for_a_plain_minimum(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_pod(rig, "bare")
        await add_budget(rig, maxUnavailable=1)
        status = await until_allowed(rig, 0, 1)
        assert status["expectedPods"] == 0
        told = await eventually(rig.told, lambda found: "UnmanagedPods" in dict(found))
        words = "(selector: &LabelSelector{MatchLabels:map[string]string{app: web,},"
        assert words in dict(told)["UnmanagedPods"]
        change: JsonObject = {"spec": {"maxUnavailable": None, "minAvailable": 0}}
        await rig.kube.patch(*BUDGETS, "default", "web", change)
        assert (await until_allowed(rig, 1, 1))["expectedPods"] == 1


async def test_an_owner_that_cannot_be_asked_stops_evictions(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        boss: JsonObject = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "boss"}}
        stored = await rig.kube.create("v1", "configmaps", "default", boss)
        owner = owner_reference("v1", "ConfigMap", stored)
        await add_pod(rig, "owned", owner)
        await add_budget(rig, maxUnavailable=1)
        status = await rig.until(BUDGETS, "web", _has_failed)
        condition = rows(status["conditions"])[0]
        assert condition["status"] == "False"
        assert condition["message"] == "configmaps does not implement the scale subresource"
        with pytest.raises(GatewayError):
            await evict(rig, "owned")


async def test_the_pods_of_a_deployment_are_as_many_as_it_wants(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        template: JsonObject = {
            "metadata": {"labels": {"app": "web"}},
            "spec": {"containers": [{"name": "web", "image": "web:1"}]},
        }
        selector: JsonObject = {"matchLabels": {"app": "web"}}
        reference: JsonObject | None = None
        for kind, plural, replicas in (
            ("Deployment", "deployments", 5),
            ("ReplicaSet", "replicasets", 2),
        ):
            metadata: JsonObject = {"name": "web"}
            if reference is not None:
                metadata["ownerReferences"] = [reference]
            body: JsonObject = {
                "apiVersion": "apps/v1",
                "kind": kind,
                "metadata": metadata,
                "spec": {"replicas": replicas, "selector": selector, "template": template},
            }
            stored = await rig.kube.create("apps/v1", plural, "default", body)
            reference = owner_reference("apps/v1", kind, stored)
        await add_pod(rig, "web-1", reference)
        await add_budget(rig, maxUnavailable=1)
        status = await until_allowed(rig, 0, 1)
        assert (status["expectedPods"], status["desiredHealthy"]) == (5, 4)


async def test_an_owner_of_another_kind_is_asked_for_its_scale(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        schema: JsonObject = {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
        scale: JsonObject = {
            "specReplicasPath": ".spec.size",
            "statusReplicasPath": ".status.size",
        }
        version: JsonObject = {
            "name": "v1",
            "served": True,
            "storage": True,
            "schema": {"openAPIV3Schema": schema},
            "subresources": {"status": {}, "scale": scale},
        }
        definition: JsonObject = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "herds.farm.example"},
            "spec": {
                "group": "farm.example",
                "scope": "Namespaced",
                "names": {"plural": "herds", "kind": "Herd", "singular": "herd"},
                "versions": [version],
            },
        }
        crds = "apiextensions.k8s.io/v1", "customresourcedefinitions"
        await rig.kube.create(*crds, None, definition)
        herd: JsonObject = {
            "apiVersion": "farm.example/v1",
            "kind": "Herd",
            "metadata": {"name": "cows"},
            "spec": {"size": 7},
        }
        stored = await rig.kube.create("farm.example/v1", "herds", "default", herd)
        await add_pod(rig, "cow", owner_reference("farm.example/v1", "Herd", stored))
        await add_budget(rig, maxUnavailable=2)
        status = await until_allowed(rig, 0, 1)
        assert (status["expectedPods"], status["desiredHealthy"]) == (7, 5)


def _has_failed(status: JsonObject) -> bool:
    return any(row["reason"] == "SyncFailed" for row in rows(status.get("conditions")))


async def test_a_grant_that_was_not_used_is_taken_back(tmp_path: Path) -> None:
    async with workloads(tmp_path) as rig:
        await add_pod(rig, "bare")
        await add_budget(rig, minAvailable=0)
        stale: JsonObject = {"status": {"disruptedPods": {"bare": rfc3339(0)}}}
        await rig.kube.patch(*BUDGETS, "default", "web", stale, subresource="status")
    async with a_rig(tmp_path) as rig:
        status = await until_allowed(rig, 1, 1)
        assert "disruptedPods" not in status
        message = "Pod was expected by PDB default/web to be deleted but it wasn't"
        await eventually(rig.told, lambda found: ("NotDeleted", message) in found)


async def test_a_pod_that_stayed_does_not_say_for_ever_that_it_goes(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await add_pod(rig, "bare")
        await rig.until_pods(lambda found: part(found[0], "status")["phase"] == "Running")
        condition: JsonObject = {
            "type": "DisruptionTarget",
            "status": "True",
            "reason": "EvictionByEvictionAPI",
            "lastTransitionTime": rfc3339(0),
        }
        kept = rows(part((await rig.pods())[0], "status")["conditions"])
        patch: JsonObject = {"status": {"conditions": [*kept, condition]}}
        await rig.kube.patch("v1", "pods", "default", "bare", patch, subresource="status")

        def is_cleared(found: list[JsonObject]) -> bool:
            said = {
                text(row["type"]): row["status"]
                for row in rows(part(found[0], "status")["conditions"])
            }
            return said.get("DisruptionTarget") == "False" and said.get("Ready") == "True"

        await rig.until_pods(is_cleared)
