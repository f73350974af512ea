"""The official Python client and an operator of kopf against the embedded Kubernetes API."""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
import time
import uuid
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
import pytest_asyncio
import yaml
from kubernetes.dynamic.exceptions import ConflictError, NotFoundError

from gateway.kube.client import KubeClient
from gateway.model.json import JsonObject
from gateway.wire.kube.parts import part, text
from tests.kube_server import KubeServer
from tests.kube_stage import kube_stage
from tests.workload_rig import eventually, names

kopf = pytest.importorskip("kopf", reason="no kopf: install the group `peers`")
kubernetes: Any = importlib.import_module("kubernetes")  # its types are half there
election: Any = importlib.import_module("kubernetes.leaderelection.leaderelectionrecord")
locking: Any = importlib.import_module("kubernetes.leaderelection.resourcelock.configmaplock")
T = TypeVar("T")
CLIENTS = Path(__file__).parent.parent / "clients"
OPERATOR = CLIENTS / "kopf" / "lamps.py"
LAMPS = ("example.org/v1", "lamps")
MAPS = ("v1", "configmaps")

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeServer]:
    async with kube_stage(tmp_path_factory.mktemp("cloud")) as running:
        definition = yaml.safe_load((CLIENTS / "kubectl" / "files" / "lamps.yaml").read_text())
        versions = definition["spec"]["versions"][0]
        versions["schema"]["openAPIV3Schema"]["properties"]["status"] = {
            "type": "object",
            "x-kubernetes-preserve-unknown-fields": True,
        }
        place = ("apiextensions.k8s.io/v1", "customresourcedefinitions")
        await running.api.client("tests").create(*place, None, definition)
        yield running


@pytest.fixture
def kube(server: KubeServer) -> KubeClient:
    return server.api.client("tests")


async def beside(work: Callable[[Any], T], server: KubeServer) -> T:
    """Let blocking code of the official client work beside the server's loop."""

    def run() -> T:
        with kubernetes.config.new_client_from_config(str(server.kubeconfig)) as api:
            return work(api)

    return await asyncio.to_thread(run)


# --- the official client --------------------------------------------------------------------------


async def test_the_dynamic_client_finds_kinds_and_changes_objects(server: KubeServer) -> None:
    def work(api: Any) -> None:
        maps = kubernetes.dynamic.DynamicClient(api).resources.get(
            api_version="v1", kind="ConfigMap"
        )
        here: dict[str, Any] = {"namespace": "default"}
        made = maps.create(body={"metadata": {"name": "d"}, "data": {"a": "1"}}, **here)
        assert made.metadata.uid
        merge, strategic = "application/merge-patch+json", "application/strategic-merge-patch+json"
        body: dict[str, Any] = {"metadata": {"name": "d"}, "data": {"b": "2"}}
        maps.patch(body=body, content_type=merge, **here)
        body["data"] = {"a": None}
        maps.patch(body=body, content_type=strategic, **here)
        steps = [{"op": "add", "path": "/data/c", "value": "3"}]
        maps.patch(body=steps, name="d", content_type="application/json-patch+json", **here)
        assert maps.get(name="d", **here).data.to_dict() == {"b": "2", "c": "3"}
        stale = made.to_dict() | {"data": {}}
        with pytest.raises(ConflictError):
            maps.replace(body=stale, **here)
        maps.delete(name="d", **here)
        with pytest.raises(NotFoundError):
            maps.get(name="d", **here)

    await beside(work, server)


async def test_fields_applied_by_two_managers_are_told_apart(server: KubeServer) -> None:
    def work(api: Any) -> None:
        maps = kubernetes.dynamic.DynamicClient(api).resources.get(
            api_version="v1", kind="ConfigMap"
        )

        def apply(manager: str, data: dict[str, str], **more: Any) -> Any:
            body = {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": "shared"},
                "data": data,
            }
            return maps.server_side_apply(
                body=body, namespace="default", field_manager=manager, **more
            )

        apply("one", {"a": "1"})
        apply("two", {"b": "2"})
        with pytest.raises(ConflictError):
            apply("two", {"a": "9"})
        taken = apply("two", {"a": "9"}, force_conflicts=True)
        assert taken.data.to_dict() == {"a": "9"}  # what two no longer says goes: only it said `b`
        assert {row.manager for row in taken.metadata.managedFields} == {"two"}

    await beside(work, server)


async def test_a_watch_goes_on_where_it_was_told_to(server: KubeServer) -> None:
    def work(api: Any) -> list[tuple[str, str]]:
        core = kubernetes.client.CoreV1Api(api)
        since = core.list_namespaced_config_map("default").metadata.resource_version
        body = {"metadata": {"name": "seen", "labels": {"watch": "me"}}}
        core.create_namespaced_config_map("default", body)
        core.create_namespaced_config_map("default", {"metadata": {"name": "unseen"}})
        core.patch_namespaced_config_map("seen", "default", {"data": {"a": "1"}})
        core.delete_namespaced_config_map("seen", "default")
        seen = []
        watch = kubernetes.watch.Watch()
        for event in watch.stream(
            core.list_namespaced_config_map,
            "default",
            resource_version=since,
            label_selector="watch=me",
            timeout_seconds=20,
        ):
            seen.append((event["type"], event["object"].metadata.name))
            if event["type"] == "DELETED":
                watch.stop()
        return seen

    seen = await beside(work, server)
    assert seen == [("ADDED", "seen"), ("MODIFIED", "seen"), ("DELETED", "seen")]


async def test_pods_of_the_typed_client_have_all_that_they_promise(server: KubeServer) -> None:
    def work(api: Any) -> Any:
        core = kubernetes.client.CoreV1Api(api)
        spec = {"containers": [{"name": "main", "image": "a:1"}]}
        core.create_namespaced_pod("default", {"metadata": {"name": "typed"}, "spec": spec})
        watch = kubernetes.watch.Watch()
        for event in watch.stream(core.list_namespaced_pod, "default", timeout_seconds=20):
            pod = api.sanitize_for_serialization(event["object"])
            if pod["status"].get("podIPs"):
                return pod
        raise AssertionError("the Pod never got an address")

    pod = await beside(work, server)
    status = pod["status"]
    assert status["phase"] == "Running"
    assert status["podIPs"] == [{"ip": status["podIP"]}]
    assert status["qosClass"] == "BestEffort"
    assert pod["spec"]["nodeName"].startswith("node-")


async def test_one_of_two_candidates_leads_and_the_other_takes_over(server: KubeServer) -> None:
    """The lock of the official client, driven by hand: its loop never ends."""

    def work(api: Any) -> list[str]:
        kubernetes.client.Configuration.set_default(api.configuration)
        locks = [locking.ConfigMapLock("election", "default", str(uuid.uuid4())) for _ in range(2)]
        first, second = locks
        now = str(time.time())
        assert first.create(
            "election", "default", election.LeaderElectionRecord(first.identity, "1", now, now)
        )
        assert not second.create(
            "election", "default", election.LeaderElectionRecord(second.identity, "1", now, now)
        )
        seen_by_first = first.get("election", "default")[1]
        seen_by_second = second.get("election", "default")[1]
        assert seen_by_first.holder_identity == first.identity
        assert seen_by_second.holder_identity == first.identity
        takes_over = election.LeaderElectionRecord(second.identity, "1", now, now)
        assert second.update("election", "default", takes_over)
        assert not first.update("election", "default", seen_by_first)  # it knows an older version
        return [second.identity, first.get("election", "default")[1].holder_identity]

    expected, seen = await beside(work, server)
    assert seen == expected


# --- kopf -----------------------------------------------------------------------------------------


@asynccontextmanager
async def operator(server: KubeServer, folder: Path) -> AsyncIterator[asyncio.subprocess.Process]:
    """Run the operator as a process of its own; it is killed at the end of the block."""
    with (folder / "operator.log").open("ab") as log:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "kopf",
            "run",
            "--standalone",
            "--namespace=default",
            str(OPERATOR),
            stdout=log,
            stderr=log,
            env=os.environ | {"KUBECONFIG": str(server.kubeconfig)},
        )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def a_lamp(name: str, colour: str = "red") -> JsonObject:
    return {
        "apiVersion": "example.org/v1",
        "kind": "Lamp",
        "metadata": {"name": name},
        "spec": {"colour": colour},
    }


async def test_an_operator_keeps_its_objects_also_when_it_is_killed(
    server: KubeServer, kube: KubeClient, tmp_path: Path
) -> None:
    async def lamp() -> JsonObject:
        return await kube.get(*LAMPS, "default", "hall")

    async def maps() -> set[str]:
        return names((await kube.list(*MAPS, "default")).items)

    async def colour() -> str:
        return text(part(await kube.get(*MAPS, "default", "hall"), "data").get("colour"))

    def ticks(item: JsonObject) -> int:
        return int(str(part(item, "status").get("ticks") or 0))

    await kube.create(*LAMPS, "default", a_lamp("hall"))
    async with operator(server, tmp_path):
        await eventually(maps, lambda found: "hall" in found)
        seen = await eventually(
            lamp, lambda item: ticks(item) >= 2 and "created" in part(item, "status")
        )
        assert part(seen, "status", "created") == {"colour": "red"}
        assert part(seen, "metadata").get("finalizers") == ["example.org/operator"]
        owners = part(await kube.get(*MAPS, "default", "hall"), "metadata").get("ownerReferences")
        assert isinstance(owners, list)
        assert owners[0]["uid"] == part(seen, "metadata").get("uid")  # type: ignore[index,call-overload]

    await kube.patch(*LAMPS, "default", "hall", {"spec": {"colour": "green"}})
    await kube.create(*LAMPS, "default", a_lamp("attic"))
    before = ticks(await lamp())
    async with operator(server, tmp_path):
        await eventually(colour, lambda found: found == "green")
        await eventually(maps, lambda found: "attic" in found)
        await eventually(lamp, lambda item: ticks(item) > before)
        await kube.delete(*LAMPS, "default", "hall")
        await eventually(maps, lambda found: "hall" not in found and "farewell-hall" in found)

    await kube.delete(*LAMPS, "default", "attic")  # nobody is there to say good-bye
    assert part(await kube.get(*LAMPS, "default", "attic"), "metadata").get("deletionTimestamp")
    async with operator(server, tmp_path):
        await eventually(maps, lambda found: "attic" not in found and "farewell-attic" in found)
    assert not (await kube.list(*LAMPS, "default")).items
