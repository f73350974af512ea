"""Kubelets through `nodes/proxy`: a made-up one at its own address, and one at an edge by its tunnel."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from tests.integration.test_kube_podstreams import a_kubelet, session
from tests.integration.test_stream_kubectl import a_pod, kubectl
from tests.integration.test_stream_tunnel import a_rig
from tests.kube_server import kube_server
from tests.process import tool

PROXY = "/api/v1/nodes/node-1/proxy"


async def test_a_kubelet_answers_at_its_own_address(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
    ):
        async with http.get(f"{PROXY}/containerLogs/default/p/c?tailLines=2") as answer:
            assert (answer.status, await answer.text()) == (200, "one\ntwo\n")
        (head,) = kubelet.heads
        assert head.startswith("GET /containerLogs/default/p/c?tailLines=2 HTTP/1.1")
        kubelet.refusal = "no such thing"
        async with http.get(f"{PROXY}/pods") as answer:
            assert (answer.status, await answer.text()) == (400, "no such thing")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", f"{PROXY}/run/default/p/c", 405),
        ("GET", f"{PROXY}/exec/default/p/c?command=ls", 403),
        ("GET", f"{PROXY}/other", 404),
        ("GET", "/api/v1/nodes/none/proxy/pods", 404),
        ("GET", "/api/v1/nodes/node-1:22/proxy/pods", 400),
    ],
)
async def test_a_kubelet_is_not_asked_for_more(
    tmp_path: Path, method: str, path: str, status: int
) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
        http.request(method, path) as answer,
    ):
        assert answer.status == status
        assert (await answer.json())["kind"] == "Status"
        assert kubelet.heads == []


async def test_who_has_no_right_is_refused(tmp_path: Path) -> None:
    async with (
        kube_server(tmp_path) as server,
        a_kubelet(server, tmp_path) as kubelet,
        session(server) as http,
        http.get(f"{PROXY}/pods", headers={"Impersonate-User": "jane"}) as answer,
    ):
        assert answer.status == 403
        assert 'cannot get resource "nodes/proxy"' in (await answer.json())["message"]
        assert kubelet.heads == []


async def test_kubectl_reads_the_figures_of_an_edge(tmp_path: Path) -> None:
    async with a_rig(tmp_path) as rig:
        await a_pod(rig, "p1")
        client = kubectl(rig, tmp_path)
        base = "/api/v1/nodes/edge-1/proxy"
        told = await client.ok("get", "--raw", f"{base}/stats/summary")
        assert json.loads(told.out) == {"node": 1}
        assert rig.kubelet.asked[-1] == ("/stats/summary", "")
        assert json.loads((await client.ok("get", "--raw", f"{base}/pods")).out) == {"node": 1}
        await client.ok("get", "--raw", f"{base}/containerLogs/default/p1/c?tailLines=5")
        assert rig.kubelet.asked[-1] == ("/containerLogs/default/p1/c", "tailLines=5")


def test_promtool_takes_the_scrape_configuration_of_the_documentation(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "edge-metrics.md").read_text()
    config = page.partition("```yaml\n")[2].partition("```")[0]
    for name in ("twinspan.token", "twinspan-ca.crt"):
        (tmp_path / name).touch()
    (tmp_path / "prometheus.yml").write_text(config.replace("/etc/prometheus", str(tmp_path)))
    done = subprocess.run(
        [tool("promtool"), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
