"""CloudCore on a cluster that is not its own: a second one, on the API of the first."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.edge_walk import NAMESPACE, NODE, a_cloud, an_edge, join, level
from tests.ports import free_port
from tests.process import eventually, twinspan
from tests.walk import Walk, curl, try_twinspan, twinspan_cli

pytestmark = pytest.mark.e2e


def test_a_node_of_a_second_cloudcore_is_one_of_the_cluster(tmp_path: Path) -> None:
    with a_cloud(tmp_path / "one") as one:
        kubeconfig = one.running.data_dir / "kube" / "kubeconfig"
        said = twinspan_cli("cloud", "install-crds", "--kubeconfig", str(kubeconfig))
        assert "devices.devices.kubeedge.io served" in said
        hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
        words = ("cloud", "--kubeconfig", str(kubeconfig))
        with twinspan(tmp_path / "two", *words, sets=(hub,)) as running:
            two = Walk(running)
            assert "kube.https" not in running.endpoints
            token = twinspan_cli("token", "--kubeconfig", str(kubeconfig)).strip()
            assert join(two, tmp_path / "edge", token, "--node-name", NODE).startswith("0 ")
            with an_edge(two, tmp_path / "edge") as edge:
                edge.report("meter-1", 1)
                eventually(lambda: level(one, "meter-1") == 1, what="the report at the leader")
                wish = f"/api/2/things/{NAMESPACE}:meter-1/features/level/desiredProperties/value"
                url = one.running.url("ditto.http", wish)
                assert curl("PUT", url, user="ditto:ditto", data=7).status in (201, 204)
                eventually(lambda: '"7"' in _expected(one), what="the wish in the Device")

                running.kill()
                edge.report("meter-1", 2)
                running.start()
                edge.wait_for_link(up=True)
                eventually(lambda: level(one, "meter-1") == 2, what="the report after the crash")
                row = one.kubectl("get", "node", NODE, "--no-headers").split()
                assert row[1] == "Ready"


def _expected(cloud: Walk) -> str:
    found = json.loads(cloud.kubectl("get", "device", "meter-1", "-n", NAMESPACE, "-o", "json"))
    return json.dumps(found["spec"]["properties"])


def test_a_cluster_that_is_away_is_waited_for(tmp_path: Path) -> None:
    with a_cloud(tmp_path / "one", f"kube.https.bind=127.0.0.1:{free_port()}") as one:
        kubeconfig = one.running.data_dir / "kube" / "kubeconfig"
        with twinspan(tmp_path / "two", "cloud", "--kubeconfig", str(kubeconfig)) as running:
            ready = running.url("ops.http", "/readiness")
            assert eventually(lambda: curl("GET", ready).status == 200)
            one.running.kill()
            answer = eventually(lambda: not_ready(ready), seconds=30, what="not ready")
            assert "cause" in answer
            one.running.start()
            eventually(lambda: curl("GET", ready).status == 200, seconds=60, what="ready again")


def not_ready(url: str) -> str:
    """What the answer says that one is not; nothing when it is."""
    answer = curl("GET", url)
    return answer.body if answer.status == 503 else ""


def test_a_way_to_no_cluster_is_explained(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text("clusters: []\n")
    done = try_twinspan("cloud", "--kubeconfig", str(file), "--data-dir", str(tmp_path / "x"))
    assert done.returncode == 2
    assert str(file) in done.stderr
    assert "expected a kubeconfig" in done.stderr
    assert "Traceback" not in done.stderr


def test_the_definitions_can_be_had_as_a_manifest() -> None:
    assert "kind: CustomResourceDefinition" in twinspan_cli("cloud", "install-crds", "--print")
