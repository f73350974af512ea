"""Methods called on a broker that the edge is a client of: Debian's mosquitto."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from gateway.config.edge import EdgeMqtt
from gateway.wire.cloudedge.twins import MemberDevice
from tests.integration.edge_cloud import a_cloud
from tests.integration.edge_node import LAMP_MODEL, a_device, a_node, join_edge, linked
from tests.integration.edge_support import until
from tests.mqtt_peers import mosquitto, run_tool

TOPIC = "twinspan/method/default/lamp/switch"


async def test_a_call_is_answered_there_and_a_retained_one_is_no_call(tmp_path: Path) -> None:
    (tmp_path / "cloud").mkdir()
    async with a_cloud(tmp_path / "cloud") as cloud, mosquitto() as address:
        cloud.members = [MemberDevice(id="default/lamp", name="lamp")]
        await join_edge(cloud, tmp_path / "edge")
        port = ("-p", address.rpartition(":")[2])
        old = ("-r", "-q", "1", "-t", TOPIC, "-m", '{"values": {"on": true}}')
        assert (await run_tool("mosquitto_pub", *port, *old)).code == 0
        mqtt = EdgeMqtt(mode="external", external=address)
        async with a_node(tmp_path / "edge", mqtt=mqtt) as node:
            await linked(node, cloud)
            await cloud.push("devicemodel", "m1", LAMP_MODEL)
            lamp = a_device(protocol="virtual", on=None, brightness=None)
            lamp["spec"]["methods"] = [{"name": "switch", "propertyNames": ["on", "brightness"]}]
            await cloud.push("device", "lamp", lamp)
            external = node.core.external
            assert external is not None
            await until(lambda: cloud.reported("on") == ["false"] and external.is_connected)
            call = ("-t", TOPIC, "-e", f"{TOPIC}/result", "-m", '{"values": {"brightness": 7}}')
            async with asyncio.timeout(30):
                while True:  # the edge may still be subscribing
                    said = await run_tool("mosquitto_rr", *port, *call, "-W", "2")
                    if said.out:
                        break
            assert json.loads(said.out)["properties"]["brightness"]["state"] == "written"
            await until(lambda: cloud.reported("brightness")[-1] == "7")
            assert cloud.reported("on") == ["false"]
