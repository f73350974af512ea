"""EdgeApplications on a running CloudCore: what is made of them, what goes, and what they say of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from gateway.errors import NotFound
from gateway.kube.client import PatchType
from gateway.model.json import Json, JsonObject
from tests.cloud_rig import CloudCore, a_cloud, eventually
from tests.integration.test_cloud_nodegroups import APPS, BELONGING, a_group, make_group

CONFIG: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "settings", "labels": {"app": "demo"}},
    "data": {"mode": "fast", "depth": "3"},
}
POD: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "web"},
    "spec": {
        "nodeSelector": {"kubernetes.io/arch": "arm64"},
        "containers": [{"name": "c", "image": "r.example/app:1"}],
    },
}
SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web"},
    "spec": {"selector": {"app": "demo"}, "ports": [{"port": 80}]},
}
DEPLOYMENT: dict[str, Any] = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": {"name": "big"},
    "spec": {"template": {"spec": {"containers": [{"name": "c", "image": "app"}]}}},
}


def tag(value: str) -> dict[str, Any]:
    return {"imageOverriders": [{"component": "Tag", "operator": "replace", "value": value}]}


def an_app(*manifests: Any, **groups: Any) -> JsonObject:
    """An application; `groups` are targets with their overriders."""
    targets: list[Json] = [{"name": name, "overriders": rules} for name, rules in groups.items()]
    return {
        "apiVersion": APPS,
        "kind": "EdgeApplication",
        "metadata": {"name": "demo"},
        "spec": {
            "workloadTemplate": {"manifests": [*manifests]},
            "workloadScope": {"targetNodeGroups": targets},
        },
    }


async def make_app(cloud: CloudCore, app: JsonObject) -> None:
    await cloud.kube.create(APPS, "edgeapplications", "default", app)


async def replace_spec(cloud: CloudCore, app: JsonObject) -> None:
    patch: JsonObject = {"spec": app["spec"]}
    await cloud.kube.patch(APPS, "edgeapplications", "default", "demo", patch)


async def states(cloud: CloudCore) -> dict[str, tuple[str, str]]:
    """What the application says: `kind/name` -> condition and message."""
    app = await cloud.object(APPS, "edgeapplications", "default", "demo")
    return {
        f"{entry['identifier'].get('kind', '')}/{entry['identifier'].get('name', '')}": (
            entry["conditions"],
            entry.get("message", ""),
        )
        for entry in app.get("status", {}).get("workloadStatus", [])
    }


async def says(cloud: CloudCore, expected: dict[str, tuple[str, str]]) -> None:
    seen: list[Any] = []

    async def does() -> bool:
        seen[:] = [await states(cloud)]
        return bool(seen[0] == expected)

    try:
        await eventually(does)
    except TimeoutError:
        raise AssertionError(seen) from None


async def names(cloud: CloudCore, plural: str) -> list[str]:
    """What applications made."""
    items = (
        await cloud.kube.list("v1", plural, "default", labels="twinspan.io/edge-application")
    ).items
    return sorted(str(item["metadata"]["name"]) for item in items)  # type: ignore[index,call-overload]


async def are(cloud: CloudCore, plural: str, *expected: str) -> None:
    async def do() -> bool:
        return await names(cloud, plural) == sorted(expected)

    await eventually(do, f"{plural}: {expected}")


PENDING = ("Processing", "the Pod is Pending")
FINE = ("Available", "")
TWO = {"Pod/web-east": PENDING, "Pod/web-west": PENDING}


async def two_groups(cloud: CloudCore) -> None:
    for name in ("west", "east"):
        await make_group(cloud, a_group(name))


async def test_each_group_gets_a_copy_of_its_own_and_the_rest_is_made_once(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        await make_app(cloud, an_app(CONFIG, POD, SERVICE, west=tag("2"), east={}))
        await says(cloud, {"ConfigMap/settings": FINE, "Service/web": FINE, **TWO})
        west = await cloud.object("v1", "pods", "default", "web-west")
        assert west["spec"]["containers"][0]["image"] == "r.example/app:2"
        assert west["spec"]["nodeSelector"] == {"kubernetes.io/arch": "arm64", BELONGING: "west"}
        east = await cloud.object("v1", "pods", "default", "web-east")
        assert east["spec"]["containers"][0]["image"] == "r.example/app:1"
        service = await cloud.object("v1", "services", "default", "web")
        assert service["metadata"]["annotations"]["apps.kubeedge.io/service-topology"] == (
            "range-nodegroup"
        )
        config = await cloud.object("v1", "configmaps", "default", "settings")
        assert config["data"] == CONFIG["data"]
        app = await cloud.object(APPS, "edgeapplications", "default", "demo")
        for item in (west, east, service, config):
            (owner,) = item["metadata"]["ownerReferences"]
            assert (owner["kind"], owner["uid"]) == ("EdgeApplication", app["metadata"]["uid"])
        (entry,) = [e for e in app["status"]["workloadStatus"] if e["conditions"] == "Available"][
            :1
        ]
        assert entry["identifier"] == {
            "ordinal": 0,
            "version": "v1",
            "kind": "ConfigMap",
            "resource": "configmaps",
            "namespace": "default",
            "name": "settings",
        }
        note = json.loads(
            app["metadata"]["annotations"]["apps.kubeedge.io/last-contained-resources"]
        )
        assert [(each["ordinal"], each["kind"], each["name"]) for each in note] == [
            (0, "ConfigMap", "settings"),
            (1, "Pod", "web-east"),
            (1, "Pod", "web-west"),
            (2, "Service", "web"),
        ]


async def test_a_pod_that_is_ready_makes_its_part_available(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        await make_app(cloud, an_app(POD, west={}))
        await says(cloud, {"Pod/web-west": PENDING})
        conditions: list[Json] = [{"type": "Ready", "status": "True"}]
        patch: JsonObject = {"status": {"phase": "Running", "conditions": conditions}}
        await cloud.kube.patch("v1", "pods", "default", "web-west", patch, subresource="status")
        await says(cloud, {"Pod/web-west": FINE})


async def test_what_a_change_leaves_out_goes_and_what_it_changes_changes(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        await make_app(cloud, an_app(CONFIG, POD, west={}, east={}))
        await are(cloud, "pods", "web-west", "web-east")
        changed = {**CONFIG, "data": {"mode": "slow"}, "metadata": {"name": "settings"}}
        await replace_spec(cloud, an_app(changed, POD, SERVICE, east=tag("3")))
        await are(cloud, "pods", "web-east")
        await are(cloud, "services", "web")
        await says(
            cloud, {"ConfigMap/settings": FINE, "Service/web": FINE, "Pod/web-east": PENDING}
        )
        config = await cloud.object("v1", "configmaps", "default", "settings")
        assert config["data"] == {"mode": "slow"}
        assert "app" not in config["metadata"]["labels"]
        east = await cloud.object("v1", "pods", "default", "web-east")
        assert east["spec"]["containers"][0]["image"] == "r.example/app:3"
        await replace_spec(cloud, an_app(east={}))
        await are(cloud, "pods")
        await are(cloud, "services")
        await are(cloud, "configmaps")


async def test_what_somebody_deletes_is_made_again(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_app(cloud, an_app(CONFIG))
        await are(cloud, "configmaps", "settings")
        uid = (await cloud.object("v1", "configmaps", "default", "settings"))["metadata"]["uid"]
        await cloud.kube.delete("v1", "configmaps", "default", "settings")

        async def is_another() -> bool:
            try:
                found = await cloud.object("v1", "configmaps", "default", "settings")
            except NotFound:
                return False
            return bool(found["metadata"]["uid"] != uid)

        await eventually(is_another)


async def test_with_a_group_its_copies_go_and_come_back_with_it(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_group(cloud, a_group("east"))
        await make_app(cloud, an_app(POD, west={}, east={}))
        away = ("Processing", 'NodeGroup "west" does not exist')
        await says(cloud, {"Pod/web-east": PENDING, "Pod/web-west": away})
        await make_group(cloud, a_group("west"))
        await says(cloud, TWO)
        await cloud.kube.delete(APPS, "nodegroups", None, "west")
        await are(cloud, "pods", "web-east")
        await says(cloud, {"Pod/web-east": PENDING, "Pod/web-west": away})


async def test_with_an_application_everything_goes(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        await make_app(cloud, an_app(CONFIG, POD, west={}, east={}))
        await are(cloud, "pods", "web-west", "web-east")
        await cloud.kube.delete(APPS, "edgeapplications", "default", "demo")
        await are(cloud, "pods")
        await are(cloud, "configmaps")
        await make_app(cloud, an_app(CONFIG, POD, west={}))
        await are(cloud, "pods", "web-west")
        await says(cloud, {"ConfigMap/settings": FINE, "Pod/web-west": PENDING})


async def test_a_kind_that_the_api_has_not_is_told_in_its_words_and_the_rest_is_made(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        odd = {**DEPLOYMENT, "apiVersion": "apps.example/v1", "kind": "Workload"}
        await make_app(cloud, an_app(odd, CONFIG, west={}))
        text = "Workload of apps.example/v1: the server could not find the requested resource"
        await says(cloud, {"Workload/big": ("Processing", text), "ConfigMap/settings": FINE})

        async def is_told() -> bool:
            events = (await cloud.kube.list("v1", "events", "default")).items
            return any(
                event["reason"] == "NotApplied" and "Workload" in str(event["message"])
                for event in events
            )

        await eventually(is_told)


async def test_what_the_api_refuses_stands_in_the_status(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        bad = {**POD, "spec": {"containers": [{"name": "C_", "image": "app"}]}}
        wrong = {"imageOverriders": [{"component": "Repository", "operator": "remove"}]}
        elsewhere = {**CONFIG, "metadata": {"name": "other", "namespace": "kube-system"}}
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "mine"}}
        nameless = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {}}
        app = an_app(bad, elsewhere, namespace, CONFIG, CONFIG, nameless, west={}, east=wrong)
        await make_app(cloud, app)

        async def found() -> dict[str, tuple[str, str]]:
            entries = await states(cloud)
            return entries if len(entries) == 6 else {}

        entries = await eventually(found)
        expected = {
            "Pod/web-west": "spec.containers[0].name",
            "Pod/web-east": "imageOverriders[0]",
            "ConfigMap/other": "namespace kube-system",
            "Namespace/mine": "has no namespace",
            "ConfigMap/settings": "the same object as one of manifest 3",
            "ConfigMap/": "metadata.name",
        }
        for name, part in expected.items():
            condition, message = entries[name]
            assert condition == "Processing", name
            assert part in message, message
        await are(cloud, "configmaps", "settings")
        await are(cloud, "pods")


async def test_what_belongs_to_somebody_else_is_not_touched(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        theirs: JsonObject = {"metadata": {"name": "settings"}, "data": {"mine": "yes"}}
        await cloud.kube.create("v1", "configmaps", "default", theirs)
        await make_app(cloud, an_app(CONFIG))
        taken = 'ConfigMap "settings" exists, and does not belong to this application'
        await says(cloud, {"ConfigMap/settings": ("Processing", taken)})
        await replace_spec(cloud, an_app(SERVICE))
        await says(cloud, {"Service/web": FINE})
        found = await cloud.object("v1", "configmaps", "default", "settings")
        assert found["data"] == {"mine": "yes"}
        await cloud.kube.delete("v1", "configmaps", "default", "settings")
        await replace_spec(cloud, an_app(CONFIG))
        await says(cloud, {"ConfigMap/settings": FINE})


async def test_nodes_by_label_are_a_target_too(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        app = an_app(POD)
        selector: JsonObject = {"matchLabels": {"zone": "edge", "env": "prod"}}
        scope: JsonObject = {"targetNodeLabels": [{"labelSelector": selector}]}
        app["spec"] = {**app["spec"], "workloadScope": scope}  # type: ignore[dict-item]
        await make_app(cloud, app)

        async def one() -> list[str]:
            return await names(cloud, "pods")

        (name,) = await eventually(one)
        # KubeEdge's: the first digits of `printf envprodzoneedge | sha256sum`
        assert name == "web-ls-06daf707"
        pod = await cloud.object("v1", "pods", "default", name)
        terms = pod["spec"]["affinity"]["nodeAffinity"][
            "requiredDuringSchedulingIgnoredDuringExecution"
        ]["nodeSelectorTerms"]
        assert terms == [
            {
                "matchExpressions": [
                    {"key": "env", "operator": "In", "values": ["prod"]},
                    {"key": "zone", "operator": "In", "values": ["edge"]},
                ]
            }
        ]


async def test_a_restart_between_any_steps_leaves_nothing_behind(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await two_groups(cloud)
        await make_app(cloud, an_app(CONFIG, POD, west={}, east={}))
        await says(cloud, {"ConfigMap/settings": FINE, **TWO})
        version = (await cloud.object(APPS, "edgeapplications", "default", "demo"))["metadata"][
            "resourceVersion"
        ]
    async with a_cloud(tmp_path) as cloud:  # a restart alone changes nothing
        await make_group(cloud, a_group("north"))

        async def is_held() -> bool:
            group = await cloud.object(APPS, "nodegroups", None, "north")
            return bool(group["metadata"].get("finalizers"))

        await eventually(is_held)
        app = await cloud.object(APPS, "edgeapplications", "default", "demo")
        assert app["metadata"]["resourceVersion"] == version
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        await replace_spec(cloud, an_app(SERVICE, POD, east=tag("9")))
        await cloud.kube.delete("v1", "pods", "default", "web-west", grace_seconds=0)
    async with a_cloud(tmp_path) as cloud:
        await says(cloud, {"Service/web": FINE, "Pod/web-east": PENDING})
        await are(cloud, "pods", "web-east")
        await are(cloud, "configmaps")
        east = await cloud.object("v1", "pods", "default", "web-east")
        assert east["spec"]["containers"][0]["image"] == "r.example/app:9"
    async with a_cloud(tmp_path, cloudcore=False) as cloud:
        await cloud.kube.delete(APPS, "edgeapplications", "default", "demo")
        await are(cloud, "pods")  # the API collects by itself


async def test_values_that_others_own_stay(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_app(cloud, an_app(CONFIG))
        await says(cloud, {"ConfigMap/settings": FINE})
        mine: JsonObject = {"metadata": {"labels": {"mine": "yes"}}, "data": {"extra": "1"}}
        at = ("v1", "configmaps", "default", "settings")
        await cloud.kube.patch(*at, mine, patch_type=PatchType.MERGE)
        await replace_spec(cloud, an_app({**CONFIG, "data": {"mode": "slow"}}))

        async def is_slow() -> bool:
            data = (await cloud.object(*at))["data"]
            return bool(data == {"mode": "slow", "extra": "1"})

        await eventually(is_slow)
        assert (await cloud.object(*at))["metadata"]["labels"]["mine"] == "yes"


async def test_a_mark_that_somebody_takes_away_comes_back(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        await make_app(cloud, an_app(CONFIG))
        await are(cloud, "configmaps", "settings")
        bare: JsonObject = {"metadata": {"labels": {"twinspan.io/edge-application": None}}}
        await cloud.kube.patch("v1", "configmaps", "default", "settings", bare)
        await are(cloud, "configmaps", "settings")
        await says(cloud, {"ConfigMap/settings": FINE})
