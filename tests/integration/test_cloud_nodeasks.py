"""What nodes read for their Pods, with a made-up edge: rights in all modes, patience, tokens, volumes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from cloud import nodeasks
from gateway.config.cloud_services import Authorization
from gateway.errors import Undeliverable
from gateway.kube.local import LocalClient
from gateway.model.json import Json, JsonObject
from gateway.wire.cloudedge import to_cloud
from gateway.wire.cloudedge.names import Operation
from gateway.wire.cloudedge.subjects import Subject
from tests.cloud_rig import CloudCore, Edge, a_cloud, a_stamp, an_edge, content_of, eventually, join

OPEN, WATCHING = Authorization(enabled=False), Authorization(enabled=True, debug=True)
STRICT = Authorization()


@asynccontextmanager
async def a_node(
    tmp_path: Path, authorization: Authorization = STRICT, store: str = "store-1"
) -> AsyncIterator[tuple[CloudCore, Edge]]:
    async with (
        a_cloud(tmp_path, authorization=authorization) as cloud,
        an_edge(cloud, "edge-1", await join(cloud, "edge-1"), store=store) as edge,
    ):
        await edge.register()
        yield cloud, edge


async def make_pod(cloud: CloudCore, name: str = "p1", node: str = "edge-1", **spec: Any) -> Any:
    containers: list[Json] = [{"name": "c", "image": "reg/app:1"}]
    body: JsonObject = {
        "metadata": {"name": name},
        "spec": {"nodeName": node, "containers": containers, **spec},
    }
    return await cloud.kube.create("v1", "pods", "default", body)


def mounting(*names: str) -> list[Json]:
    return [{"name": name, "configMap": {"name": name}} for name in names]


def claiming(*names: str) -> list[Json]:
    return [{"name": name, "persistentVolumeClaim": {"claimName": name}} for name in names]


async def query(edge: Edge, kind: str, name: str, content: Json = None, ns: str = "default") -> Any:
    answer = await edge.ask_object(Subject(ns, kind, name), Operation.QUERY, content)
    return content_of(answer)


def status(answer: Any) -> int:
    return int(answer["ErrStatus"]["code"])


async def make_map(cloud: CloudCore, name: str) -> None:
    await cloud.kube.create(
        "v1", "configmaps", "default", {"metadata": {"name": name}, "data": {"a": "1"}}
    )


# --- rights --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "passes"),
    [(STRICT, False), (WATCHING, True), (OPEN, True)],
    ids=["strict", "debug", "off"],
)
async def test_what_no_pod_names_is_refused_by_mode(
    tmp_path: Path, mode: Authorization, *, passes: bool
) -> None:
    async with a_node(tmp_path, mode) as (cloud, edge):
        await make_map(cloud, "mine")
        await make_map(cloud, "other")
        await make_pod(cloud, volumes=mounting("mine"))
        assert (await query(edge, "configmap", "mine"))["data"] == {"a": "1"}
        other = await query(edge, "configmap", "other")
        assert "data" in other if passes else status(other) == 403


@pytest.mark.parametrize("mode", [STRICT, WATCHING, OPEN], ids=["strict", "debug", "off"])
async def test_other_nodes_are_out_of_reach_in_every_mode(
    tmp_path: Path, mode: Authorization
) -> None:
    async with a_node(tmp_path, mode) as (cloud, edge):
        await make_pod(cloud, "theirs", node="edge-2")
        assert status(await query(edge, "node", "edge-2")) == 403
        assert status(await query(edge, "pod", "theirs")) == 403
        lease = await query(edge, "lease", "edge-2", ns="kube-node-lease")
        assert lease["Err"]["ErrStatus"]["code"] == 403


async def test_volumes_are_read_through_the_claims_of_pods(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        for number in (1, 2):
            claim: JsonObject = {"namespace": "default", "name": f"claim-{number}"}
            await cloud.kube.create("v1", "persistentvolumes", None, a_volume(number, claim))
        await make_pod(cloud, volumes=claiming("claim-1"))
        volume = await query(edge, "persistentvolume", "pv-1")
        assert volume["metadata"]["name"] == "pv-1"
        assert status(await query(edge, "persistentvolume", "pv-2")) == 403
        assert status(await query(edge, "persistentvolume", "pv-3")) == 404


def a_volume(number: int, claim: JsonObject) -> JsonObject:
    return {
        "metadata": {"name": f"pv-{number}"},
        "spec": {
            "capacity": {"storage": "1Gi"},
            "accessModes": ["ReadWriteOnce"],
            "hostPath": {"path": "/data"},
            "claimRef": claim,
        },
    }


async def test_attachments_are_read_by_the_node_that_they_are_for(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        for number in (1, 2):
            body: JsonObject = {
                "metadata": {"name": f"va-{number}"},
                "spec": {
                    "attacher": "csi.example.org",
                    "nodeName": f"edge-{number}",
                    "source": {"persistentVolumeName": "pv-1"},
                },
            }
            await cloud.kube.create("storage.k8s.io/v1", "volumeattachments", None, body)
        found = await query(edge, "volumeattachment", "va-1")
        assert found["spec"]["nodeName"] == "edge-1"
        assert status(await query(edge, "volumeattachment", "va-2")) == 403


# --- tokens --------------------------------------------------------------------------------------


def a_token_request(pod: Any, **more: Any) -> JsonObject:
    meta = pod["metadata"]
    bound = {"kind": "Pod", "apiVersion": "v1", "name": meta["name"], "uid": meta["uid"]}
    return {"spec": {"audiences": None, "expirationSeconds": 3607, "boundObjectRef": bound, **more}}


async def test_a_token_for_a_pod_of_the_node_says_what_the_api_filled_in(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        pod = await make_pod(cloud, serviceAccountName="default")
        found = await query(edge, "serviceaccounttoken", "default", a_token_request(pod))
        assert found["kind"] == "TokenRequest"
        assert found["spec"]["audiences"]
        assert found["status"]["token"].count(".") == 2


@pytest.mark.parametrize("flaw", ["unbound", "other node", "other account", "other uid"])
async def test_tokens_for_anything_else_are_refused(tmp_path: Path, flaw: str) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        account: JsonObject = {"metadata": {"name": "robot"}}
        await cloud.kube.create("v1", "serviceaccounts", "default", account)
        node = "edge-2" if flaw == "other node" else "edge-1"
        pod = await make_pod(cloud, node=node, serviceAccountName="default")
        request: Any = a_token_request(pod)
        if flaw == "unbound":
            del request["spec"]["boundObjectRef"]
        elif flaw == "other uid":
            request["spec"]["boundObjectRef"]["uid"] = "no-such"
        name = "robot" if flaw == "other account" else "default"
        assert status(await query(edge, "serviceaccounttoken", name, request)) == 403


@pytest.mark.parametrize("mode", [STRICT, OPEN], ids=["strict", "off"])
async def test_a_pod_that_a_node_made_by_itself_gives_it_no_token(
    tmp_path: Path, mode: Authorization
) -> None:
    mirror: JsonObject = {
        "metadata": {"name": "static", "annotations": {"kubernetes.io/config.mirror": "x"}},
        "spec": {"nodeName": "edge-1", "containers": [{"name": "c", "image": "i"}]},
    }
    async with a_node(tmp_path, mode) as (_, edge):
        subject = Subject("default", "pod", "static")
        made = content_of(await edge.ask_object(subject, Operation.INSERT, mirror))["Object"]
        found = await query(edge, "serviceaccounttoken", "default", a_token_request(made))
        assert status(found) == 403


@pytest.mark.parametrize("mode", [WATCHING, OPEN], ids=["debug", "off"])
async def test_tokens_are_guarded_in_every_mode(tmp_path: Path, mode: Authorization) -> None:
    async with a_node(tmp_path, mode) as (cloud, edge):
        pod = await make_pod(cloud, node="edge-2", serviceAccountName="default")
        found = await query(edge, "serviceaccounttoken", "default", a_token_request(pod))
        assert status(found) == 403
        found = await query(edge, "serviceaccounttoken", "default", {"spec": {}})
        assert status(found) == 403


async def test_a_token_of_a_pod_that_is_gone_is_not_found(tmp_path: Path) -> None:
    gone = {"metadata": {"name": "gone", "uid": "u"}}
    async with a_node(tmp_path) as (_, edge):
        found = await query(edge, "serviceaccounttoken", "default", a_token_request(gone))
        assert status(found) == 404


# --- certificates --------------------------------------------------------------------------------


async def test_a_node_asks_no_other_signer_for_a_certificate(tmp_path: Path) -> None:
    body: JsonObject = {"spec": {"request": "", "signerName": "example.org/any", "usages": []}}
    subject = Subject("default", "certificatesigningrequest", "csr-1")
    async with a_node(tmp_path) as (_, edge):
        answer = content_of(await edge.ask_object(subject, Operation.INSERT, body))
        assert answer["Err"]["ErrStatus"]["code"] == 403


# --- patience ------------------------------------------------------------------------------------


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodeasks, "LOOK_SECONDS", 0.02)


async def test_our_edge_is_told_at_once_what_is_not_there(tmp_path: Path) -> None:
    async with a_node(tmp_path) as (cloud, edge):
        await make_pod(cloud, volumes=mounting("late"))
        assert status(await query(edge, "configmap", "late")) == 404


@pytest.mark.usefixtures("hasty")
async def test_a_foreign_edge_is_answered_when_the_object_is_there(tmp_path: Path) -> None:
    async with a_node(tmp_path, store="") as (cloud, edge):
        await make_pod(cloud, volumes=mounting("late", "here"))
        await make_map(cloud, "here")
        late = to_cloud.ask(a_stamp(), Subject("default", "configmap", "late"), Operation.QUERY)
        await edge.send(late)
        assert (await query(edge, "configmap", "here"))["data"]  # nothing waits behind it
        assert not any(envelope.parent_id == late.msg_id for envelope in edge.received)
        await make_map(cloud, "late")
        answer = await edge.wait_for(lambda e: e.parent_id == late.msg_id)
        assert content_of(answer)["data"] == {"a": "1"}


@pytest.mark.usefixtures("hasty")
async def test_a_foreign_edge_gets_no_answer_that_it_would_store_for_the_object(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(nodeasks, "PATIENCE_SECONDS", 0.1)
    caplog.set_level("INFO", logger="cloud.nodeasks")
    async with a_node(tmp_path, store="") as (cloud, edge):
        await make_pod(cloud, volumes=mounting("never"))
        never = to_cloud.ask(a_stamp(), Subject("default", "configmap", "never"), Operation.QUERY)
        await edge.send(never)

        async def is_given_up() -> bool:
            return any("got no answer" in record.message for record in caplog.records)

        await eventually(is_given_up)
        assert status(await query(edge, "configmap", "not-named")) == 403
        assert not any(envelope.parent_id == never.msg_id for envelope in edge.received)


class Away:
    """Makes reads of the API fail while it `is_on`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.is_on = False
        get = LocalClient.get

        async def reading(client: LocalClient, *args: Any) -> Any:
            if self.is_on:
                raise Undeliverable("the API is away")
            return await get(client, *args)

        monkeypatch.setattr(LocalClient, "get", reading)


@pytest.mark.usefixtures("hasty")
async def test_a_foreign_edge_waits_while_the_api_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(monkeypatch)
    async with a_node(tmp_path, store="") as (cloud, edge):
        await make_pod(cloud, volumes=mounting("settings"))
        await make_map(cloud, "settings")
        away.is_on = True
        asked = to_cloud.ask(
            a_stamp(), Subject("default", "configmap", "settings"), Operation.QUERY
        )
        token = to_cloud.ask(
            a_stamp(),
            Subject("default", "serviceaccounttoken", "default"),
            Operation.QUERY,
            {"spec": {"boundObjectRef": {"kind": "Pod", "name": "p1", "uid": "u"}}},
        )
        await edge.send(asked)
        await edge.send(token)
        assert (await query(edge, "node", "edge-1", ns="null"))["ErrStatus"]["code"] == 503
        away.is_on = False
        answer = await edge.wait_for(lambda e: e.parent_id == asked.msg_id)
        assert content_of(answer)["data"] == {"a": "1"}
        assert not any(envelope.parent_id == token.msg_id for envelope in edge.received)


async def test_our_edge_is_told_that_the_api_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = Away(monkeypatch)
    async with a_node(tmp_path) as (cloud, edge):
        await make_pod(cloud, volumes=mounting("settings"))
        away.is_on = True
        assert status(await query(edge, "configmap", "settings")) == 503
