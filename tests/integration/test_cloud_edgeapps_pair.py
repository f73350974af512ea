"""NodeGroups and EdgeApplications with several CloudCores, through HTTPS, and under a random walk."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud.appparts import parts_of
from cloud.catalog import Catalog
from cloud.edgeapps import build_apps
from cloud.events import EventRecorder
from cloud.nodepods import NodePods
from gateway.errors import GatewayError
from gateway.kube.client import KubeClient
from gateway.kube.remote import connect
from gateway.model.json import Json, JsonObject
from gateway.runtime.module import Module, serve
from tests.cloud_pair import another_cloud
from tests.cloud_rig import CloudCore, a_cloud, eventually
from tests.integration.test_cloud_edgeapps import (
    CONFIG,
    FINE,
    PENDING,
    POD,
    SERVICE,
    TWO,
    an_app,
    are,
    make_app,
    replace_spec,
    says,
    tag,
    two_groups,
)
from tests.integration.test_cloud_nodegroups import (
    APPS,
    BELONGING,
    a_group,
    belongs,
    labels_of,
    make_group,
    make_node,
)


async def test_the_one_that_leads_does_it_and_the_next_one_goes_on(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, cloudcore=False) as base, AsyncExitStack() as first:
        await first.enter_async_context(another_cloud(base, tmp_path / "one"))
        async with another_cloud(base, tmp_path / "two"):
            await two_groups(base)
            await make_node(base, "edge-1", site="x")
            await make_app(base, an_app(CONFIG, POD, west={}, east={}))
            await says(base, {"ConfigMap/settings": FINE, **TWO})
            await first.aclose()
            more: JsonObject = {"spec": {"matchLabels": {"site": "x"}}}
            await base.kube.patch(APPS, "nodegroups", None, "west", more)
            await belongs(base, "edge-1", "west")
            await replace_spec(base, an_app(SERVICE, POD, east=tag("2")))
            await says(base, {"Service/web": FINE, "Pod/web-east": PENDING})
            await are(base, "pods", "web-east")
            await are(base, "configmaps")


class Leader:
    """Leads always."""

    leads = True

    def on_change(self, listener: Any) -> None:
        """It never changes."""


@asynccontextmanager
async def apps_on(kube: KubeClient) -> AsyncIterator[None]:
    """Run the two controllers alone on any client of an API."""
    catalog = Catalog(kube, default_tenant="t")
    pods, events = NodePods(kube), EventRecorder(kube)
    modules: list[Module] = [
        *catalog.modules,
        *pods.modules,
        events,
        *build_apps(kube, catalog, pods, events, Leader()),
    ]
    stop, is_up = asyncio.Event(), asyncio.Event()
    serving = asyncio.create_task(serve(modules, stop, on_ready=is_up.set))
    await is_up.wait()
    try:
        yield
    finally:
        stop.set()
        await serving


async def test_the_controllers_work_through_https_as_well(tmp_path: Path) -> None:
    async with a_cloud(tmp_path, cloudcore=False) as base:
        kubeconfig = base.data_dir / "kube" / "kubeconfig"
        async with connect(kubeconfig, manager="far") as far, apps_on(far):
            await two_groups(base)
            await make_node(base, "edge-1")
            named: JsonObject = {"spec": {"nodes": ["edge-1"]}}
            await base.kube.patch(APPS, "nodegroups", None, "west", named)
            await belongs(base, "edge-1", "west")
            odd = {"apiVersion": "apps.example/v1", "kind": "Fleet", "metadata": {"name": "f"}}
            await make_app(base, an_app(CONFIG, POD, odd, west=tag("2"), east={}))
            text = "Fleet of apps.example/v1: the server could not find the requested resource"
            fleet = ("Processing", text)
            await says(base, {"ConfigMap/settings": FINE, **TWO, "Fleet/f": fleet})
            await replace_spec(base, an_app(POD, east={}))
            await says(base, {"Pod/web-east": PENDING})
            await are(base, "pods", "web-east")
            await are(base, "configmaps")
            await base.kube.delete(APPS, "nodegroups", None, "west")
            await belongs(base, "edge-1", None)


# --- a random walk -----------------------------------------------------------------------------------

GROUPS, NODES = ("west", "east", "north"), ("edge-1", "edge-2", "edge-3")
MANIFESTS: tuple[Any, ...] = (
    CONFIG,
    {**CONFIG, "data": {"mode": "slow"}},
    POD,
    SERVICE,
    {**CONFIG, "metadata": {"name": "more"}},
    {"apiVersion": "apps.example/v1", "kind": "Fleet", "metadata": {"name": "f"}},
)
PLURALS = {"ConfigMap": "configmaps", "Pod": "pods", "Service": "services"}


class Walk:
    """Random deeds of operators, and what must come of them."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)

    async def step(self, kube: KubeClient) -> None:
        deed = self.random.choice((self._group, self._group, self._app, self._app, self._spoil))
        try:
            await deed(kube)
        except GatewayError:
            return  # what is there is there, what is not is not

    async def _group(self, kube: KubeClient) -> None:
        name = self.random.choice(GROUPS)
        nodes = [node for node in NODES if self.random.random() < 0.5]
        if self.random.random() < 0.3:
            await kube.delete(APPS, "nodegroups", None, name)
            return
        try:
            await kube.create(APPS, "nodegroups", None, a_group(name, *nodes))
        except GatewayError:
            patch: JsonObject = {"spec": {"nodes": [*nodes]}}
            await kube.patch(APPS, "nodegroups", None, name, patch)

    async def _app(self, kube: KubeClient) -> None:
        manifests = self.random.sample(MANIFESTS, self.random.randint(0, 4))
        groups: dict[str, Any] = {name: {} for name in GROUPS if self.random.random() < 0.6}
        app = an_app(*manifests, **groups)
        if self.random.random() < 0.2:
            await kube.delete(APPS, "edgeapplications", "default", "demo")
            return
        try:
            await kube.create(APPS, "edgeapplications", "default", app)
        except GatewayError:
            spec: JsonObject = {"spec": app["spec"]}
            await kube.patch(APPS, "edgeapplications", "default", "demo", spec)

    async def _spoil(self, kube: KubeClient) -> None:
        """Delete what was made, or a Node, which comes back."""
        if self.random.random() < 0.4:
            node = self.random.choice(NODES)
            await kube.delete("v1", "nodes", None, node)
            await kube.create("v1", "nodes", None, {"metadata": {"name": node}})
            return
        plural = self.random.choice([*PLURALS.values()])
        made = (
            await kube.list("v1", plural, "default", labels="twinspan.io/edge-application")
        ).items
        if made:
            name = str(self.random.choice(made)["metadata"]["name"])  # type: ignore[index,call-overload]
            await kube.delete("v1", plural, "default", name, grace_seconds=0)


async def expected(kube: KubeClient) -> set[tuple[str, str]]:
    """What must be there: kind and name."""
    groups = {item["metadata"]["name"] for item in (await kube.list(APPS, "nodegroups")).items}  # type: ignore[index,call-overload]
    apps = (await kube.list(APPS, "edgeapplications", "default")).items
    return {
        (part.ref.kind, part.ref.name)
        for app in apps
        for part in parts_of(app)
        if part.document is not None
        and part.ref.kind in PLURALS
        and (not part.group or part.group in groups)
    }


async def made(kube: KubeClient) -> set[tuple[str, str]]:
    found = set()
    for kind, plural in PLURALS.items():
        selector = "twinspan.io/edge-application"
        for item in (await kube.list("v1", plural, "default", labels=selector)).items:
            metadata: Any = item["metadata"]
            found.add((kind, metadata["name"]))
    return found


async def members_are_right(cloud: CloudCore) -> bool:
    """Each node is of a group that names it, of one if any does; each group says what is true."""
    groups: list[Any] = (await cloud.kube.list(APPS, "nodegroups")).items
    for node in NODES:
        choosing = {
            group["metadata"]["name"] for group in groups if node in group["spec"].get("nodes", [])
        }
        holder = (await labels_of(cloud, node)).get(BELONGING)
        if (holder not in choosing) if choosing else holder is not None:
            return False
        for group in groups:
            entries: list[Json] = (group.get("status") or {}).get("nodeStatuses") or []
            says = {each["nodeName"]: each["selectionStatus"] for each in entries}  # type: ignore[index,call-overload]
            wanted = "Succeeded" if group["metadata"]["name"] == holder else "Failed"
            if node in group["spec"].get("nodes", []) and says.get(node) != wanted:
                return False
    return True


@pytest.mark.parametrize("seed", [1, 2, 3])
async def test_whatever_operators_do_all_is_right_in_the_end(tmp_path: Path, seed: int) -> None:
    walk = Walk(seed)
    for stage in range(3):
        async with a_cloud(tmp_path, cloudcore=stage != 1) as cloud:
            if stage == 0:
                for node in NODES:
                    await cloud.kube.create("v1", "nodes", None, {"metadata": {"name": node}})
            for _ in range(15):
                await walk.step(cloud.kube)
                await asyncio.sleep(walk.random.choice((0, 0, 0.02, 0.1)))
            if stage == 1:
                continue
            kube = cloud.kube

            async def is_right(kube: KubeClient = kube, cloud: CloudCore = cloud) -> bool:
                groups = (await kube.list(APPS, "nodegroups")).items
                is_going = any(each["metadata"].get("deletionTimestamp") for each in groups)  # type: ignore[union-attr]
                same = await made(kube) == await expected(kube)
                return not is_going and same and await members_are_right(cloud)

            try:
                await eventually(is_right)
            except TimeoutError:
                raise AssertionError((await made(kube), await expected(kube))) from None


async def test_a_group_s_members_are_told_apart_from_others(tmp_path: Path) -> None:
    """A node that is deleted and made again belongs to its group again."""
    async with a_cloud(tmp_path) as cloud:
        await make_node(cloud, "edge-1")
        await make_group(cloud, a_group("west", "edge-1"))
        await belongs(cloud, "edge-1", "west")
        await cloud.kube.delete("v1", "nodes", None, "edge-1")
        await make_node(cloud, "edge-1")
        await belongs(cloud, "edge-1", "west")
