"""Cloud and edge as two processes with a bad network between them: nothing is lost, in the end they agree."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import Any

import pytest

from tests.e2e.test_walk_edge import (
    DEVICES,
    check_arrivals,
    connected_nodes,
    revisions,
    send_everything,
)
from tests.edge_walk import NAMESPACE, NODE, Edge, a_cloud, an_edge, join, level, new_token
from tests.lossy import CUT, DOWN, FINE, OUTSIDE, ROUGH, UP, LossyNetwork, a_lossy_network
from tests.ports import free_port
from tests.process import eventually
from tests.walk import Walk, in_thread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

BACK_SECONDS = 20.0
"""How long the link may take to come back once packets pass again; 2 s when the machine is idle."""


@dataclass(frozen=True, slots=True)
class Site:
    """A cloud, an edge, and what is between them."""

    cloud: Walk
    edge: Edge
    network: LossyNetwork

    def wish(self, device: str, value: int) -> None:
        """Want a level of a device, as an application does."""
        path = f"things/{NAMESPACE}:{device}/features/level/desiredProperties"
        assert self.cloud.ditto("PUT", path, data={"value": value}).status in (201, 204)

    def wished(self, device: str) -> str:
        """What the edge's twin wants."""
        reply = f"$hw/events/device/{NAMESPACE}/{device}/twin/get"
        words = ("-t", reply, "-e", f"{reply}/result", "-m", "{}", "-W", "5")
        command = [*self.edge.prefix, *self.edge.walk.mqtt("mosquitto_rr", None, *words)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=15, check=False)
        twin: Any = json.loads(done.stdout or "{}").get("twin", {}).get("level", {})
        return str((twin.get("expected") or {}).get("value", ""))

    def both_ends_agree(self, wish: int, said: int) -> bool:
        return all(
            self.wished(device) == str(wish) and level(self.cloud, device) == said
            for device in DEVICES
        )

    def both_ends_are_connected(self) -> bool:
        return self.edge.link_is_up() and connected_nodes(self.cloud) == 1

    def comes_back(self) -> None:
        eventually(self.both_ends_are_connected, seconds=BACK_SECONDS, what="the link is back")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("lossy")
    with ExitStack() as up:
        network = up.enter_context(a_lossy_network())
        hub = f"cloud.hub.wss.bind={OUTSIDE}:{free_port()}"  # kept over a restart
        sets = (hub, f"cloud.hub.https.bind={OUTSIDE}:0", "cloud.hub.keepalive_timeout=4")
        words = ("--advertise", OUTSIDE)
        cloud = up.enter_context(a_cloud(folder / "cloud", *sets, words=words))
        network.weather = ROUGH  # joining has to stand it too
        token = new_token(cloud)
        said = join(cloud, folder / "edge", token, "--node-name", NODE, prefix=network.inside)
        assert said.startswith("0 "), said
        edge = up.enter_context(an_edge(cloud, folder / "edge", prefix=network.inside))
        yield Site(cloud, edge, network)
        network.weather = FINE


@pytest.fixture(autouse=True)
def _fine_in_the_end(site: Site) -> Iterator[None]:
    yield
    site.network.weather = FINE
    site.comes_back()


async def test_over_a_lossy_late_line_everything_arrives_in_order_and_twins_agree(
    site: Site,
) -> None:
    since = revisions(site.cloud)
    site.network.weather = ROUGH
    for number in (1, 2, 3):
        for device in DEVICES:
            await in_thread(site.wish, device, 500 + number)
        await in_thread(send_everything, site.edge, range(number * 2 - 1, number * 2 + 1))
    for device in DEVICES:
        await in_thread(eventually, lambda device=device: site.wished(device) == "503")

    await check_arrivals(site.cloud, since, range(1, 7))
    assert min(site.network.seen.values()) > 0, site.network.seen


async def test_a_line_that_breaks_again_and_again_loses_nothing(site: Site) -> None:
    since = revisions(site.cloud)
    for round_ in range(3):
        site.network.weather = CUT
        await in_thread(send_everything, site.edge, range(10 + 2 * round_, 12 + 2 * round_))
        await in_thread(site.edge.wait_for_link, up=False)
        site.network.weather = ROUGH
        await in_thread(site.comes_back)
    await check_arrivals(site.cloud, since, range(10, 16))


@pytest.mark.parametrize("direction", [UP, DOWN])
async def test_a_half_open_line_is_noticed_at_both_ends(site: Site, direction: str) -> None:
    since = revisions(site.cloud)
    first = 20 if direction == UP else 30
    site.network.weather = replace(FINE, dead=frozenset((direction,)))
    await in_thread(send_everything, site.edge, range(first, first + 3))
    await in_thread(site.edge.wait_for_link, up=False)
    await in_thread(
        eventually, lambda: connected_nodes(site.cloud) == 0, what="CloudHub's end of the line"
    )
    site.network.weather = FINE
    await in_thread(site.comes_back)
    await check_arrivals(site.cloud, since, range(first, first + 3))


async def test_a_cloud_that_dies_behind_a_partition_is_found_again(site: Site) -> None:
    for device in DEVICES:
        await in_thread(site.wish, device, 600)
    since = revisions(site.cloud)
    site.network.weather = CUT
    await in_thread(send_everything, site.edge, range(40, 43))
    site.cloud.running.kill()
    await in_thread(site.cloud.running.start)
    for device in DEVICES:
        await in_thread(site.wish, device, 601)
        since[device] += 1
    site.network.weather = ROUGH
    await in_thread(site.comes_back)
    await in_thread(
        eventually, lambda: site.both_ends_agree(601, 42), seconds=40.0, what="the twins agree"
    )
