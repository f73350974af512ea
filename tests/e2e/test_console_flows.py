"""What operators do with the console, in a real browser against real processes."""

from __future__ import annotations

import itertools
import json
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from edge.pods.mounts import Mounts
from tests.console_browser import browser, run_script
from tests.containerd import Containerd, running_containerd
from tests.edge_walk import LINK, NAMESPACE, NODE, Edge, a_cloud, join, new_token, run_in
from tests.pods_e2e import settings
from tests.ports import free_port
from tests.process import Twinspan, eventually
from tests.walk import DEMO_DEVICE, Device, Walk

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
    """A cloud and an edge of its own process, whose mapper sees made-up devices; Pods where they can run."""

    def __init__(self, cloud: Walk, edge: Edge, containerd: Containerd | None) -> None:
        self.cloud = cloud
        self.edge = edge
        self.containerd = containerd
        self.base = cloud.running.url("ditto.http")

    def play(self, flow: str, *, script: str = "flows.mjs", **answers: object) -> None:
        named = {name.replace("_", " "): answer for name, answer in answers.items()}
        run_script(script, flow, base=self.base, answers=named)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    browser()
    folder = tmp_path_factory.mktemp("console")
    http = f"ditto.http.bind=127.0.0.1:{free_port()}"
    with ExitStack() as stack:
        rig: Containerd | None = None
        with suppress(pytest.skip.Exception):
            rig = stack.enter_context(running_containerd())
            stack.callback(Mounts().clear, folder)
        tunnel = f"127.0.0.1:{free_port()}"
        binds = (http, f"cloud.stream.tunnel_bind={tunnel}")
        cloud = stack.enter_context(a_cloud(folder / "cloud", *binds))
        joined = join(cloud, folder / "edge", new_token(cloud), "--node-name", NODE)
        assert joined.startswith("0"), joined
        _things(cloud)
        yield House(cloud, stack.enter_context(_edge(folder, rig, tunnel)), rig)


@contextmanager
def _edge(folder: Path, rig: Containerd | None, tunnel: str) -> Iterator[Edge]:
    told = (f"edge.stream.server={tunnel}", *(settings(rig, folder) if rig else ()))
    sets = (*LINK, *told, 'edge.mappers.always=["modbus"]')
    running = Twinspan(folder / "edge", ("edge", "run"), sets)
    running.module = "tests.seen_core"
    try:
        edge = Edge(Walk(running.start()))
        edge.wait_for_link(up=True)
        yield edge
    finally:
        running.stop()


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


def test_a_discovered_device_is_accepted_and_reports(house: House) -> None:
    house.play("accept", script="operations.mjs")


def test_messages_are_seen_as_they_pass_filtered_paused_and_held_down(house: House) -> None:
    def send(*lines: str, to: str = "telemetry") -> None:
        words = ("-q", "1", "-t", to, "-l")
        command = house.cloud.mqtt("mosquitto_pub", DEMO_DEVICE, *words)
        run_in((), command, "".join(f"{line}\n" for line in lines))

    def both() -> None:
        send('{"fourth":4}')
        send("door opened", to="event/?content-type=text%2Fplain")

    house.play(
        "tail",
        script="operations.mjs",
        send_telemetry=lambda: send('{"first":1}'),
        send_what_nobody_sees=lambda: send('{"second":2}'),
        send_what_is_seen=lambda: send('{"third":3}'),
        send_both_kinds=both,
        send_a_flood=lambda: send(*(str(number) for number in range(200))),
    )


def test_tenants_devices_and_credentials_are_made_changed_and_deleted(house: House) -> None:
    till = Device("shop", "till-1", "till", "open sesame")

    def log_in() -> str:
        return str(house.cloud.upload(till, "event", {"sold": 1}).status)

    def change() -> None:
        meanwhile = {"enabled": True, "ext": {"theirs": 1}}
        assert house.cloud.registry("PUT", "devices/shop/till-1", data=meanwhile).status == 204

    house.play(
        "registry", script="operations.mjs", log_in=log_in, change_the_device_meanwhile=change
    )


def test_a_connection_is_closed_opened_and_its_log_read(house: House) -> None:
    def upload() -> None:
        qos = ("-H", "qos-level: 1")
        assert house.cloud.upload(DEMO_DEVICE, "telemetry", {"temp": 1}, *qos).status == 202

    house.play("connections", script="operations.mjs", upload=upload)


TICKER = "n=0; while sleep 0.2; do n=$((n+1)); echo tick $n of the pod; done"


def test_pods_are_read_deleted_scaled_and_restarted(house: House) -> None:
    if house.containerd is None:
        pytest.skip("CONTAINERS ARE NOT TESTED: no containerd here")
    main = {
        "name": "main",
        "image": house.containerd.image("busybox"),
        "command": ["sh", "-c", TICKER],
    }
    labels = {"app": "ticker"}
    spec = {"terminationGracePeriodSeconds": 0, "nodeName": NODE, "containers": [main]}
    deployment = {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "ticker"},
        "spec": {
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": spec},
        },
    }
    house.cloud.kubectl("apply", "-f", "-", stdin=json.dumps(deployment))

    def restarted() -> str:
        found = house.cloud.kubectl_json("get", "deployment", "ticker")
        notes = found["spec"]["template"]["metadata"].get("annotations", {})
        return "yes" if "kubectl.kubernetes.io/restartedAt" in notes else json.dumps(notes)

    house.play("pods", script="operations.mjs", was_it_restarted=restarted)
    house.cloud.kubectl("delete", "deployment", "ticker", "--wait=false")


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


VIEWS = {
    "twins": ". things things/find:pump-1 things/find:pump-1?tab=attributes "
    "things/find:pump-1?tab=history things/find:pump-1?tab=policy things/find:pump-1?tab=message "
    "commands connections connections/hono-connection-for-c2e "
    "connections/hono-connection-for-c2e?tab=metrics",
    "edge and messages": "fleet fleet/edge-1 devices devices/plant/meter-1 discovered workloads tail "
    "registry registry/DEFAULT_TENANT registry/DEFAULT_TENANT/4711 plots nowhere",
}


@pytest.mark.parametrize("views", VIEWS.values(), ids=VIEWS)
def test_every_view_is_accessible_in_both_themes_and_fits_a_narrow_screen(
    house: House, views: str
) -> None:
    run_script("views.mjs", "inside", base=house.base, VIEWS=views)


def test_the_page_before_sign_in_is_accessible_too(house: House) -> None:
    run_script("views.mjs", "outside", base=house.base, VIEWS=".")


def test_screenshots_are_kept_where_they_are_wanted(house: House, tmp_path: Path) -> None:
    run_script(
        "views.mjs", "outside", base=house.base, VIEWS=".", TWINSPAN_SCREENSHOTS=str(tmp_path)
    )
    names = sorted(path.name for path in tmp_path.iterdir())
    assert "sign-in-dark-360.png" in names
    assert len(names) == 6
