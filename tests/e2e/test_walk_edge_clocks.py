"""Clocks that jump an hour forth and back, at the edge, in the cloud: link, lease, tokens, order survive."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import pytest

from edge.identity import Identity
from tests.e2e.test_walk_edge import DEVICES, check_arrivals, revisions, send_everything
from tests.edge_walk import NAMESPACE, NODE, Edge, documents, join, knows, level, new_token
from tests.faketime import Clock, a_clock
from tests.ports import free_port
from tests.process import eventually, twinspan
from tests.walk import Walk, in_thread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

LINK = ("edge.hub.keepalive=1", "edge.hub.reconnect_cap=0.5")
HALF_AN_HOUR = 1_800.0


@dataclass(frozen=True, slots=True)
class Site:
    """A cloud and an edge, each with a clock of its own."""

    cloud: Walk
    edge: Edge
    clocks: dict[str, Clock]
    home: Path

    def is_lease_of_now(self) -> bool:
        return abs(self.lease_renewed() - time.time()) < HALF_AN_HOUR

    def lease_renewed(self) -> float:
        """When the node says that it has last renewed its lease, Unix seconds."""
        lease = self.cloud.kubectl_json("get", "lease", NODE, "-n", "kube-node-lease")
        return datetime.fromisoformat(lease["spec"]["renewTime"]).timestamp()

    def is_ready(self) -> bool:
        row = self.cloud.kubectl("get", "node", NODE, "--no-headers").split()
        return row[1] == "Ready"

    def restart(self, which: str) -> None:
        running = (self.cloud if which == "cloud" else self.edge).running
        running.kill()
        running.start()
        self.edge.wait_for_link(up=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("clocks")
    clocks = {which: a_clock(folder / f"{which}.clock") for which in ("cloud", "edge")}
    hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
    home = folder / "edge"
    with ExitStack() as up:
        prefix = clocks["cloud"].prefix
        running = up.enter_context(
            twinspan(folder / "cloud", "cloud", "--demo", sets=(hub,), prefix=prefix)
        )
        cloud = Walk(running)
        assert cloud.registry("POST", f"tenants/{NAMESPACE}").status == 201
        cloud.kubectl("apply", "-f", "-", stdin=json.dumps(documents()))
        said = join(cloud, home, new_token(cloud), "--node-name", NODE)
        assert said.startswith("0 "), said
        process = twinspan(home, "edge", "run", sets=LINK, prefix=clocks["edge"].prefix)
        edge = Edge(Walk(up.enter_context(process)))
        edge.wait_for_link(up=True)
        eventually(lambda: all(knows(edge, device) for device in DEVICES), what="the devices")
        yield Site(cloud, edge, clocks, home)


def join_late(site: Site, token: str, node: str) -> None:
    """Join with a token that was made before the cloud's clock jumped; who joins has that clock, too."""
    prefix = site.clocks["cloud"].prefix
    said = join(site.cloud, site.home.parent / node, token, "--node-name", node, prefix=prefix)
    assert said.startswith("0 "), said


@pytest.mark.parametrize("which", ["edge", "cloud"])
async def test_a_clock_that_jumps_an_hour_forth_and_back_hurts_nothing(
    site: Site, which: str
) -> None:
    clock, certificate = site.clocks[which], Identity(site.home).certificate
    before, since = certificate.read_bytes(), revisions(site.cloud)
    token = new_token(site.cloud)
    first = 100 if which == "edge" else 200
    for number, offset in enumerate(("+1h", "-1h", "+0")):
        clock.jump(offset)
        if offset == "-1h":
            await in_thread(site.restart, which)  # a new TLS handshake, by the clock that is off
        numbers = range(first + 3 * number, first + 3 * number + 3)
        await in_thread(send_everything, site.edge, numbers)
        for device in DEVICES:
            await in_thread(
                eventually, lambda d=device, n=numbers[-1]: level(site.cloud, d) == n, seconds=30.0
            )
        await in_thread(eventually, site.is_ready, seconds=30.0, what="the Node is Ready")
        if which == "cloud" and offset == "+1h":
            join_late(site, token, f"late-{number}")
    await check_arrivals(site.cloud, since, range(first, first + 9))
    assert certificate.read_bytes() == before
    # Every ten seconds: the one from before the last jump may still be there.
    await in_thread(eventually, site.is_lease_of_now, seconds=30.0, what="the Lease is renewed")


async def test_a_wish_of_before_a_jump_is_not_older_than_one_after_it(site: Site) -> None:
    path = f"things/{NAMESPACE}:meter-1/features/level/desiredProperties"
    for which in ("edge", "cloud"):
        for value, offset in ((1, "+1h"), (2, "-1h"), (3, "+0")):
            site.clocks[which].jump(offset)
            put = await in_thread(site.cloud.ditto, "PUT", path, data={"value": value})
            assert put.status in (201, 204)
            with site.edge.walk.subscribed(
                None, "-t", f"$hw/events/device/{NAMESPACE}/meter-1/twin/get/result"
            ) as local:

                def is_wished(value: int = value) -> bool:
                    site.edge.publish(f"$hw/events/device/{NAMESPACE}/meter-1/twin/get", "{}")
                    found = json.loads(local.message("twin").partition(" ")[2])
                    wish = found["twin"]["level"].get("expected") or {}
                    return bool(wish.get("value") == str(value))

                await in_thread(eventually, is_wished, seconds=20.0, what=f"{which} {offset}")
