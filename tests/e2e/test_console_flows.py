"""What operators do with the console, in a real browser against real processes."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.console_browser import browser, run_script
from tests.edge_walk import NAMESPACE, NODE, Edge, a_cloud, an_edge, free_port, join, new_token
from tests.process import eventually
from tests.walk import DEMO_DEVICE, Walk

pytestmark = pytest.mark.e2e

NUMBERS = itertools.count(31)
HOSTILE = {
    "html": '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>',
    "turned": "abc\u202egnp.exe\u2066",
    "control": "line\u0000one\u001b[31mred\u0007",
    "long": "evil" * 2_500,
    "<img src=x onerror=window.hacked=1>": "as a name",
    "e\u202evil": {"__proto__": {"hacked": 1}, "constructor": 2, "n" * 4_000: "a long name"},
}


class House:
    """A cloud and an edge of its own process."""

    def __init__(self, cloud: Walk, edge: Edge) -> None:
        self.cloud = cloud
        self.edge = edge
        self.base = cloud.running.url("ditto.http")

    def play(self, flow: str, **answers: object) -> None:
        named = {name.replace("_", " "): answer for name, answer in answers.items()}
        run_script("flows.mjs", flow, base=self.base, answers=named)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    browser()
    folder = tmp_path_factory.mktemp("console")
    http = f"ditto.http.bind=127.0.0.1:{free_port()}"
    with a_cloud(folder / "cloud", http) as cloud:
        joined = join(cloud, folder / "edge", new_token(cloud), "--node-name", NODE)
        assert joined.startswith("0"), joined
        _things(cloud)
        with an_edge(cloud, folder / "edge") as edge:
            yield House(cloud, edge)


def _things(cloud: Walk) -> None:
    for name, pressure in (("pump-1", 6), ("pump-2", 2)):
        attributes = {"kind": "pump", "pressure": pressure}
        made = cloud.ditto("PUT", f"things/find:{name}", data={"attributes": attributes})
        assert made.status == 201, made.body
    features = {
        "<b onclick=hacked=1>evil": {
            "properties": HOSTILE,
            "desiredProperties": {"html": "<b>x</b>"},
        }
    }
    thing = {"attributes": HOSTILE, "features": features}
    made = cloud.ditto("PUT", "things/evil:thing", data=thing)
    assert made.status == 201, made.body


def test_a_user_signs_in_and_out_and_an_operator_joins(house: House) -> None:
    house.play("sign-in")


def test_a_value_that_a_device_sends_is_seen_to_change(house: House) -> None:
    def upload() -> str:
        number = next(NUMBERS)
        answer = house.cloud.upload(
            DEMO_DEVICE, "telemetry", {"temp": number}, "-H", "qos-level: 1"
        )
        assert answer.status == 202
        return str(number)

    house.play("value", upload=upload)


def test_a_desired_property_goes_to_the_device_and_its_report_comes_back(house: House) -> None:
    def report() -> None:
        def wanted() -> bool:
            device = house.cloud.kubectl_json("-n", NAMESPACE, "get", "device", "meter-1")
            return bool(device["spec"]["properties"][0]["desired"]["value"] == "7")

        eventually(wanted)
        house.edge.report("meter-1", 7)

    house.play("desired", report=report)


def test_an_edit_that_meets_another_one_shows_both(house: House) -> None:
    def change() -> None:
        path = "things/org.acme:4711/attributes/location"
        assert house.cloud.ditto("PUT", path, data='"Theirs"').status in (201, 204)

    house.play("conflict", change_it_meanwhile=change)
    assert house.cloud.thing("org.acme:4711", "/attributes/location") == "Mine"


def test_things_are_found_by_words_by_rql_and_by_the_builder(house: House) -> None:
    house.play("search")


def test_a_command_is_followed_to_its_answer(house: House) -> None:
    with house.cloud.subscribed(DEMO_DEVICE, "-t", "command///req/#", "-q", "1") as device:

        def answer() -> None:
            topic, _, text = device.message("/dim").partition(" ")
            got = json.loads(text)
            correlation = {"correlation-id": got["headers"]["correlation-id"]}
            headers = {"content-type": "application/json", **correlation}
            reply = {**got, "headers": headers, "value": {"dimmed": 3}, "status": 200}
            to = f"command///res/{topic.split('/')[4]}/200"
            kind = "?content-type=application%2Fvnd.eclipse.ditto%2Bjson"
            house.cloud.publish(DEMO_DEVICE, f"{to}/{kind}", json.dumps(reply), "-q", "1")

        house.play("command", answer=answer)


def test_strings_of_devices_are_shown_as_text_and_cut(house: House) -> None:
    patch = {"metadata": {"annotations": {"description": str(HOSTILE["html"])}}}
    house.cloud.kubectl(
        "-n", NAMESPACE, "patch", "device", "meter-1", "--type=merge", "-p", json.dumps(patch)
    )
    house.play("hostile")


def test_the_keyboard_is_enough(house: House) -> None:
    house.play("keyboard")


def test_a_node_is_seen_to_go_offline_and_to_come_back(house: House) -> None:
    started = threading.Event()

    def kill() -> None:
        house.edge.running.kill()

    def start() -> None:
        house.edge.running.start()
        started.set()

    house.play("node", kill_the_edge=kill, start_it_again=start)
    assert started.is_set()


def test_a_lost_gateway_is_told_and_found_again(house: House) -> None:
    def stop() -> None:
        house.cloud.running.stop()

    def start() -> None:
        house.cloud.running.start()

    house.play("lost", stop_the_gateway=stop, start_it_again=start)


VIEWS = (
    ". things things/find:pump-1 things/find:pump-1?tab=attributes things/find:pump-1?tab=history "
    "things/find:pump-1?tab=policy things/find:pump-1?tab=message commands connections "
    "connections/hono-connection-for-c2e connections/hono-connection-for-c2e?tab=metrics fleet fleet/edge-1 "
    "devices devices/plant/meter-1 discovered workloads tail registry registry/DEFAULT_TENANT "
    "registry/DEFAULT_TENANT/4711 plots nowhere"
)


def test_every_view_is_accessible_in_both_themes_and_fits_a_narrow_screen(house: House) -> None:
    run_script("views.mjs", "outside", base=house.base, VIEWS=".")
    run_script("views.mjs", "inside", base=house.base, VIEWS=VIEWS)


def test_screenshots_are_kept_where_they_are_wanted(house: House, tmp_path: Path) -> None:
    run_script(
        "views.mjs", "outside", base=house.base, VIEWS=".", TWINSPAN_SCREENSHOTS=str(tmp_path)
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "sign-in-dark-360.png" in names
    assert len(names) == 6
