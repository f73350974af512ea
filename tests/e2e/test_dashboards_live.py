"""Every panel, asked of a real Prometheus that scraped a cloud and an edge under load and faults."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from proton import Message

from dashboards.source.boards import BOARDS
from dashboards.source.panels import Panel
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.dashboard_load import Site, answer, followers, scrapes, site
from tests.otlp_receiver import a_collector
from tests.process import eventually
from tests.prometheus_server import ask_range, prometheus_with
from tests.promql import filled
from tests.walk import DEMO_DEVICE, Lines, curl, in_thread

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

GRAFANA = {"__rate_interval": "10s", "__range": "1m", "__interval": "1s"}
TURNS, MOST_TURNS = 4, 30
JOBS = {"twinspan", "twinspan-edge", "edge-cadvisor", "edge-probes"}
REPLIES = f"command_response/{DEMO_DEVICE.tenant}/live"
LATE = 45.0


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of one panel."""

    board: str
    panel: Panel
    expr: str
    legend: str

    def __str__(self) -> str:
        return f"{self.board}: {self.panel.title}: {self.expr}"


ALL = [
    Asked(board.name, panel, filled(expr, GRAFANA), legend)
    for board in BOARDS
    for panel in board.panels
    for expr, legend in panel.series
]


class Scraped:
    """A Prometheus, and what its panels' queries gave since `began`."""

    def __init__(self, base: str) -> None:
        self.base = base
        self.began = time.time()

    def series(self, query: str) -> list[Any]:
        return ask_range(self.base, query, self.began, time.time())

    def answered(self) -> set[str]:
        """Jobs that have answered a scrape."""
        return {found["metric"]["job"] for found in self.series("up == 1")}

    def missing(self) -> list[str]:
        """Queries without data though they should have some after traffic."""
        due = [each for each in ALL if not (each.panel.quiet or each.panel.needs)]
        return [str(each) for each in due if not self.series(each.expr)]

    def until(self, check: Callable[[], bool], what: str) -> None:
        eventually(check, seconds=LATE, every=1.0, what=what)


async def load(live: Site, commands: Lines, is_enough: Callable[[], bool]) -> None:
    """Turns of traffic, with an application that takes the demo tenant's messages and sends commands."""
    async with live.cloud.application(prefetch=100) as app:
        tenant = DEMO_DEVICE.tenant
        for address in (f"telemetry/{tenant}", f"event/{tenant}", REPLIES):
            app.receive_from(address)
            await app.expect("attached")
        for turn in range(MOST_TURNS):
            for device in ("4711", "4712", "nobody"):
                address = f"command/{DEMO_DEVICE.tenant}/{device}"
                command = Message(body=b"on", address=address, subject="blink")
                app.send(f"command/{DEMO_DEVICE.tenant}", command, tag=f"{device}-{turn}")
            asked = Message(
                body=b"?",
                address=f"command/{DEMO_DEVICE.tenant}/4711",
                subject="state",
                id=f"ask-{turn}",
                reply_to=REPLIES,
            )
            app.send(f"command/{DEMO_DEVICE.tenant}", asked, tag=f"ask-{turn}")
            await in_thread(live.some_traffic, turn)
            await in_thread(answer, live, commands)
            if turn >= TURNS and await in_thread(is_enough):
                return


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("live")


@pytest.fixture(scope="module")
def live(folder: Path, containerd: Containerd) -> Iterator[Site]:
    with a_collector() as collector:
        sets = (
            "observe.traces.otlp.enabled=true",
            f"observe.traces.otlp.endpoint={collector.endpoint}",
        )
        with site(folder, containerd, *sets) as running:
            yield running


@pytest.fixture(scope="module")
def scraped(live: Site, folder: Path) -> Iterator[Scraped]:
    with prometheus_with(scrapes(live, folder), folder) as base:
        scraped = Scraped(base)
        scraped.until(lambda: scraped.answered() == JOBS, "answers of all targets")
        yield scraped


async def test_every_panel_has_data_after_load_and_faults(live: Site, scraped: Scraped) -> None:
    with followers(live) as commands:
        await load(live, commands, lambda: not scraped.missing())
    live.edge.kill()
    scraped.until(
        lambda: bool(scraped.series("twinspan_cloudhub_node_connected == 0")), "a node away"
    )
    assert "\n".join(await in_thread(scraped.missing)) == ""


def test_legends_and_columns_name_labels_that_the_data_has(scraped: Scraped) -> None:
    for each in ALL:
        series = scraped.series(each.expr)
        wanted = set(re.findall(r"{{(\w+)}}", each.legend))
        wanted |= {name for name in each.panel.columns if name.islower()}
        if series and wanted:
            assert any(wanted <= set(found["metric"]) for found in series), str(each)


def test_targets_answer_and_rules_are_evaluated(scraped: Scraped) -> None:
    targets = curl("GET", f"{scraped.base}/api/v1/targets").json["data"]["activeTargets"]
    assert scraped.answered() == JOBS, [target["lastError"] for target in targets]
    groups = curl("GET", f"{scraped.base}/api/v1/rules").json["data"]["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len(rules) > 40
    assert [rule["name"] for rule in rules if rule["health"] != "ok"] == []
