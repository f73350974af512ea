"""The rig itself: a containerd of a test's own, and what it leaves behind: nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import grpc
import pytest
from cri_api.v1 import api_pb2

from tests.containerd import Containerd, running_containerd
from tests.containerd import containerd as containerd
from tests.process import eventually


def _sandbox(name: str, logs: Path) -> api_pb2.PodSandboxConfig:
    return api_pb2.PodSandboxConfig(
        metadata=api_pb2.PodSandboxMetadata(name=name, uid=f"uid-{name}", namespace="default"),
        log_directory=str(logs),
        port_mappings=[api_pb2.PortMapping(container_port=80, host_port=0)],
        linux=api_pb2.LinuxPodSandboxConfig(),
    )


def _run(rig: Containerd, name: str, logs: Path) -> str:
    with rig.calls() as stub:
        config = _sandbox(name, logs)
        sandbox = stub.RunPodSandbox(api_pb2.RunPodSandboxRequest(config=config)).pod_sandbox_id
        container = stub.CreateContainer(
            api_pb2.CreateContainerRequest(
                pod_sandbox_id=sandbox,
                config=api_pb2.ContainerConfig(
                    metadata=api_pb2.ContainerMetadata(name="main"),
                    image=api_pb2.ImageSpec(image=rig.image()),
                    command=["sleep", "1000"],
                    log_path="main.log",
                ),
                sandbox_config=config,
            )
        ).container_id
        stub.StartContainer(api_pb2.StartContainerRequest(container_id=container))
        return str(container)


def test_a_container_survives_a_killed_containerd(containerd: Containerd, tmp_path: Path) -> None:
    container = _run(containerd, "survivor", tmp_path)
    containerd.restart(hard=True)
    with containerd.calls() as stub:
        state = stub.ContainerStatus(
            api_pb2.ContainerStatusRequest(container_id=container)
        ).status.state
    containerd.remove_pods()
    assert state == api_pb2.CONTAINER_RUNNING
    assert containerd.sandboxes() == []


def test_two_at_once_have_networks_of_their_own_and_leave_nothing(
    containerd: Containerd, tmp_path: Path
) -> None:
    with running_containerd() as other:
        _run(other, "other", tmp_path)
        assert other.subnet != containerd.subnet
        assert other.bridge in _interfaces()
        assert containerd.sandboxes() == []
        shims, folder, bridge = other.shims(), other.folder, other.bridge
        other.kill()
    assert len(shims) == 1
    assert other.shims() == []
    assert not folder.exists()
    assert bridge not in _interfaces()


def _interfaces() -> set[str]:
    return {name for _, name in socket.if_nameindex()}


def test_private_images_ask_for_credentials(containerd: Containerd) -> None:
    with pytest.raises(grpc.RpcError, match="401 Unauthorized"):
        containerd.pull("private/busybox")


def test_what_a_killed_run_left_is_ended_by_the_next(tmp_path: Path) -> None:
    """A child takes a number, starts a container and dies; who takes the number next clears it away."""
    with running_containerd() as first:  # so that the numbers are known
        program = (
            "import os, pathlib\n"
            "from tests.containerd import running_containerd\n"
            "from tests.integration.test_cri_rig import _run\n"
            "with running_containerd() as rig:\n"
            f"    _run(rig, 'left', pathlib.Path({str(tmp_path)!r}))\n"
            "    print(rig.folder, len(rig.shims()), flush=True)\n"
            "    os._exit(1)\n"
        )
        done = subprocess.run(
            [sys.executable, "-c", program], capture_output=True, text=True, check=False
        )
        folder, _, shims = done.stdout.strip().partition(" ")
        assert shims == "1", done.stderr
        left = Containerd(Path(folder), first.registry, 0)
        with running_containerd():
            eventually(lambda: not left.shims() and not left.folder.exists())
