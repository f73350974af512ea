"""A CloudCore with its edge, and a Ditto elsewhere as another process, that is killed and set back."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from gateway.ditto.passwords import hash_password
from tests.ports import free_port
from tests.process import Twinspan, eventually, twinspan
from tests.walk import Walk, a_kubectl, curl, try_twinspan

pytestmark = pytest.mark.e2e

THERMOSTAT = "default:thermostat"
LAMP = "default:lamp"
APPLICATION = "ditto:ditto"
CLOUDCORE = ("twinspan", "a long password")


@dataclass
class Site:
    """The cloud here, and the Ditto elsewhere."""

    here: Walk
    elsewhere: Twinspan

    def far(self, method: str, path: str, data: Any = None) -> Any:
        return curl(
            method, self.elsewhere.url("ditto.http", f"/api/2/{path}"), user=APPLICATION, data=data
        )

    def value(self, thing_id: str, name: str, part: str = "properties") -> Any:
        found = self.far("GET", f"things/{thing_id}/features/{name}/{part}/value")
        return found.json if found.status == 200 else None

    def want(self, thing_id: str, name: str, value: Any) -> None:
        path = f"things/{thing_id}/features/{name}/desiredProperties/value"
        answer = self.far("PUT", path, value)
        assert answer.status in (201, 204), answer

    def desired(self, name: str) -> dict[str, str]:
        """What the Device resource wants."""
        spec = self.here.kubectl_json("get", "device", name)["spec"]
        return {
            entry["name"]: entry["desired"]["value"]
            for entry in spec["properties"]
            if entry.get("desired", {}).get("value")
        }

    def set_device(self, name: str, index: int, value: str) -> None:
        path = f"/spec/properties/{index}/desired/value"
        patch = json.dumps([{"op": "replace", "path": path, "value": value}])
        self.here.kubectl("patch", "device", name, "--type=json", "-p", patch)

    def connected(self) -> bool:
        text = curl("GET", self.here.running.url("ops.http", "/metrics")).body
        return "twinspan_remote_things_up 1.0" in text


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    a_kubectl()
    folder = tmp_path_factory.mktemp("remote")
    (folder / "users").write_text(f"{CLOUDCORE[0]}:{hash_password(CLOUDCORE[1], cost=4)}\n")
    (folder / "password").write_text(f"{CLOUDCORE[1]}\n")
    address = f"127.0.0.1:{free_port()}"
    far = (f"ditto.http.bind={address}", f"ditto.http.users_file={folder / 'users'}")
    near = (
        "ditto.mode=remote",
        f"ditto.remote.url=http://{address}",
        f"ditto.remote.username={CLOUDCORE[0]}",
        f"ditto.remote.password_file={folder / 'password'}",
    )
    with (
        twinspan(folder / "far", "gateway", "--demo", sets=far) as elsewhere,
        twinspan(folder / "near", "up", "--demo", sets=near) as here,
    ):
        yield Site(Walk(here), elsewhere)


def test_the_devices_of_the_edge_are_things_elsewhere(site: Site) -> None:
    eventually(lambda: site.value(THERMOSTAT, "temperature"), what="a reading elsewhere")
    thing = site.far("GET", f"things/{THERMOSTAT}").json
    assert thing["policyId"] == "default:twinspan-devices"
    assert thing["attributes"]["kubeedge"]["model"] == "thermostat-model"
    assert site.here.ditto("GET", f"things/{THERMOSTAT}").status == 404  # not here


def test_a_wish_elsewhere_reaches_the_lamp_and_its_answer_comes_back(site: Site) -> None:
    eventually(lambda: site.value(LAMP, "brightness") == 80, what="the lamp's first report")
    site.want(LAMP, "brightness", 35)
    eventually(lambda: site.value(LAMP, "brightness") == 35, what="the lamp's report")
    assert site.desired("lamp")["brightness"] == "35"


def test_a_wish_of_the_resource_reaches_the_thing_elsewhere(site: Site) -> None:
    site.set_device("lamp", 1, "36")
    eventually(lambda: site.value(LAMP, "brightness", "desiredProperties") == 36, what="the wish")
    eventually(lambda: site.value(LAMP, "brightness") == 36, what="the lamp's report")


def test_the_remote_is_killed_and_nothing_is_lost(site: Site) -> None:
    site.want(LAMP, "on", True)
    eventually(lambda: site.desired("lamp")["on"] == "true", what="the wish in the resource")
    eventually(lambda: site.value(LAMP, "on") is True, what="the lamp's report")
    site.elsewhere.kill()
    eventually(lambda: not site.connected(), what="the cut noticed")
    site.set_device("lamp", 1, "37")  # Devices, nodes and the edge go on
    eventually(lambda: _reported(site, "lamp").get("brightness") == "37", what="DeviceStatus")
    site.elsewhere.start()
    eventually(site.connected, what="the remote taken up again")
    eventually(lambda: site.value(LAMP, "brightness", "desiredProperties") == 37, what="wish")
    eventually(lambda: site.value(LAMP, "brightness") == 37, what="report")
    site.want(LAMP, "brightness", 38)
    eventually(lambda: site.value(LAMP, "brightness") == 38, what="events come again")


def test_killed_in_the_middle_of_wishes_the_last_acknowledged_one_holds(site: Site) -> None:
    for value in range(40, 60):
        site.want(LAMP, "brightness", value)  # 204: durable there
    site.elsewhere.kill()
    site.elsewhere.start()
    eventually(lambda: site.desired("lamp")["brightness"] == "59", what="the last wish")
    eventually(lambda: site.value(LAMP, "brightness") == 59, what="the lamp's report")


def test_a_remote_that_is_set_back_to_a_backup_is_brought_forward(
    site: Site, tmp_path: Path
) -> None:
    site.elsewhere.stop()
    backup = tmp_path / "backup"
    shutil.copytree(site.elsewhere.data_dir, backup)
    site.elsewhere.start()
    eventually(site.connected, what="the remote taken up again")
    site.set_device("lamp", 1, "61")
    eventually(lambda: site.value(LAMP, "brightness") == 61, what="the lamp's report")
    site.elsewhere.stop()
    shutil.rmtree(site.elsewhere.data_dir)
    shutil.copytree(backup, site.elsewhere.data_dir)
    site.elsewhere.start()
    eventually(lambda: site.value(LAMP, "brightness") in (59, 61), what="things are back")
    agreed = eventually(lambda: _agreed(site), what="both sides agree")
    assert agreed == "59"  # the thing changed, the Device did not: the thing's value wins


def _agreed(site: Site) -> str | None:
    wanted = site.desired("lamp")["brightness"]
    same = str(site.value(LAMP, "brightness", "desiredProperties")) == wanted
    return wanted if same and str(site.value(LAMP, "brightness")) == wanted else None


def _reported(site: Site, name: str) -> dict[str, str]:
    status = site.here.kubectl_json("get", "devicestatus", name)["status"]
    return {twin["propertyName"]: twin["reported"]["value"] for twin in status["twins"]}


def test_doctor_says_how_the_remote_is(site: Site) -> None:
    eventually(site.connected, what="the remote taken up again")
    text = try_twinspan("doctor", "--data-dir", str(site.here.running.data_dir)).stdout
    assert re.search(r"ok +remote ditto: http://\S+ as nginx:twinspan: connected, 2 things", text)
    site.elsewhere.kill()
    eventually(lambda: not site.connected(), what="the cut noticed")
    text = try_twinspan("doctor", "--data-dir", str(site.here.running.data_dir)).stdout
    assert re.search(r"warn +remote ditto: http://\S+: away \(.+\), 2 things known", text)
    assert curl("GET", site.here.running.url("ops.http", "/readiness")).status == 200
    site.elsewhere.start()
