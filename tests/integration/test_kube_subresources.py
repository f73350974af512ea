"""Subresources over HTTP: scale, bindings, evictions and the doors that change one part of an object."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.integration.test_kube_http import MERGE, session
from tests.kube_server import KubeServer, kube_server

NAMESPACE = "/api/v1/namespaces/default"
PODS = f"{NAMESPACE}/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
BUDGETS = "/apis/policy/v1/namespaces/default/poddisruptionbudgets"
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}
Json = dict[str, Any]


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


@pytest.fixture
async def http(server: KubeServer) -> AsyncIterator[aiohttp.ClientSession]:
    async with session(server, token=server.token) as found:
        yield found


async def ask(
    http: aiohttp.ClientSession, method: str, path: str, expected: int = 200, **kwargs: Any
) -> Json:
    async with http.request(method, path, **kwargs) as response:
        text = await response.text()
        assert response.status == expected, text
        found: Json = await response.json()
        return found


def a_template() -> Json:
    return {
        "metadata": {"labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}]},
    }


def a_deployment() -> Json:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": "web"}},
            "template": a_template(),
        },
    }


def a_pod(name: str = "web", **spec: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app": "web"}},
        "spec": {"containers": [{"name": "c", "image": "web:1"}], **spec},
    }


def a_binding(name: str = "web", node: str = "edge-1", **metadata: Any) -> Json:
    return {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": name, **metadata},
        "target": {"kind": "Node", "name": node},
    }


def an_eviction(name: str = "web", **options: Any) -> Json:
    body = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": name}}
    return body | ({"deleteOptions": options} if options else {})


async def a_running_pod(http: aiohttp.ClientSession, *, ready: bool = True) -> Json:
    await ask(http, "POST", PODS, 201, json=a_pod(nodeName="edge-1"))
    conditions = [{"type": "Ready", "status": "True" if ready else "False"}]
    status = {"status": {"phase": "Running", "conditions": conditions}}
    return await ask(http, "PATCH", f"{PODS}/web/status", json=status, headers=MERGE)


async def a_budget(http: aiohttp.ClientSession, allowed: int, **spec: Any) -> Json:
    body = {
        "apiVersion": "policy/v1",
        "kind": "PodDisruptionBudget",
        "metadata": {"name": "keep"},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {"app": "web"}}, **spec},
    }
    await ask(http, "POST", BUDGETS, 201, json=body)
    status = {
        "observedGeneration": 1,
        "disruptionsAllowed": allowed,
        "currentHealthy": 1 + allowed,
        "desiredHealthy": 1,
        "expectedPods": 1 + allowed,
    }
    return await ask(
        http, "PATCH", f"{BUDGETS}/keep/status", json={"status": status}, headers=MERGE
    )


# --- scale ----------------------------------------------------------------------------------------


async def test_scale_shows_and_changes_the_replicas_of_a_deployment(
    http: aiohttp.ClientSession,
) -> None:
    made = await ask(http, "POST", DEPLOYMENTS, 201, json=a_deployment())
    scale = await ask(http, "GET", f"{DEPLOYMENTS}/web/scale")
    assert (scale["kind"], scale["apiVersion"]) == ("Scale", "autoscaling/v1")
    assert scale["spec"] == {"replicas": 2}
    assert scale["status"] == {"replicas": 0, "selector": "app=web"}
    assert scale["metadata"]["uid"] == made["metadata"]["uid"]
    scale["spec"]["replicas"] = 3
    answer = await ask(http, "PUT", f"{DEPLOYMENTS}/web/scale", json=scale)
    assert (answer["kind"], answer["spec"]) == ("Scale", {"replicas": 3})
    changed = await ask(http, "GET", f"{DEPLOYMENTS}/web")
    assert changed["spec"]["replicas"] == 3
    assert changed["metadata"]["generation"] == 2
    owners = {
        (row["manager"], row.get("subresource")) for row in changed["metadata"]["managedFields"]
    }
    assert ("Python", "scale") in owners


async def test_scale_takes_every_kind_of_patch_and_a_dry_run(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEPLOYMENTS, 201, json=a_deployment())
    path = f"{DEPLOYMENTS}/web/scale"
    dry = await ask(
        http, "PATCH", f"{path}?dryRun=All", json={"spec": {"replicas": 9}}, headers=MERGE
    )
    assert dry["spec"] == {"replicas": 9}
    assert (await ask(http, "GET", path))["spec"] == {"replicas": 2}
    for number, headers in ((4, MERGE), (5, STRATEGIC)):
        patched = await ask(
            http, "PATCH", path, json={"spec": {"replicas": number}}, headers=headers
        )
        assert patched["spec"] == {"replicas": number}
    operations = [{"op": "replace", "path": "/spec/replicas", "value": 6}]
    kind = {"Content-Type": "application/json-patch+json"}
    assert (await ask(http, "PATCH", path, json=operations, headers=kind))["spec"] == {
        "replicas": 6
    }
    config = {
        "apiVersion": "autoscaling/v1",
        "kind": "Scale",
        "metadata": {"name": "web"},
        "spec": {"replicas": 7},
    }
    applied = await ask(
        http, "PATCH", f"{path}?fieldManager=hpa&force=true", json=config, headers=APPLY
    )
    assert applied["spec"] == {"replicas": 7}
    again = dict(config, spec={"replicas": 8})
    refused = await ask(http, "PATCH", f"{path}?fieldManager=other", 409, json=again, headers=APPLY)
    assert refused["details"]["causes"][0]["field"] == ".spec.replicas"


async def test_scale_refuses_what_cannot_be(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", DEPLOYMENTS, 201, json=a_deployment())
    path = f"{DEPLOYMENTS}/web/scale"
    refused = await ask(http, "PATCH", path, 422, json={"spec": {"replicas": -1}}, headers=MERGE)
    assert refused["message"] == (
        'Scale.autoscaling "web" is invalid: spec.replicas: Invalid value: -1:'
        " must be greater than or equal to 0"
    )
    scale = await ask(http, "GET", path)
    await ask(http, "PATCH", path, json={"spec": {"replicas": 3}}, headers=MERGE)
    stale = await ask(http, "PUT", path, 409, json=scale)
    assert stale["reason"] == "Conflict"
    await ask(http, "GET", f"{NAMESPACE}/configmaps/x/scale", 404)
    assert (await ask(http, "POST", path, 405, json=scale))["reason"] == "MethodNotAllowed"


# --- bindings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [f"{PODS}/web/binding", f"{NAMESPACE}/bindings"])
async def test_a_binding_gives_a_pod_its_node_once(http: aiohttp.ClientSession, path: str) -> None:
    await ask(http, "POST", PODS, 201, json=a_pod())
    body = a_binding(annotations={"seen": "yes"}, labels={"zone": "a"})
    done = await ask(http, "POST", path, 201, json=body)
    assert (done["kind"], done["status"], done["code"]) == ("Status", "Success", 201)
    pod = await ask(http, "GET", f"{PODS}/web")
    assert pod["spec"]["nodeName"] == "edge-1"
    assert pod["metadata"]["annotations"] == {"seen": "yes"}
    assert pod["metadata"]["labels"] == {"app": "web", "zone": "a"}
    (condition,) = pod["status"]["conditions"]
    assert (condition["type"], condition["status"]) == ("PodScheduled", "True")
    again = await ask(http, "POST", path, 409, json=a_binding(node="edge-2"))
    assert again["message"] == (
        'Operation cannot be fulfilled on pods/binding "web":'
        ' pod web is already assigned to node "edge-1"'
    )
    assert again["details"] == {"name": "web", "kind": "pods/binding"}


async def test_a_binding_is_tried_without_effect_and_judged(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", PODS, 201, json=a_pod())
    path = f"{PODS}/web/binding"
    await ask(http, "POST", f"{path}?dryRun=All", 201, json=a_binding())
    assert "nodeName" not in (await ask(http, "GET", f"{PODS}/web"))["spec"]
    other = await ask(http, "POST", path, 400, json=a_binding("other"))
    assert other["message"] == "name in URL does not match name in Binding object"
    stale = await ask(http, "POST", path, 409, json=a_binding(uid="not-this-one"))
    assert "Precondition failed: UID" in stale["message"]
    gated = a_pod("gated", schedulingGates=[{"name": "example.com/wait"}])
    await ask(http, "POST", PODS, 201, json=gated)
    waits = await ask(http, "POST", f"{PODS}/gated/binding", 409, json=a_binding("gated"))
    assert waits["message"].endswith("pod gated has non-empty .spec.schedulingGates")


# --- evictions ------------------------------------------------------------------------------------


async def test_an_eviction_takes_one_disruption_and_says_why_the_pod_goes(
    http: aiohttp.ClientSession,
) -> None:
    await a_running_pod(http)
    await a_budget(http, 1)
    done = await ask(http, "POST", f"{PODS}/web/eviction", 201, json=an_eviction())
    assert (done["status"], done["code"]) == ("Success", 201)
    pod = await ask(http, "GET", f"{PODS}/web")
    assert pod["metadata"]["deletionGracePeriodSeconds"] == 30
    reasons = {row["type"]: row.get("reason") for row in pod["status"]["conditions"]}
    assert reasons["DisruptionTarget"] == "EvictionByEvictionAPI"
    status = (await ask(http, "GET", f"{BUDGETS}/keep"))["status"]
    assert status["disruptionsAllowed"] == 0
    assert list(status["disruptedPods"]) == ["web"]
    assert status["conditions"][0]["reason"] == "InsufficientPods"


async def test_an_eviction_is_refused_when_the_budget_allows_none(
    http: aiohttp.ClientSession,
) -> None:
    await a_running_pod(http)
    await a_budget(http, 0)
    refused = await ask(http, "POST", f"{PODS}/web/eviction", 429, json=an_eviction())
    assert refused["reason"] == "TooManyRequests"
    text = "Cannot evict pod as it would violate the pod's disruption budget."
    assert refused["message"] == text
    assert refused["details"]["causes"] == [
        {
            "reason": "DisruptionBudget",
            "message": "The disruption budget keep needs 1 healthy pods and has 1 currently",
        }
    ]
    assert "deletionTimestamp" not in (await ask(http, "GET", f"{PODS}/web"))["metadata"]


async def test_a_budget_that_was_not_looked_at_yet_lets_nothing_go(
    http: aiohttp.ClientSession,
) -> None:
    await a_running_pod(http)
    await a_budget(http, 1)
    await ask(http, "PATCH", f"{BUDGETS}/keep", json={"spec": {"minAvailable": 2}}, headers=MERGE)
    async with http.post(f"{PODS}/web/eviction", json=an_eviction()) as response:
        refused = await response.json()
        assert (response.status, response.headers["Retry-After"]) == (429, "10")
    (cause,) = refused["details"]["causes"]
    assert cause["message"].endswith("keep is still being processed by the server.")


@pytest.mark.parametrize(
    ("policy", "expected"), [({}, 429), ({"unhealthyPodEvictionPolicy": "AlwaysAllow"}, 201)]
)
async def test_a_pod_that_is_not_ready_goes_as_the_budget_says(
    http: aiohttp.ClientSession, policy: Json, expected: int
) -> None:
    await a_running_pod(http, ready=False)
    await a_budget(http, 0, **policy)
    status = {"status": {"currentHealthy": 0}}
    await ask(http, "PATCH", f"{BUDGETS}/keep/status", json=status, headers=MERGE)
    await ask(http, "POST", f"{PODS}/web/eviction", expected, json=an_eviction())


async def test_an_eviction_can_be_tried_and_bound_to_a_state(http: aiohttp.ClientSession) -> None:
    pod = await a_running_pod(http)
    await a_budget(http, 1)
    path = f"{PODS}/web/eviction"
    await ask(http, "POST", f"{path}?dryRun=All", 201, json=an_eviction())
    await ask(http, "POST", path, 201, json=an_eviction(dryRun=["All"]))
    assert (await ask(http, "GET", f"{BUDGETS}/keep"))["status"]["disruptionsAllowed"] == 1
    same = await ask(http, "GET", f"{PODS}/web")
    assert same["metadata"]["resourceVersion"] == pod["metadata"]["resourceVersion"]
    stale = an_eviction(preconditions={"resourceVersion": "1"})
    refused = await ask(http, "POST", path, 409, json=stale)
    assert "ResourceVersion in the precondition (1)" in refused["message"]
    await ask(http, "POST", f"{PODS}/none/eviction", 404, json=an_eviction("none"))


async def test_a_pod_that_does_no_work_goes_whatever_the_budget_says(
    http: aiohttp.ClientSession,
) -> None:
    await ask(http, "POST", PODS, 201, json=a_pod())
    await a_budget(http, 0)
    await ask(http, "POST", f"{PODS}/web/eviction", 201, json=an_eviction())
    await ask(http, "GET", f"{PODS}/web", 404)


# --- doors ----------------------------------------------------------------------------------------


async def test_a_debugging_container_is_added_and_stays(http: aiohttp.ClientSession) -> None:
    await ask(http, "POST", PODS, 201, json=a_pod())
    path = f"{PODS}/web/ephemeralcontainers"
    body = {
        "metadata": {"labels": {"not": "taken"}},
        "spec": {"ephemeralContainers": [{"name": "debug", "image": "busybox"}]},
    }
    pod = await ask(http, "PATCH", path, json=body, headers=STRATEGIC)
    (added,) = pod["spec"]["ephemeralContainers"]
    assert (added["name"], added["imagePullPolicy"]) == ("debug", "Always")
    assert pod["metadata"]["labels"] == {"app": "web"}
    body["spec"]["ephemeralContainers"] = None  # type: ignore[index]
    refused = await ask(http, "PATCH", path, 422, json=body, headers=MERGE)
    assert 'existing ephemeral containers "debug" may not be removed' in refused["message"]


async def test_a_pod_is_resized_within_its_class_alone(http: aiohttp.ClientSession) -> None:
    pod = a_pod()
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    await ask(http, "POST", PODS, 201, json=pod)
    path = f"{PODS}/web/resize"

    def to(**resources: Any) -> Json:
        return {"spec": {"containers": [{"name": "c", "resources": resources}]}}

    done = await ask(http, "PATCH", path, json=to(requests={"cpu": "200m"}), headers=STRATEGIC)
    assert done["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "200m"}
    removed = await ask(http, "PATCH", path, 422, json=to(requests=None), headers=STRATEGIC)
    assert "resource requests cannot be removed" in removed["message"]
    limits = {"cpu": "200m", "memory": "1Gi"}
    guaranteed = to(limits=limits, requests=limits)
    refused = await ask(http, "PATCH", path, 422, json=guaranteed, headers=STRATEGIC)
    assert "Pod QOS Class may not change as a result of resizing" in refused["message"]


async def test_a_request_is_approved_by_its_own_door(http: aiohttp.ClientSession) -> None:
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    found = await ask(http, "GET", "/apis/certificates.k8s.io/v1")
    rows = {row["name"]: row["verbs"] for row in found["resources"]}
    assert rows["certificatesigningrequests/approval"] == ["get", "patch", "update"]
    await ask(http, "GET", f"{requests}/none/approval", 404)


async def test_a_namespace_is_finalized_by_its_own_door(http: aiohttp.ClientSession) -> None:
    body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}}
    made = await ask(http, "POST", "/api/v1/namespaces", 201, json=body)
    made["spec"]["finalizers"] = ["example.com/mine", "kubernetes"]
    done = await ask(http, "PUT", "/api/v1/namespaces/gone/finalize", json=made)
    assert done["spec"]["finalizers"] == ["example.com/mine", "kubernetes"]
    kept = await ask(
        http, "PATCH", "/api/v1/namespaces/gone", json={"spec": {"finalizers": []}}, headers=MERGE
    )
    assert kept["spec"]["finalizers"] == ["example.com/mine", "kubernetes"]
