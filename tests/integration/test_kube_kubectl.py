"""Real kubectls against the embedded Kubernetes API."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from tests.kube_server import KubeServer, kube_server
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()
OLDEST_AND_NEWEST = sorted(
    {next(iter(KUBECTLS), ""), *(name for name in KUBECTLS if name == "1.27")} - {""}
)
NEWEST = list(KUBECTLS)[:1]

pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")

MODEL = """
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: lamp-model, namespace: default}
spec:
  properties:
  - {name: "on", type: BOOLEAN, accessMode: ReadWrite}
"""
LAMP = """
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: lamp, namespace: default, labels: {room: hall}}
spec:
  deviceModelRef: {name: lamp-model}
  nodeName: edge-1
  protocol: {protocolName: virtual, configData: {pin: 4}}
  properties:
  - {name: "on", desired: {value: "false"}, collectCycle: 1000}
"""
STATUS = """
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceStatus
metadata: {name: lamp, namespace: default}
status:
  state: ok
  twins:
  - {propertyName: "on", reported: {value: "true"}}
"""
NODE = """
apiVersion: v1
kind: Node
metadata: {name: edge-1, labels: {node-role.kubernetes.io/edge: ""}}
spec:
  taints: [{key: area, value: shop, effect: NoSchedule}]
"""
LEASE = """
apiVersion: coordination.k8s.io/v1
kind: Lease
metadata: {name: edge-1, namespace: kube-node-lease}
spec: {holderIdentity: edge-1, leaseDurationSeconds: 40, renewTime: "2026-11-22T20:05:00.000000Z"}
"""
NODE_STATUS = (
    '{"status":{"conditions":[{"type":"Ready","status":"True","reason":"EdgeReady"}],'
    '"nodeInfo":{"kubeletVersion":"v1.32.10-kubeedge-v1.23.1"},'
    '"addresses":[{"type":"InternalIP","address":"10.0.0.7"}]}}'
)


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[KubeServer]:
    async with kube_server(tmp_path) as running:
        yield running


@pytest.fixture(params=OLDEST_AND_NEWEST)
def kubectl(request: pytest.FixtureRequest, server: KubeServer, tmp_path: Path) -> Kubectl:
    return Kubectl(KUBECTLS[request.param], server.kubeconfig, tmp_path)


@pytest.fixture
def newest(server: KubeServer, tmp_path: Path) -> Kubectl:
    return Kubectl(next(iter(KUBECTLS.values())), server.kubeconfig, tmp_path)


async def field(kubectl: Kubectl, what: str, path: str) -> str:
    kind, name = what.split("/")
    return (await kubectl.ok("get", kind, name, "-o", f"jsonpath={{{path}}}")).out


async def test_apply_creates_then_leaves_alone_then_configures(kubectl: Kubectl) -> None:
    assert (
        "device.devices.kubeedge.io/lamp created"
        in (await kubectl.ok("apply", "-f", "-", stdin=LAMP)).out
    )
    assert "unchanged" in (await kubectl.ok("apply", "-f", "-", stdin=LAMP)).out
    assert await field(kubectl, "device/lamp", ".metadata.generation") == "1"
    changed = LAMP.replace('"false"', '"true"')
    assert "configured" in (await kubectl.ok("apply", "-f", "-", stdin=changed)).out
    assert await field(kubectl, "device/lamp", ".spec.properties[0].desired.value") == "true"
    assert await field(kubectl, "device/lamp", ".metadata.generation") == "2"


async def test_all_device_kinds_print_their_columns(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "-f", "-", stdin="---".join((MODEL, LAMP, STATUS)))
    table = (await kubectl.ok("get", "devices")).out.splitlines()
    assert table[0].split() == ["NAME", "MODEL", "NODE", "AGE"]
    assert table[1].split()[:3] == ["lamp", "lamp-model", "edge-1"]
    wide = (await kubectl.ok("get", "devices", "-o", "wide")).out
    assert "virtual" in wide
    assert "lamp-model" in (await kubectl.ok("get", "devicemodels")).out
    assert "ok" in (await kubectl.ok("get", "devicestatuses")).out
    named = await kubectl.ok("get", "device,devicemodel", "-o", "name")
    assert named.out.split() == [
        "device.devices.kubeedge.io/lamp",
        "devicemodel.devices.kubeedge.io/lamp-model",
    ]
    assert (await kubectl.ok("get", "device", "lamp", "-o", "json")).json["kind"] == "Device"
    assert "deviceModelRef:" in (await kubectl.ok("get", "device", "lamp", "-o", "yaml")).out


async def test_json_and_merge_patches_change_a_device(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "-f", "-", stdin=LAMP)
    operation = '[{"op":"add","path":"/spec/properties/0/desired","value":{"value":"true"}}]'
    await kubectl.ok("patch", "device", "lamp", "--type=json", "-p", operation)
    assert await field(kubectl, "device/lamp", ".spec.properties[0].desired.value") == "true"
    await kubectl.ok(
        "patch", "device", "lamp", "--type=merge", "-p", '{"spec":{"nodeName":"edge-2"}}'
    )
    assert await field(kubectl, "device/lamp", ".spec.nodeName") == "edge-2"
    again = await kubectl.ok(
        "patch", "device", "lamp", "--type=merge", "-p", '{"spec":{"nodeName":"edge-2"}}'
    )
    assert "no change" in again.out
    assert await field(kubectl, "device/lamp", ".metadata.generation") == "3"


async def test_a_failing_test_operation_is_refused(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    test = '[{"op":"test","path":"/spec/nodeName","value":"other"}]'
    assert (
        "request is invalid"
        in (await newest.fails("patch", "device", "lamp", "--type=json", "-p", test)).err
    )
    missing = '[{"op":"replace","path":"/spec/nothing/here","value":1}]'
    assert (
        "invalid"
        in (await newest.fails("patch", "device", "lamp", "--type=json", "-p", missing)).err
    )


async def test_a_strategic_patch_of_a_custom_resource_is_no_known_media_type(
    newest: Kubectl,
) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    said = await newest.fails("patch", "device", "lamp", "-p", '{"spec":{"nodeName":"x"}}')
    assert "strategic-merge-patch+json is not supported" in said.err


async def test_edit_stores_what_the_editor_saved(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "-f", "-", stdin=LAMP)
    said = await kubectl.ok("edit", "device", "lamp", EDITOR="sed -i s/edge-1/edge-9/")
    assert "lamp edited" in said.out
    assert await field(kubectl, "device/lamp", ".spec.nodeName") == "edge-9"


async def test_labels_annotations_and_selectors(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "-f", "-", stdin=LAMP)
    await kubectl.ok("label", "device", "lamp", "floor=2")
    await kubectl.ok("annotate", "device", "lamp", "twinspan.io/on-delete=keep")
    assert "lamp" in (await kubectl.ok("get", "device", "-l", "floor in (1,2),room=hall")).out
    assert "No resources" in (await kubectl.ok("get", "device", "-l", "floor!=2,room")).text
    assert (
        "lamp" in (await kubectl.ok("get", "device", "--field-selector", "metadata.name=lamp")).out
    )
    assert (
        "field label not supported"
        in (await kubectl.fails("get", "device", "--field-selector", "spec.nodeName=edge-1")).err
    )
    await kubectl.ok("label", "device", "lamp", "floor-")
    assert await field(kubectl, "device/lamp", ".metadata.labels.floor") == ""
    assert "keep" in (await kubectl.ok("get", "device", "lamp", "-o", "yaml")).out


async def test_faults_of_a_device_are_named_field_by_field(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    bad = '{"spec":{"nodeName":7,"properties":[{"name":"on","desired":{}}]}}'
    said = await newest.fails("patch", "device", "lamp", "--type=merge", "-p", bad)
    assert 'The Device "lamp" is invalid' in said.err
    assert 'spec.nodeName in body must be of type string: "integer"' in said.err
    assert "spec.properties[0].desired.value: Required value" in said.err
    said = await newest.fails("create", "-f", "-", stdin=MODEL.replace("BOOLEAN", "WORD"))
    assert 'Unsupported value: "WORD": supported values: "INT", "FLOAT"' in said.err
    said = await newest.fails("create", "-f", "-", stdin=MODEL.replace("lamp-model", "Lamp_Model"))
    assert "a lowercase RFC 1123 subdomain must consist of" in said.err


async def test_unknown_fields_are_refused_where_the_client_is_strict(newest: Kubectl) -> None:
    said = await newest.fails("create", "-f", "-", stdin=LAMP.replace("nodeName:", "nodeNam:"))
    assert 'strict decoding error: unknown field "spec.nodeNam"' in said.err
    relaxed = await newest.ok(
        "create", "-f", "-", "--validate=warn", stdin=LAMP.replace("nodeName:", "nodeNam:")
    )
    assert 'Warning: unknown field "spec.nodeNam"' in relaxed.err


async def test_missing_and_existing_objects_are_told_apart(kubectl: Kubectl) -> None:
    said = await kubectl.fails("get", "device", "lamp")
    assert 'Error from server (NotFound): devices.devices.kubeedge.io "lamp" not found' in said.err
    await kubectl.ok("create", "-f", "-", stdin=LAMP)
    said = await kubectl.fails("create", "-f", "-", stdin=LAMP)
    assert "AlreadyExists" in said.err
    said = await kubectl.fails("create", "-f", "-", stdin=LAMP.replace("default", "nowhere"))
    assert 'namespaces "nowhere" not found' in said.err


async def test_a_stale_replace_is_a_conflict(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    old = (await newest.ok("get", "device", "lamp", "-o", "yaml")).out
    await newest.ok("label", "device", "lamp", "moved=yes")
    said = await newest.fails("replace", "-f", "-", stdin=old)
    assert (
        "the object has been modified; please apply your changes to the latest version" in said.err
    )


async def test_get_watch_shows_changes_as_they_come(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "-f", "-", stdin=LAMP)
    process = await kubectl.start("get", "devices", "-w")
    assert process.stdout is not None
    lines = process.stdout
    try:
        async with asyncio.timeout(30):
            assert b"NAME" in await lines.readline()
            assert b"edge-1" in await lines.readline()
            await kubectl.ok(
                "patch", "device", "lamp", "--type=merge", "-p", '{"spec":{"nodeName":"edge-5"}}'
            )
            assert b"edge-5" in await lines.readline()
            await kubectl.ok(
                "create", "-f", "-", stdin=LAMP.replace("name: lamp,", "name: second,")
            )
            assert b"second" in await lines.readline()
    finally:
        process.terminate()
        await process.communicate()


async def test_a_watch_of_one_object_gives_whole_documents(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    process = await newest.start(
        "get", "device", "lamp", "-w", "-o", "jsonpath={.metadata.generation} "
    )
    assert process.stdout is not None
    try:
        async with asyncio.timeout(30):
            assert await process.stdout.readuntil(b" ") == b"1 "
            await newest.ok(
                "patch", "device", "lamp", "--type=merge", "-p", '{"spec":{"nodeName":"b"}}'
            )
            assert await process.stdout.readuntil(b" ") == b"2 "
    finally:
        process.terminate()
        await process.communicate()


async def test_wait_sees_deletion_and_conditions(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=NODE)
    waiting = await newest.start("wait", "node/edge-1", "--for=condition=Ready", "--timeout=30s")
    await newest.ok("patch", "node", "edge-1", "--subresource=status", "-p", NODE_STATUS)
    out, err = await waiting.communicate()
    assert b"condition met" in out, err
    await newest.ok("delete", "node", "edge-1")
    await newest.ok("wait", "node/edge-1", "--for=delete", "--timeout=30s")


async def test_a_node_with_its_lease(kubectl: Kubectl) -> None:
    await kubectl.ok("apply", "-f", "-", stdin=NODE)
    assert "Unknown" in (await kubectl.ok("get", "nodes")).out
    await kubectl.ok("patch", "node", "edge-1", "--subresource=status", "-p", NODE_STATUS)
    row = (await kubectl.ok("get", "nodes", "-o", "wide")).out.splitlines()[1].split()
    assert row[:3] == ["edge-1", "Ready", "edge"]
    assert "v1.32.10-kubeedge-v1.23.1" in row
    assert "10.0.0.7" in row
    await kubectl.ok("cordon", "edge-1")
    assert "Ready,SchedulingDisabled" in (await kubectl.ok("get", "node", "edge-1")).out
    await kubectl.ok("uncordon", "edge-1")
    assert "SchedulingDisabled" not in (await kubectl.ok("get", "node", "edge-1")).out
    await kubectl.ok("taint", "node", "edge-1", "heat=high:NoExecute")
    assert await field(kubectl, "node/edge-1", ".spec.taints[*].key") == "heat area"
    await kubectl.ok("apply", "-f", "-", stdin=LEASE)
    held = (await kubectl.ok("get", "lease", "-n", "kube-node-lease")).out.splitlines()[1].split()
    assert held[:2] == ["edge-1", "edge-1"]
    described = (await kubectl.ok("describe", "node", "edge-1")).out
    assert "HolderIdentity:  edge-1" in described
    assert "heat=high:NoExecute" in described


async def test_a_strategic_patch_merges_conditions_by_type(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=NODE)
    await newest.ok("patch", "node", "edge-1", "--subresource=status", "-p", NODE_STATUS)
    more = '{"status":{"conditions":[{"type":"DiskPressure","status":"False"}]}}'
    await newest.ok("patch", "node", "edge-1", "--subresource=status", "-p", more)
    kinds = (await field(newest, "node/edge-1", ".status.conditions[*].type")).split()
    assert sorted(kinds) == ["DiskPressure", "Ready"]


async def test_a_status_cannot_come_in_through_the_front_door(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=NODE)
    await newest.ok("patch", "node", "edge-1", "-p", NODE_STATUS)
    assert await field(newest, "node/edge-1", ".status.conditions") == ""


async def test_generators_send_protobuf_and_are_understood(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "namespace", "plant")
    await kubectl.ok(
        "create", "configmap", "-n", "plant", "settings", "--from-literal=a=1", "--from-literal=b="
    )
    await kubectl.ok(
        "create", "secret", "generic", "-n", "plant", "key", "--from-literal=password=hidden"
    )
    await kubectl.ok("create", "serviceaccount", "-n", "plant", "robot")
    config = (await kubectl.ok("get", "cm", "-n", "plant", "settings", "-o", "json")).json
    assert config["data"] == {"a": "1", "b": ""}
    assert "status" not in config
    secret = (await kubectl.ok("get", "secret", "-n", "plant", "key", "-o", "json")).json
    assert secret["data"] == {"password": "aGlkZGVu"}
    assert secret["type"] == "Opaque"
    accounts = (await kubectl.ok("get", "sa", "-n", "plant", "-o", "name")).out.split()
    assert accounts == ["serviceaccount/default", "serviceaccount/robot"]


async def test_deleting_a_namespace_takes_everything_in_it(kubectl: Kubectl) -> None:
    await kubectl.ok("create", "namespace", "plant")
    await kubectl.ok(
        "create", "-f", "-", stdin=LAMP.replace("namespace: default", "namespace: plant")
    )
    assert 'namespace "plant" deleted' in (await kubectl.ok("delete", "namespace", "plant")).out
    assert "NotFound" in (await kubectl.fails("get", "namespace", "plant")).err
    assert "lamp" not in (await kubectl.ok("get", "devices", "-A")).out
    said = await kubectl.fails("delete", "namespace", "default")
    assert "this namespace may not be deleted" in said.err


async def test_finalizers_hold_an_object_until_they_are_gone(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    hold = '{"metadata":{"finalizers":["twinspan.io/hold"]}}'
    await newest.ok("patch", "device", "lamp", "--type=merge", "-p", hold)
    await newest.ok("delete", "device", "lamp", "--wait=false")
    assert await field(newest, "device/lamp", ".metadata.deletionTimestamp") != ""
    more = '{"metadata":{"finalizers":["twinspan.io/hold","twinspan.io/more"]}}'
    said = await newest.fails("patch", "device", "lamp", "--type=merge", "-p", more)
    assert "no new finalizers can be added if the object is being deleted" in said.err
    await newest.ok(
        "patch", "device", "lamp", "--type=merge", "-p", '{"metadata":{"finalizers":null}}'
    )
    assert "NotFound" in (await newest.fails("get", "device", "lamp")).err


async def test_dependents_go_with_their_owner(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    uid = await field(newest, "device/lamp", ".metadata.uid")
    owner = (
        "ownerReferences: [{apiVersion: devices.kubeedge.io/v1beta1, kind: Device, name: lamp,"
        f" uid: {uid}}}]"
    )
    owned = STATUS.replace(
        "{name: lamp, namespace: default}", f"{{name: lamp, namespace: default, {owner}}}"
    )
    await newest.ok("create", "-f", "-", stdin=owned)
    await newest.ok("delete", "device", "lamp")
    await newest.ok("wait", "devicestatus/lamp", "--for=delete", "--timeout=30s")


async def test_server_side_apply_keeps_owners_apart(newest: Kubectl) -> None:
    await newest.ok("apply", "--server-side", "-f", "-", stdin=LAMP)
    other = LAMP.replace("edge-1", "edge-2")
    said = await newest.fails(
        "apply", "--server-side", "--field-manager=other", "-f", "-", stdin=other
    )
    assert 'conflict with "kubectl": .spec.nodeName' in said.err
    await newest.ok(
        "apply",
        "--server-side",
        "--force-conflicts",
        "--field-manager=other",
        "-f",
        "-",
        stdin=other,
    )
    assert await field(newest, "device/lamp", ".spec.nodeName") == "edge-2"
    managers = (
        await newest.ok("get", "device", "lamp", "-o", "json", "--show-managed-fields")
    ).json
    entries: list[dict[str, Any]] = managers["metadata"]["managedFields"]
    assert {entry["manager"]: entry["operation"] for entry in entries} == {
        "kubectl": "Apply",
        "other": "Apply",
    }


async def test_server_side_apply_removes_what_is_left_out(newest: Kubectl) -> None:
    await newest.ok("apply", "--server-side", "-f", "-", stdin=LAMP)
    await newest.ok("annotate", "device", "lamp", "kept=yes")
    await newest.ok(
        "apply", "--server-side", "-f", "-", stdin=LAMP.replace("  nodeName: edge-1\n", "")
    )
    found = (await newest.ok("get", "device", "lamp", "-o", "json")).json
    assert "nodeName" not in found["spec"]
    assert found["metadata"]["annotations"]["kept"] == "yes"


async def test_server_side_apply_takes_over_a_client_side_object(newest: Kubectl) -> None:
    await newest.ok("apply", "-f", "-", stdin=LAMP)
    changed = LAMP.replace("edge-1", "edge-2")
    await newest.ok("apply", "--server-side", "-f", "-", stdin=changed)
    assert await field(newest, "device/lamp", ".spec.nodeName") == "edge-2"


async def test_a_dry_run_stores_nothing(newest: Kubectl) -> None:
    assert (
        "created (server dry run)"
        in (await newest.ok("apply", "--dry-run=server", "-f", "-", stdin=LAMP)).out
    )
    assert "NotFound" in (await newest.fails("get", "device", "lamp")).err
    await newest.ok("apply", "-f", "-", stdin=LAMP)
    differs = await newest.run("diff", "-f", "-", stdin=LAMP.replace("edge-1", "edge-2"))
    assert differs.code == 1
    assert "+  nodeName: edge-2" in differs.out
    assert await field(newest, "device/lamp", ".spec.nodeName") == "edge-1"
    assert (await newest.run("diff", "-f", "-", stdin=LAMP)).code == 0


async def test_explain_reads_the_published_types(kubectl: Kubectl) -> None:
    said = (await kubectl.ok("explain", "device.spec.properties")).out
    assert "collectCycle" in said
    assert "<boolean>" in said
    assert "renewTime" in (await kubectl.ok("explain", "lease.spec")).out


async def test_discovery_lists_kinds_and_versions(kubectl: Kubectl) -> None:
    kinds = (await kubectl.ok("api-resources", "--namespaced=true", "-o", "name")).out.split()
    assert {"configmaps", "devices.devices.kubeedge.io", "leases.coordination.k8s.io"} <= set(kinds)
    assert "nodes" not in kinds
    versions = (await kubectl.ok("api-versions")).out.split()
    assert {"v1", "devices.kubeedge.io/v1beta1", "apiextensions.k8s.io/v1"} <= set(versions)
    assert "v1.36" in (await kubectl.ok("version")).out


async def test_pages_join_to_the_whole_collection(newest: Kubectl) -> None:
    many = "---".join(
        LAMP.replace("name: lamp,", f"name: lamp-{number:02},") for number in range(25)
    )
    await newest.ok("create", "-f", "-", stdin=many)
    names = (await newest.ok("get", "devices", "-o", "name", "--chunk-size=10")).out.split()
    assert names == [f"device.devices.kubeedge.io/lamp-{number:02}" for number in range(25)]
    await newest.ok("delete", "devices", "--all")
    assert "No resources" in (await newest.ok("get", "devices")).text


async def test_a_new_definition_is_served_at_once(newest: Kubectl) -> None:
    definition = """
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: pumps.plant.example}
spec:
  group: plant.example
  names: {plural: pumps, kind: Pump, shortNames: [pu]}
  scope: Namespaced
  versions:
  - name: v1
    served: true
    storage: true
    schema:
      openAPIV3Schema:
        type: object
        properties:
          spec:
            type: object
            required: [rate]
            properties:
              rate: {type: integer, minimum: 0, maximum: 10}
              mode: {type: string, default: auto}
"""
    pump = (
        "apiVersion: plant.example/v1\nkind: Pump\nmetadata: {name: p, namespace: default}\n"
        "spec: {rate: %s}\n"
    )
    await newest.ok("apply", "-f", "-", stdin=definition)
    await newest.ok(
        "wait", "--for=condition=Established", "crd/pumps.plant.example", "--timeout=20s"
    )
    await newest.ok("apply", "-f", "-", stdin=pump % 3)
    assert await field(newest, "pu/p", ".spec.mode") == "auto"
    said = await newest.fails("apply", "-f", "-", stdin=(pump % 11).replace("name: p,", "name: q,"))
    assert "spec.rate in body should be less than or equal to 10" in said.err
    await newest.ok("delete", "crd", "pumps.plant.example")
    assert "pumps" not in (await newest.ok("api-resources", "-o", "name", "--cached=false")).out


async def test_who_am_i_and_what_may_i(newest: Kubectl) -> None:
    assert "kubernetes-admin" in (await newest.ok("auth", "whoami")).out
    assert (await newest.ok("auth", "can-i", "create", "devices")).out.strip() == "yes"
    assert "*.*" in (await newest.ok("auth", "can-i", "--list")).out
    said = await newest.run("auth", "can-i", "delete", "nodes", "--as=bob")
    assert said.out.strip() == "no"


async def test_events_belong_to_the_object_they_are_about(newest: Kubectl) -> None:
    await newest.ok("create", "-f", "-", stdin=LAMP)
    uid = await field(newest, "device/lamp", ".metadata.uid")
    event = f"""
apiVersion: v1
kind: Event
metadata: {{name: lamp.1, namespace: default}}
involvedObject:
  {{apiVersion: devices.kubeedge.io/v1beta1, kind: Device, name: lamp, namespace: default, uid: {uid}}}
reason: NotMappable
message: no such property
type: Warning
source: {{component: twinspan}}
firstTimestamp: "2026-11-22T20:00:00Z"
lastTimestamp: "2026-11-22T20:00:00Z"
count: 1
"""
    await newest.ok("create", "-f", "-", stdin=event)
    assert "NotMappable" in (await newest.ok("describe", "device", "lamp")).out
    assert "device/lamp" in (await newest.ok("get", "events")).out
    assert "no such property" in (await newest.ok("events", "--for", "device/lamp")).out
