"""The pages of documentation that users follow, run as they stand."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from edge.pods.mounts import Mounts
from tests import process, tour
from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.kubectl import find_kubectls
from tests.pods_e2e import settings

DOCS = Path(__file__).parents[2] / "docs"

pytestmark = pytest.mark.e2e


def hosts_of(running: process.Twinspan) -> dict[str, str]:
    return {
        "TWINSPAN__DATA_DIR": str(running.data_dir),
        "OPS": running.url("ops.http"),
        "REGISTRY": running.url("hono.registry"),
        "HTTP_ADAPTER": running.url("hono.http"),
        "DITTO": running.url("ditto.http"),
        "MQTT_HOST": "127.0.0.1",
        "MQTT_PORT": str(running.port("hono.mqtt")),
        "NORTHBOUND": running.endpoints["northbound.amqp"],
    }


def test_the_cloud2edge_tour_works_as_it_is_written(tmp_path: Path) -> None:
    for name in ("curl", "mosquitto_pub", "mosquitto_sub"):
        process.tool(name)
    folder = tmp_path / "tour"
    folder.mkdir()
    with process.twinspan(tmp_path / "data", "gateway", "--demo") as running:
        ran = tour.run_page(
            DOCS / "tour-cloud2edge.md", hosts_of(running), folder, os.environ["PATH"]
        )
    assert ran >= 12


def test_the_readmes_five_minutes_work_as_they_are_written(tmp_path: Path) -> None:
    assert run_the_readme(tmp_path) >= 6


def test_the_readmes_containers_run_as_it_is_written(
    tmp_path: Path, containerd: Containerd
) -> None:
    try:
        told = settings(containerd, tmp_path, enabled="auto")
        assert run_the_readme(tmp_path, *told, has=("containers",)) >= 7
    finally:
        Mounts().clear(tmp_path)


def run_the_readme(tmp_path: Path, *sets: str, has: tuple[str, ...] = ()) -> int:
    for name in ("curl", "mosquitto_pub", "mosquitto_sub"):
        process.tool(name)
    folder = tmp_path / "tour"
    folder.mkdir()
    (folder / "bin").mkdir()
    (folder / "bin" / "kubectl").symlink_to(next(iter(find_kubectls().values())))
    programs = (str(folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"])
    with process.twinspan(tmp_path / "data", "up", "--demo", sets=sets) as running:
        path = os.pathsep.join(programs)
        return tour.run_page(DOCS.parent / "README.md", hosts_of(running), folder, path, has)
