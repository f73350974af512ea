"""A container runtime in memory: the port of edged, with names that are taken, and steps that can be cut.

`cut_at(n)` ends the process that asks at its n-th changing call, before or after the call did its work: it
calls `on_cut`, which is to cancel all of that process, and never answers. Only stubborn containers sleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace

from edge.pods.runtime import (
    CONTAINER_NAME,
    POD_NAME,
    POD_NAMESPACE,
    POD_UID,
    Auth,
    ContainerConfig,
    ContainerState,
    ContainerStats,
    FilesystemUsage,
    Image,
    LinuxResources,
    Ran,
    RuntimeAway,
    RuntimeFault,
    RuntimeInfo,
    RuntimeLacks,
    RuntimeNotFound,
    Sandbox,
    SandboxConfig,
    State,
)

SECOND = 1_000_000_000


@dataclass
class FakeRuntime:
    """What there is can be looked at and changed by tests; `clock` gives Unix seconds."""

    clock: Callable[[], float] = lambda: 1_000_000.0
    rooms: dict[str, Sandbox] = field(default_factory=dict)
    boxes: dict[str, ContainerState] = field(default_factory=dict)
    calls: list[str] = field(default_factory=list)
    """Calls that change something, in order: `start_container c`."""
    is_away: bool = False
    faults: dict[str, list[RuntimeFault]] = field(default_factory=dict)
    """Method -> faults of its next calls."""
    exits_at_once: dict[str, int] = field(default_factory=dict)
    """Container -> exit code of all its runs."""
    stubborn: set[str] = field(default_factory=set)
    """Containers that take all of their grace."""
    cut: int = -1
    cut_after: bool = False
    on_cut: Callable[[], object] = lambda: None
    changes: int = 0
    """Calls so far that change something."""
    address: str = "10.9.0."
    has_events: bool = False
    was_cut: asyncio.Event = field(default_factory=asyncio.Event)
    _next: int = 0

    # --- for tests ----------------------------------------------------------------------------

    def cut_at(self, number: int, *, after: bool) -> None:
        """Cut the `number`-th changing call from now on, before or after its work."""
        self.cut, self.cut_after, self.changes = number, after, 0

    def running(self, name: str) -> list[ContainerState]:
        found = (each for each in self.boxes.values() if each.name == name)
        return [each for each in found if each.state is State.RUNNING]

    def end(self, name: str, code: int = 0, *, reason: str = "") -> None:
        """Let the running container of a name end."""
        for each in self.running(name):
            self._exit(each.id, code, reason or ("Error" if code else "Completed"))

    def kill_sandboxes(self) -> None:
        """As a reboot does."""
        for each in list(self.rooms.values()):
            self.rooms[each.id] = replace(each, is_ready=False, ips=())
        for state in list(self.boxes.values()):
            if state.state is State.RUNNING:
                self._exit(state.id, 255, "Unknown")

    # --- ground -------------------------------------------------------------------------------

    def _id(self, kind: str) -> str:
        self._next += 1
        return f"{kind}{self._next}"

    def _stamp(self) -> int:
        self._next += 1
        return int(self.clock() * SECOND) + self._next

    async def _begin(self, method: str, what: str = "") -> None:
        await asyncio.sleep(0)
        if self.is_away:
            raise RuntimeAway("the runtime is away")
        if self.faults.get(method):
            raise self.faults[method].pop(0)
        if what:
            self.changes += 1
            if self.changes - 1 == self.cut and not self.cut_after:
                await self._die()
            self.calls.append(f"{method} {what}")

    async def _done(self) -> None:
        """The end of a changing call."""
        if self.changes - 1 == self.cut and self.cut_after:
            await self._die()

    async def _die(self) -> None:
        self.cut = -1
        self.was_cut.set()
        self.on_cut()
        await asyncio.Event().wait()

    def _exit(self, container_id: str, code: int, reason: str) -> None:
        self.boxes[container_id] = replace(
            self.boxes[container_id],
            state=State.EXITED,
            exit_code=code,
            reason=reason,
            finished_at=self._stamp(),
        )

    # --- the port -----------------------------------------------------------------------------

    async def sandbox_image(self) -> str:
        return "registry.k8s.io/pause:3.6"

    async def info(self) -> RuntimeInfo:
        await self._begin("info")
        return RuntimeInfo(
            name="fake", version="1.0", api_version="v1", is_ready=True, is_network_ready=True
        )

    async def run_sandbox(self, config: SandboxConfig, handler: str = "") -> str:
        await self._begin("run_sandbox", config.name)
        for each in self.rooms.values():
            if (each.uid, each.attempt) == (config.uid, config.attempt):
                raise RuntimeFault(f"failed to reserve sandbox name: reserved for {each.id}")
        made = self._id("s")
        labels = {
            POD_NAME: config.name,
            POD_NAMESPACE: config.namespace,
            POD_UID: config.uid,
            **config.labels,
        }
        self.rooms[made] = Sandbox(
            id=made,
            name=config.name,
            namespace=config.namespace,
            uid=config.uid,
            attempt=config.attempt,
            is_ready=True,
            created_at=self._stamp(),
            ips=(f"{self.address}{len(self.rooms) + 2}",),
            labels=labels,
            annotations=config.annotations,
        )
        await self._done()
        return made

    async def stop_sandbox(self, sandbox_id: str) -> None:
        await self._begin("stop_sandbox", sandbox_id)
        if sandbox_id in self.rooms:
            self.rooms[sandbox_id] = replace(self.rooms[sandbox_id], is_ready=False, ips=())
        for each in list(self.boxes.values()):
            if each.sandbox_id == sandbox_id and each.state is State.RUNNING:
                self._exit(each.id, 137, "Error")
        await self._done()

    async def remove_sandbox(self, sandbox_id: str) -> None:
        await self._begin("remove_sandbox", sandbox_id)
        self.rooms.pop(sandbox_id, None)
        for each in list(self.boxes.values()):
            if each.sandbox_id == sandbox_id:
                del self.boxes[each.id]
        await self._done()

    async def sandbox(self, sandbox_id: str) -> Sandbox:
        await self._begin("sandbox")
        if sandbox_id not in self.rooms:
            raise RuntimeNotFound(f"no sandbox {sandbox_id}")
        return self.rooms[sandbox_id]

    async def sandboxes(self) -> list[Sandbox]:
        await self._begin("sandboxes")
        return [replace(each, ips=()) for each in self.rooms.values()]

    async def create_container(
        self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig
    ) -> str:
        await self._begin("create_container", config.name)
        if not self.rooms[sandbox_id].is_ready:
            raise RuntimeFault("the sandbox is not running")
        uid = self.rooms[sandbox_id].uid
        for each in self.boxes.values():
            mine = (each.labels[POD_UID], each.name, each.attempt)
            if mine == (uid, config.name, config.attempt):
                raise RuntimeFault(f"failed to reserve container name: reserved for {each.id}")
        made = self._id("c")
        self.boxes[made] = ContainerState(
            id=made,
            sandbox_id=sandbox_id,
            name=config.name,
            attempt=config.attempt,
            state=State.CREATED,
            created_at=self._stamp(),
            image=config.user_image,
            image_ref=config.image,
            labels={CONTAINER_NAME: config.name, **self.rooms[sandbox_id].labels, **config.labels},
            annotations=config.annotations,
        )
        await self._done()
        return made

    async def start_container(self, container_id: str) -> None:
        name = self.boxes[container_id].name
        await self._begin("start_container", name)
        self.boxes[container_id] = replace(
            self.boxes[container_id], state=State.RUNNING, started_at=self._stamp()
        )
        if name in self.exits_at_once:
            code = self.exits_at_once[name]
            self._exit(container_id, code, "Error" if code else "Completed")
        await self._done()

    async def stop_container(self, container_id: str, grace_seconds: int) -> None:
        if container_id not in self.boxes:
            raise RuntimeNotFound(f"no container {container_id}")
        name = self.boxes[container_id].name
        await self._begin("stop_container", f"{name} {grace_seconds}")
        if name in self.stubborn:
            await asyncio.sleep(grace_seconds)
        if self.boxes[container_id].state is State.RUNNING:
            self._exit(container_id, 137 if name in self.stubborn else 143, "Error")
        await self._done()

    async def remove_container(self, container_id: str) -> None:
        await self._begin("remove_container", container_id)
        self.boxes.pop(container_id, None)
        await self._done()

    async def container(self, container_id: str) -> ContainerState:
        await self._begin("container")
        if container_id not in self.boxes:
            raise RuntimeNotFound(f"no container {container_id}")
        return self.boxes[container_id]

    async def containers(self) -> list[ContainerState]:
        await self._begin("containers")
        return [
            replace(each, started_at=0, finished_at=0, exit_code=0, reason="")
            for each in self.boxes.values()
        ]

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        await self._begin("update_resources", container_id)

    async def reopen_log(self, container_id: str) -> None:
        await self._begin("reopen_log", container_id)

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout_seconds: float
    ) -> Ran:
        await self._begin("exec_sync", container_id)
        return Ran(stdout=b"", stderr=b"", exit_code=0)

    async def exec_url(
        self,
        container_id: str,
        command: Sequence[str],
        *,
        stdin: bool,
        stdout: bool,
        stderr: bool,
        tty: bool,
    ) -> str:
        raise RuntimeLacks("no streams")

    async def attach_url(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str:
        raise RuntimeLacks("no streams")

    async def port_forward_url(self, sandbox_id: str, ports: Sequence[int]) -> str:
        raise RuntimeLacks("no streams")

    async def container_stats(self) -> list[ContainerStats]:
        return []

    async def events(self) -> AsyncIterator[str]:
        if self.has_events:
            yield ""
        raise RuntimeLacks("no events")

    async def image(self, reference: str) -> Image | None:
        return Image(id=reference)

    async def images(self) -> list[Image]:
        return []

    async def pull(
        self, reference: str, auth: Auth | None = None, sandbox: SandboxConfig | None = None
    ) -> str:
        return reference

    async def remove_image(self, reference: str) -> None:
        await self._begin("remove_image", reference)

    async def image_filesystems(self) -> list[FilesystemUsage]:
        return []

    async def close(self) -> None:
        """Nothing is open."""
