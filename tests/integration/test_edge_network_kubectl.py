"""Names and Services for Pods of a node, by kubectl, with and without the cloud: a real containerd."""

from __future__ import annotations

import errno
import json
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.network_space import ip
from tests.pods_e2e import PodsCluster, pods_cluster

WEB = """
apiVersion: v1
kind: Service
metadata: {name: web}
spec:
  selector: {app: web}
  ports: [{name: http, port: 80, targetPort: www}]
---
apiVersion: v1
kind: Service
metadata: {name: nodes}
spec:
  clusterIP: None
  selector: {app: web}
  ports: [{name: http, port: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: web-0, labels: {app: web}}
spec:
  hostname: first
  subdomain: nodes
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "mkdir /www; hostname > /www/index.html; exec httpd -f -p 8080 -h /www"]
    ports: [{name: www, containerPort: 8080}]
---
apiVersion: v1
kind: Pod
metadata: {name: client}
spec:
  terminationGracePeriodSeconds: 1
  containers:
  - name: c
    image: IMAGE
    command: [sh, -c, "trap 'exit 0' TERM; while true; do sleep 0.1; done"]
"""


def address(rig: Containerd) -> str:
    return f"169.254.21.{rig.slot}"


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    sets = (
        f"edge.workloads.cluster_dns={address(containerd)}",
        f"edge.network.pod_cidr={containerd.subnet}",
        f"kube.service_network=10.97.{containerd.slot}.0/24",
    )
    with pods_cluster(tmp_path_factory.mktemp("network"), containerd, *sets) as found:
        found.apply(WEB)
        found.until_running("web-0", "client")
        yield found
    assert address(containerd) not in ip("route", "show", "table", "local")


def said(cluster: PodsCluster, *command: str) -> str:
    return cluster.kubectl("exec", "client", "--", *command, is_ok=False)


def test_a_pod_finds_and_reaches_a_service(cluster: PodsCluster) -> None:
    vip = cluster.get("service", "web")["spec"]["clusterIP"]
    cluster.until(lambda: fetched(cluster, vip) == "first", "reached")
    assert vip in said(cluster, "nslookup", "-type=a", "web.default.svc.cluster.local")
    pod = cluster.get("pod", "web-0")["status"]["podIP"]
    for name in ("nodes", "first.nodes"):
        assert pod in said(cluster, "nslookup", "-type=a", f"{name}.default.svc.cluster.local")
    assert "NXDOMAIN" in said(cluster, "nslookup", "-type=a", "none.default.svc.cluster.local")
    assert f"nameserver {address(cluster.containerd)}" in said(cluster, "cat", "/etc/resolv.conf")


def fetched(cluster: PodsCluster, host: str) -> str:
    """Return the page's last line; names and wget of static programs need modules that are not there."""
    asked = f"printf 'GET / HTTP/1.0\\r\\n\\r\\n' | timeout 5 nc {host} 80"
    lines = said(cluster, "sh", "-c", asked).split()
    return lines[-1] if lines else ""


def test_the_node_itself_reaches_a_service(cluster: PodsCluster) -> None:
    vip = cluster.get("service", "web")["spec"]["clusterIP"]
    done = subprocess.run(
        ["curl", "-s", "--max-time", "5", f"http://{vip}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.strip() == "first"


def test_a_service_s_variables_are_in_its_pods(cluster: PodsCluster) -> None:
    cluster.apply("""
apiVersion: v1
kind: Pod
metadata: {name: told}
spec:
  restartPolicy: Never
  containers: [{name: c, image: IMAGE, command: [env]}]
""")
    cluster.until(lambda: cluster.phase("told") == "Succeeded", "told")
    vip = cluster.get("service", "web")["spec"]["clusterIP"]
    assert f"WEB_SERVICE_HOST={vip}" in cluster.kubectl("logs", "told")


def test_a_service_without_pods_refuses(cluster: PodsCluster) -> None:
    cluster.kubectl("create", "service", "clusterip", "empty", "--tcp=80:80")
    vip = cluster.get("service", "empty")["spec"]["clusterIP"]
    cluster.until(lambda: vip in ip("route", "show", "table", "local"), "its address")
    with socket.socket() as client:
        client.settimeout(5)
        assert client.connect_ex((vip, 80)) == errno.ECONNREFUSED


def test_a_pod_made_anew_is_found_at_its_new_address(cluster: PodsCluster) -> None:
    before = cluster.get("pod", "web-0")["status"]["podIP"]
    cluster.kubectl("delete", "pod", "web-0", "--now")
    cluster.until_gone("web-0")
    cluster.apply(WEB)
    cluster.until_running("web-0")
    cluster.until(lambda: cluster.get("pod", "web-0")["status"].get("podIP", before) != before)
    vip = cluster.get("service", "web")["spec"]["clusterIP"]
    cluster.until(lambda: fetched(cluster, vip) == "first", "reached again")


def test_doctor_sees_a_node_that_runs_pods(cluster: PodsCluster) -> None:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "gateway.cli", "doctor", "-o", "json"),
            *("--data-dir", str(cluster.process.data_dir)),
            *("--set", f"edge.workloads.runtime={cluster.containerd.endpoint}"),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    found = {row["check"]: row for row in json.loads(done.stdout)}
    assert found["container runtime"]["state"] == "ok"
    assert found["CRI"]["finding"].startswith("containerd ")
    assert found["cluster DNS and Services"]["state"] == "ok"
