"""A mapper at the edge, an operator at the cloud: a wish goes down, the mapper's report comes up."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gateway.config.edge_services import Dmi
from gateway.errors import NotFound
from gateway.kube.client import PatchType
from gateway.model.json import Json
from tests.cloud_rig import CloudCore, a_cloud, apply_device, apply_model, eventually
from tests.cloud_samples import DEVICES, a_device
from tests.dmi_peer import a_mapper
from tests.integration.edge_node import a_node
from tests.integration.edge_support import until
from tests.integration.test_edge_real_cloud import join_cloud, level_is

WISH: Json = [{"op": "replace", "path": "/spec/properties/1/desired/value", "value": "5"}]


async def status_of(cloud: CloudCore) -> dict[str, tuple[Any, Any]]:
    """What DeviceStatus shows: property -> (observed desired value, reported value)."""
    try:
        found: Any = await cloud.kube.get(DEVICES, "devicestatuses", "default", "lamp")
    except NotFound:
        return {}
    return {
        each["propertyName"]: (
            each.get("observedDesired", {}).get("value"),
            each.get("reported", {}).get("value"),
        )
        for each in found.get("status", {}).get("twins", [])
    }


async def test_a_wish_reaches_the_mapper_and_its_report_the_device_and_the_thing(
    tmp_path: Path,
) -> None:
    async with a_cloud(tmp_path / "cloud") as cloud:
        await join_cloud(cloud, tmp_path / "edge")
        async with a_node(tmp_path / "edge", drivers={}, dmi=Dmi(enabled=True)) as node:
            await until(lambda: node.core.hub.is_connected)
            folder = tmp_path / "edge" / "edge"
            sockets = folder / "dmi.sock", folder / "mappers" / "virtual.sock"
            async with a_mapper(*sockets, protocol="virtual") as mapper:
                await mapper.register()
                await apply_model(cloud)
                await apply_device(cloud, a_device(level="1"))
                await until(lambda: mapper.heard("RegisterDevice"))
                await cloud.kube.patch(
                    DEVICES, "devices", "default", "lamp", WISH, patch_type=PatchType.JSON
                )
                await until(lambda: mapper.heard("UpdateDevice"))
                device = mapper.heard("UpdateDevice")[-1].device
                assert {p.name: p.desired.value for p in device.spec.properties}["level"] == "5"
                await mapper.report("lamp", level=("5", "5"))

                async def shown() -> bool:
                    return (await status_of(cloud)).get("level") == ("5", "5")

                await eventually(shown, "the report in DeviceStatus")
                await level_is(cloud, 5)
