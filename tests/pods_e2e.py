"""A cluster of one edge with containers: cloud and EdgeCore in one process, their own containerd, kubectl.

`with pods_cluster(folder, containerd) as cluster:`; the containerd outlives the process, as in life.
"""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from edge.pods.mounts import Mounts
from tests.containerd import Containerd
from tests.edge_walk import LINK, join, new_token
from tests.kubectl import find_kubectls
from tests.ports import free_port
from tests.process import Twinspan, eventually, twinspan
from tests.walk import Walk

NODE = "edge-1"
RUN_SECONDS = 60.0


@dataclass
class PodsCluster:
    """What tests use."""

    process: Twinspan
    containerd: Containerd
    kubectl_path: Path
    folder: Path

    def kubectl(self, *arguments: str, stdin: str = "", is_ok: bool = True) -> str:
        """Run kubectl and return what it said."""
        environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(self.folder),
            "KUBECONFIG": str(self.process.data_dir / "kube" / "kubeconfig"),
        }
        done = subprocess.run(
            [str(self.kubectl_path), *arguments],
            input=stdin,
            env=environment,
            capture_output=True,
            text=True,
            timeout=RUN_SECONDS,
            check=False,
        )
        if is_ok and done.returncode:
            pytest.fail(f"kubectl {' '.join(arguments)}: {done.stdout}{done.stderr}")
        return done.stdout + done.stderr

    def apply(self, manifest: str) -> None:
        """Apply; `IMAGE` stands for busybox of the test's registry."""
        text = manifest.replace("IMAGE", self.containerd.image("busybox"))
        self.kubectl("apply", "-f", "-", stdin=text)

    def get(self, *what: str) -> Any:
        """Return an object, {} where it is not there."""
        said = self.kubectl("get", *what, "-o", "json", "--ignore-not-found")
        return json.loads(said) if said.strip() else {}

    def phase(self, pod: str) -> str:
        return str(self.get("pod", pod).get("status", {}).get("phase", ""))

    def status(self, pod: str, at: int = 0) -> Any:
        """Return the status of a Pod's container."""
        rows = self.get("pod", pod).get("status", {}).get("containerStatuses", [])
        return rows[at] if len(rows) > at else {}

    def until(self, check: Callable[[], object], what: str = "", seconds: float = 60.0) -> None:
        """Wait until `check`; on failure tell all that may help."""
        deadline = time.monotonic() + seconds
        while not check():
            if time.monotonic() > deadline:
                pods = self.kubectl("get", "pods", "-A", "-o", "wide", is_ok=False)
                events = self.kubectl("get", "events", "-A", is_ok=False)
                pytest.fail(f"{what}\n{pods}\n{events}\n{self.process.text()}")
            time.sleep(0.1)

    def until_running(self, *pods: str, seconds: float = 60.0) -> None:
        for pod in pods:
            self.until(lambda p=pod: self.phase(p) == "Running", f"{pod} runs", seconds)  # type: ignore[misc]

    def until_gone(self, pod: str, seconds: float = 60.0) -> None:
        self.until(lambda: not self.get("pod", pod), f"{pod} is gone", seconds)

    def until_clean(self) -> None:
        """Wait until containerd has nothing any more."""
        rig = self.containerd
        self.until(lambda: not rig.sandboxes() and not rig.containers(), "nothing is left")

    def condition(self, kind: str = "Ready") -> Any:
        """Return a condition of the Node."""
        rows = self.get("node", NODE).get("status", {}).get("conditions", [])
        return next((row for row in rows if row["type"] == kind), {})


def settings(containerd: Containerd, folder: Path, *, enabled: str = "on") -> tuple[str, ...]:
    """Return what EdgeCore is to be told."""
    return (
        f"edge.node_name={NODE}",
        f"edge.workloads.enabled={enabled}",
        f"edge.workloads.runtime={containerd.endpoint}",
        f"edge.workloads.cgroup_root={containerd.cgroup_root}",
        f"edge.workloads.logs={folder / 'pod-logs'}",
        "edge.workloads.bind=127.0.0.1:0",
    )


def a_kubectl() -> Path:
    found = find_kubectls()
    if not found:
        pytest.skip("no kubectl: install the group `peers`")
    return next(iter(found.values()))


@contextmanager
def pods_pair(folder: Path, containerd: Containerd) -> Iterator[tuple[PodsCluster, Twinspan]]:
    """Run a cloud and an edge that has joined it as two processes; the cluster's process is the cloud."""
    binary = a_kubectl()
    told = (*settings(containerd, folder), *LINK)
    hub = f"cloud.hub.wss.bind=127.0.0.1:{free_port()}"
    try:
        with twinspan(folder / "cloud", "cloud", "--demo", sets=(hub,)) as cloud:
            walk = Walk(cloud)
            cluster = PodsCluster(cloud, containerd, binary, folder)
            data = folder / "edge"
            said = join(walk, data, new_token(walk), "--node-name", NODE)
            assert said.startswith("0 "), said
            with twinspan(data, "edge", "run", sets=told) as edge:
                eventually(
                    lambda: cluster.condition().get("status") == "True", seconds=90, what="Ready"
                )
                yield cluster, edge
    finally:
        Mounts().clear(folder)


@contextmanager
def pods_cluster(
    folder: Path, containerd: Containerd, *sets: str, enabled: str = "on"
) -> Iterator[PodsCluster]:
    """Run the cluster for the length of the block; the Node is ready when it begins."""
    binary = a_kubectl()
    data = folder / "data"
    told = (*settings(containerd, folder, enabled=enabled), *sets)
    try:
        with twinspan(data, "up", sets=told) as process:
            cluster = PodsCluster(process, containerd, binary, folder)
            eventually(
                lambda: cluster.condition().get("status") == "True", seconds=60, what="Ready"
            )
            yield cluster
    finally:
        Mounts().clear(folder)  # Pods, and so their volumes, outlive the process
