"""Manifests of Devices in both versions, and what admission refuses, by kubectl on the embedded API."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from gateway.model.json import JsonObject
from gateway.wire.cloudedge.devices import GROUP_VERSION
from tests.cloud_rig import CloudCore, a_cloud, content_of, eventually
from tests.integration.edge_node import a_node
from tests.integration.edge_support import until
from tests.integration.test_cloudhub_pods import a_node as a_made_up_node
from tests.integration.test_edge_real_cloud import join_cloud
from tests.kubectl import Kubectl, find_kubectls

KUBECTLS = find_kubectls()
pytestmark = pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`")

OLD = """
apiVersion: devices.kubeedge.io/v1alpha2
kind: DeviceModel
metadata: {name: boiler-model}
spec:
  properties:
  - name: temperature
    description: in degree celsius
    type:
      int: {accessMode: ReadWrite, maximum: 100, unit: degree celsius}
  - name: enable
    type:
      int: {accessMode: ReadWrite, defaultValue: 1}
---
apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata:
  name: boiler
  labels: {description: cellar}
spec:
  deviceModelRef: {name: boiler-model}
  protocol:
    modbus: {slaveID: 1}
    common:
      tcp: {ip: 192.168.33.1, port: 502}
  nodeSelector:
    nodeSelectorTerms:
    - matchExpressions:
      - {key: '', operator: In, values: [edge-1]}
  propertyVisitors:
  - propertyName: temperature
    modbus: {register: CoilRegister, offset: 0, limit: 1, scale: 1, isSwap: true}
    collectCycle: 5000
  - propertyName: enable
    modbus: {register: CoilRegister, offset: 3, limit: 1, scale: 1.0}
status:
  twins:
  - propertyName: enable
    reported:
      metadata: {timestamp: '1550049403598', type: integer}
      value: "0"
    desired:
      metadata: {timestamp: '1550049403598', type: integer}
      value: "0"
"""
NEW = """
apiVersion: devices.kubeedge.io/v1beta1
kind: DeviceModel
metadata: {name: m1}
spec:
  protocol: modbus
  properties:
  - {name: temp, type: INT, accessMode: ReadWrite, minimum: "0", maximum: "100", unit: C}
---
apiVersion: devices.kubeedge.io/v1beta1
kind: Device
metadata: {name: d1, labels: {description: demo}}
spec:
  deviceModelRef: {name: m1}
  nodeName: edge-1
  protocol: {protocolName: modbus, configData: {slaveID: 1, ip: 10.0.0.5}}
  properties:
  - name: temp
    desired: {value: "25"}
    visitors: {protocolName: modbus, configData: {register: HoldingRegister, offset: 2, limit: 1}}
"""


def kubectl_of(cloud: CloudCore, home: Path) -> Kubectl:
    return Kubectl(next(iter(KUBECTLS.values())), cloud.data_dir / "kube" / "kubeconfig", home)


async def test_manifests_of_both_versions_reach_the_edge_in_one_form(tmp_path: Path) -> None:
    async with a_made_up_node(tmp_path) as (cloud, edge):
        kubectl = kubectl_of(cloud, tmp_path)
        for manifest in (OLD, NEW):
            ran = await kubectl.ok("apply", "-f", "-", stdin=manifest)
            assert "Warning" not in ran.err
            assert "unchanged" in (await kubectl.ok("apply", "-f", "-", stdin=manifest)).out

        model = content_of(await edge.object("default/devicemodel/boiler-model"))
        assert model["apiVersion"] == "devices.kubeedge.io/v1beta1"
        assert model["spec"]["properties"][0] == {
            "name": "temperature",
            "description": "in degree celsius",
            "type": "INT",
            "accessMode": "ReadWrite",
            "maximum": "100",
            "unit": "degree celsius",
        }
        device = content_of(await edge.object("default/device/boiler", "insert"))
        assert device["spec"]["nodeName"] == "edge-1"
        assert device["spec"]["protocol"] == {
            "protocolName": "modbus",
            "configData": {"ip": "192.168.33.1", "port": 502, "slaveID": 1},
        }
        first, second = device["spec"]["properties"]
        assert first["visitors"]["configData"]["register"] == "CoilRegister"
        assert second["desired"]["value"] == "0"
        assert content_of(await edge.object("default/device/d1"))["spec"]["nodeName"] == "edge-1"


async def test_a_wish_for_a_thing_is_kept_where_v1alpha2_looks_for_it(tmp_path: Path) -> None:
    async with a_made_up_node(tmp_path) as (cloud, edge):
        kubectl = kubectl_of(cloud, tmp_path)
        await kubectl.ok("apply", "-f", "-", stdin=OLD)
        await edge.object("default/device/boiler", "insert")
        await eventually(lambda: cloud.thing("default:boiler"), "the thing")
        await cloud.want("default:boiler", "temperature", 42)
        sent = content_of(await edge.object("default/device/boiler", "update"))
        assert sent["spec"]["properties"][0]["desired"]["value"] == "42"
        old: Any = (
            await kubectl.ok("get", "devices.v1alpha2.devices.kubeedge.io", "boiler", "-o", "json")
        ).json
        assert old["apiVersion"] == "devices.kubeedge.io/v1alpha2"
        assert len(old["spec"]["propertyVisitors"]) == 2
        assert [(t["propertyName"], t["desired"]["value"]) for t in old["status"]["twins"]] == [
            ("enable", "0"),
            ("temperature", "42"),
        ]
        await kubectl.ok("label", "device", "boiler", "room=cellar")  # by way of v1beta1
        new: Any = (await kubectl.ok("get", "device", "boiler", "-o", "json")).json
        assert new["apiVersion"] == "devices.kubeedge.io/v1beta1"
        assert (new["spec"], new["status"]) == (old["spec"], old["status"])


LAMP = """
apiVersion: devices.kubeedge.io/v1alpha2
kind: DeviceModel
metadata: {name: lamp-model}
spec:
  properties:
  - {name: "on", type: {boolean: {accessMode: ReadWrite}}}
  - {name: brightness, type: {int: {accessMode: ReadWrite, minimum: 0, maximum: 100}}}
---
apiVersion: devices.kubeedge.io/v1alpha2
kind: Device
metadata: {name: lamp}
spec:
  deviceModelRef: {name: lamp-model}
  protocol:
    customizedProtocol: {protocolName: virtual, configData: {kind: lamp}}
  nodeSelector:
    nodeSelectorTerms:
    - matchExpressions:
      - {key: '', operator: In, values: [edge-1]}
  propertyVisitors:
  - {propertyName: "on", collectCycle: 100, reportCycle: 100}
  - {propertyName: brightness, collectCycle: 100, reportCycle: 100}
status:
  twins:
  - {propertyName: brightness, desired: {value: "40", metadata: {type: int}}}
"""


async def test_a_device_of_v1alpha2_is_driven_by_a_real_edge(tmp_path: Path) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge") as node:
            await until(lambda: node.core.hub.is_connected)
            await kubectl_of(cloud, tmp_path).ok("apply", "-f", "-", stdin=LAMP)

            async def reported(name: str) -> object:
                thing: Any = await cloud.thing("default:lamp")
                feature = (thing or {}).get("features", {}).get(name, {})
                return feature.get("properties", {}).get("value")

            async def is_dimmed() -> bool:
                return await reported("brightness") == 40

            async def is_on() -> bool:
                return await reported("on") is True

            await eventually(is_dimmed, "the wish of the manifest")
            await cloud.want("default:lamp", "on", True)
            await eventually(is_on, "the wish of an application")

            async def is_written() -> bool:
                status: Any = await cloud.object(GROUP_VERSION, "devicestatuses", "default", "lamp")
                twins = status["status"]["twins"]
                values = {twin["propertyName"]: twin["reported"]["value"] for twin in twins}
                return bool(values == {"on": "true", "brightness": "40"})

            await eventually(is_written, "both in the DeviceStatus")


async def test_kubectl_shows_what_admission_refuses_and_warns_of(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        kubectl = kubectl_of(cloud, tmp_path)

        async def refused(manifest: str, webhook: str, why: str, *verb: str) -> None:
            said = (await kubectl.fails(*(verb or ("apply",)), "-f", "-", stdin=manifest)).err
            text = f'admission webhook "{webhook}" denied the request: {why}'
            assert text in said, said
            assert "Error from server:" in said

        twice = NEW.replace("  - name: temp\n", "  - name: temp\n  - name: temp\n")
        unique = "property names must be unique."
        assert (
            "not exist yet"
            in (await kubectl.ok("apply", "-f", "-", stdin=NEW.partition("---")[2])).err
        )
        await refused(twice, "validatedevice.kubeedge.io", unique)
        await refused(
            twice.replace("name: d1", "name: d2"), "validatedevice.kubeedge.io", unique, "create"
        )
        model = NEW.partition("---")[0]
        same = "  - {name: temp, type: INT, accessMode: ReadWrite}\n"
        await refused(model + same, "validatedevicemodel.kubeedge.io", unique, "create")
        for dry in ("--dry-run=server", "--server-side"):
            await refused(model + same, "validatedevicemodel.kubeedge.io", unique, "apply", dry)
        await kubectl.ok("apply", "-f", "-", stdin=model)
        wrong = NEW.replace('"25"', '"120"').replace(
            "visitors: {protocolName: modbus", "visitors: {protocolName: opcua"
        )
        said = (await kubectl.ok("apply", "-f", "-", stdin=wrong)).err
        assert "Warning: property temp: expected at most 100, got 120" in said
        assert "its visitors are of protocol opcua, the Device is of modbus" in said


RULE = """
apiVersion: rules.kubeedge.io/v1
kind: Rule
metadata: {{name: {name}}}
spec:
  source: my-rest
  sourceResource: {{path: {path}}}
  target: {target}
  targetResource: {{topic: test}}
"""
ENDS = """
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: my-rest}
spec: {ruleEndpointType: rest}
---
apiVersion: rules.kubeedge.io/v1
kind: RuleEndpoint
metadata: {name: my-eventbus}
spec: {ruleEndpointType: eventbus}
"""


async def test_rules_need_their_ends_and_sources_of_their_own(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        kubectl = kubectl_of(cloud, tmp_path)
        rule = RULE.format(name="r1", path="/a", target="my-eventbus")
        said = (await kubectl.fails("apply", "-f", "-", stdin=rule)).err
        assert (
            'admission webhook "validatedrule.kubeedge.io" denied the request:'
            " can't get source ruleEndpoint default/my-rest."
            ' Reason: ruleendpoints.rules.kubeedge.io "my-rest" not found'
        ) in said
        await kubectl.ok("apply", "-f", "-", stdin=ENDS)
        await kubectl.ok("apply", "-f", "-", stdin=rule)
        again = RULE.format(name="r2", path="/a", target="my-eventbus")
        said = (await kubectl.fails("apply", "-f", "-", stdin=again)).err
        assert "source properties exist in Rule default/r1. Path: /a" in said
        pair = RULE.format(name="r3", path="/b", target="my-rest").replace("topic", "resource")
        said = (await kubectl.fails("apply", "-f", "-", stdin=pair)).err
        assert "from source ruleEndpoint type rest to target ruleEndpoint type rest" in said
        await kubectl.ok("delete", "ruleendpoint", "my-rest")
        status: JsonObject = {"status": {"successMessages": 1}}
        await cloud.kube.patch("rules.kubeedge.io/v1", "rules", "default", "r1", status)
        service = ENDS.partition("---")[0].replace("rest}", "servicebus}")
        said = (await kubectl.fails("apply", "-f", "-", stdin=service)).err
        assert (
            'admission webhook "validatedruleendpoint.kubeedge.io" denied the request:'
            ' "service_port" property missed in property when ruleEndpoint is "servicebus"'
        ) in said


POD = """
apiVersion: v1
kind: Pod
metadata: {name: stays, labels: {app-offline.kubeedge.io: autonomy}}
spec:
  nodeName: edge-1
  containers: [{name: c, image: reg/app:1}]
  tolerations:
  - {key: node.kubernetes.io/unreachable, operator: Exists, effect: NoExecute, tolerationSeconds: 300}
  - {key: spot, operator: Exists}
"""


async def test_a_pod_that_is_to_stay_offline_tolerates_that_for_ever(tmp_path: Path) -> None:
    async with a_cloud(tmp_path) as cloud:
        kubectl = kubectl_of(cloud, tmp_path)
        await kubectl.ok("apply", "-f", "-", stdin=POD)
        pod: Any = (await kubectl.ok("get", "pod", "stays", "-o", "json")).json
        assert pod["spec"]["tolerations"] == [
            {"key": "spot", "operator": "Exists"},
            {"key": "node.kubernetes.io/unreachable", "operator": "Exists"},
            {  # every Pod's, added by the API itself
                "key": "node.kubernetes.io/not-ready",
                "operator": "Exists",
                "effect": "NoExecute",
                "tolerationSeconds": 300,
            },
        ]
        await kubectl.ok("label", "pod", "stays", "a=b")
        again: Any = (await kubectl.ok("get", "pod", "stays", "-o", "json")).json
        assert again["spec"] == pod["spec"]
        plain = POD.replace("stays", "goes").replace("autonomy", "none")
        await kubectl.ok("apply", "-f", "-", stdin=plain)
        pod = (await kubectl.ok("get", "pod", "goes", "-o", "json")).json
        assert pod["spec"]["tolerations"][0]["tolerationSeconds"] == 300
