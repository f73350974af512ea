"""What the fake CRI server holds, and how it shows it."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from cri_api.v1 import api_pb2 as pb


@dataclass(frozen=True, slots=True)
class Run:
    """What one start of a container does; without an exit code it runs until it is stopped."""

    exit_code: int | None = None
    lines: tuple[str, ...] = ()
    seconds: float = 0.0
    reason: str = ""
    start_error: str = ""
    stop_code: int = 137


@dataclass(frozen=True, slots=True)
class Exec:
    """What a command answers, after so many seconds."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class RemoteImage:
    """An image that can be pulled."""

    size: int = 1_000
    credentials: tuple[str, str] | None = None
    uid: int | None = None


@dataclass
class FakeSandbox:
    id: str
    config: pb.PodSandboxConfig
    created_at: int
    is_ready: bool = True
    ip: str = ""


@dataclass
class FakeContainer:
    id: str
    sandbox: FakeSandbox
    config: pb.ContainerConfig
    status: pb.ContainerStatus
    run: Run = field(default_factory=Run)
    log: IO[bytes] | None = None
    timer: asyncio.TimerHandle | None = None

    @property
    def is_running(self) -> bool:
        return self.status.state == pb.CONTAINER_RUNNING


def make_image(name: str, remote: RemoteImage) -> pb.Image:
    hexed = name.encode().hex()[-64:].rjust(64, "0")
    return pb.Image(
        id=f"sha256:{hexed}",
        repo_tags=[name],
        repo_digests=[f"{name.rpartition(':')[0]}@sha256:{hexed}"],
        size=remote.size,
        uid=None if remote.uid is None else pb.Int64Value(value=remote.uid),
    )


def sandbox_status(sandbox: FakeSandbox) -> pb.PodSandboxStatus:
    return pb.PodSandboxStatus(
        id=sandbox.id,
        metadata=sandbox.config.metadata,
        state=pb.SANDBOX_READY if sandbox.is_ready else pb.SANDBOX_NOTREADY,
        created_at=sandbox.created_at,
        network=pb.PodSandboxNetworkStatus(ip=sandbox.ip),
        labels=sandbox.config.labels,
        annotations=sandbox.config.annotations,
    )


def listed(container: FakeContainer, image_id: str) -> pb.Container:
    status = container.status
    return pb.Container(
        id=container.id,
        pod_sandbox_id=container.sandbox.id,
        metadata=status.metadata,
        image=container.config.image,
        image_ref=image_id,
        state=status.state,
        created_at=status.created_at,
        labels=status.labels,
        annotations=status.annotations,
    )


def open_log(container: FakeContainer) -> None:
    if container.status.log_path:
        path = Path(container.status.log_path)
        path.parent.mkdir(parents=True, exist_ok=True)
        container.log = path.open("ab")


def has_labels(labels: Mapping[str, str], wanted: Mapping[str, str]) -> bool:
    return all(labels.get(key) == value for key, value in wanted.items())
