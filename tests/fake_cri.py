"""A CRI server in memory: a real gRPC service on a unix socket whose containers do what a test scripts.

`async with fake_cri() as cri:` gives a started one; `cri.endpoint` is what `CriRuntime` connects to. What is
set on it counts from the next call. It stands in for containerd in unit tests only: whatever containerd
itself decides (namespaces, cgroups, streams) is tested with the real one.
"""

from __future__ import annotations

import asyncio
import itertools
import re
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
from cri_api.v1 import api_pb2 as pb
from google.protobuf.message import Message

from gateway.wire.kube.clock import rfc3339
from tests.fake_cri_parts import (
    Exec as Exec,
)
from tests.fake_cri_parts import (
    FakeContainer,
    FakeSandbox,
    has_labels,
    listed,
    make_image,
    open_log,
    sandbox_status,
)
from tests.fake_cri_parts import (
    RemoteImage as RemoteImage,
)
from tests.fake_cri_parts import (
    Run as Run,
)


class _Failed(Exception):
    def __init__(self, code: grpc.StatusCode, text: str) -> None:
        super().__init__(text)
        self.code, self.text = code, text


class FakeCri:
    """The service and all that it holds; what it holds stays when it is stopped and started again."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.sandboxes: dict[str, FakeSandbox] = {}
        self.containers: dict[str, FakeContainer] = {}
        self.images: dict[str, pb.Image] = {}
        self.registry: dict[str, RemoteImage] = {}
        self.scripts: dict[str, list[Run]] = {}
        """Container name -> what its starts do, one after another; the last one repeats."""
        self.execs: dict[tuple[str, ...], Exec] = {}
        self.calls: list[tuple[str, Message]] = []
        self.pulls: list[tuple[str, str]] = []
        """Image and user of every pull."""
        self.most_pulls_at_once = 0
        self.has_events = False
        self.runtime_ready = self.network_ready = True
        self.now: Callable[[], int] = time.time_ns
        self.stats: dict[str, tuple[int, int]] = {}
        """Container name -> nanoseconds of CPU, bytes of working set."""
        self.filesystem: tuple[str, int] = (str(folder), 0)
        self.streams = "http://127.0.0.1:1"
        """Where the URLs of exec, attach and port-forward point."""
        self._pulling = 0
        self._ids = itertools.count(1)
        self._faults: dict[str, list[_Failed]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._watchers: list[asyncio.Queue[pb.ContainerEventResponse]] = []
        self._server: grpc.aio.Server | None = None

    # --- what tests do ------------------------------------------------------------------------------

    @property
    def endpoint(self) -> str:
        return f"unix://{self.folder}/cri.sock"

    def fail(
        self,
        method: str,
        text: str = "told to fail",
        *,
        code: grpc.StatusCode = grpc.StatusCode.UNKNOWN,
        times: int = 1,
    ) -> None:
        """Let the next calls of a method (`RunPodSandbox`) fail."""
        self._faults.setdefault(method, []).extend([_Failed(code, text)] * times)

    def hold(self, method: str) -> asyncio.Event:
        """Let calls of a method wait until the event is set."""
        return self._gates.setdefault(method, asyncio.Event())

    def add_image(self, name: str, **values: Any) -> None:
        """Have an image on the node, and in the registry."""
        remote = self.registry.setdefault(name, RemoteImage(**values))
        self.images[name] = make_image(name, remote)

    def count(self, method: str) -> int:
        return sum(name == method for name, _ in self.calls)

    def container(self, name: str) -> FakeContainer:
        """Return the newest container of a name."""
        found = [c for c in self.containers.values() if c.config.metadata.name == name]
        return max(found, key=lambda each: each.status.created_at)

    def exit(self, container: FakeContainer, code: int, reason: str = "") -> None:
        """End a running container."""
        status = container.status
        status.state, status.exit_code, status.finished_at = pb.CONTAINER_EXITED, code, self._at()
        status.reason = reason or ("Completed" if code == 0 else "Error")
        if container.timer is not None:
            container.timer.cancel()
        if container.log is not None:
            container.log.close()
            container.log = None
        self._tell(container, pb.CONTAINER_STOPPED_EVENT)

    def say(self, container: FakeContainer, *lines: str, stream: str = "stdout") -> None:
        """Let a running container print lines."""
        if container.log is not None:
            at = rfc3339(time.time()).encode()
            for line in lines:
                container.log.write(b"%s %s F %s\n" % (at, stream.encode(), line.encode()))
            container.log.flush()

    # --- life ---------------------------------------------------------------------------------------

    async def start(self) -> None:
        server = grpc.aio.server()
        for service in pb.DESCRIPTOR.services_by_name.values():
            handlers = {method.name: self._handler(method) for method in service.methods}
            server.add_generic_rpc_handlers(
                (grpc.method_handlers_generic_handler(service.full_name, handlers),)
            )
        server.add_insecure_port(self.endpoint)
        await server.start()
        self._server = server

    async def stop(self) -> None:
        """Go away, as a runtime that is restarted; all that it holds stays."""
        server, self._server = self._server, None
        if server is not None:
            await server.stop(None)

    def close(self) -> None:
        for container in self.containers.values():
            if container.timer is not None:
                container.timer.cancel()
            if container.log is not None:
                container.log.close()

    def _handler(self, method: Any) -> Any:
        request, answer = (getattr(pb, t.name) for t in (method.input_type, method.output_type))
        if method.server_streaming:
            return grpc.unary_stream_rpc_method_handler(
                self._events, request.FromString, answer.SerializeToString
            )
        words = re.sub(r"(?<!^)(?=[A-Z])", "_", method.name).lower()
        work = getattr(self, f"_rpc_{words}", None)

        async def serve(wanted: Message, context: Any) -> Message:
            try:
                return await self._serve(method.name, work, wanted)
            except _Failed as error:
                await context.abort(error.code, error.text)
                raise

        return grpc.unary_unary_rpc_method_handler(
            serve, request.FromString, answer.SerializeToString
        )

    async def _serve(self, name: str, work: Any, request: Message) -> Message:
        self.calls.append((name, request))
        if name in self._gates:
            await self._gates[name].wait()
        if self._faults.get(name):
            raise self._faults[name].pop(0)
        if work is None:
            raise _Failed(grpc.StatusCode.UNIMPLEMENTED, f"unknown method {name}")
        answer: Message = await work(request)
        return answer

    def _at(self) -> int:
        """Return the time; never the same twice."""
        return self.now() + next(self._ids)

    # --- the runtime --------------------------------------------------------------------------------

    async def _rpc_version(self, _request: pb.VersionRequest) -> pb.VersionResponse:
        return pb.VersionResponse(
            runtime_name="fake", runtime_version="1.0", runtime_api_version="v1"
        )

    async def _rpc_status(self, _request: pb.StatusRequest) -> pb.StatusResponse:
        runtime = pb.RuntimeCondition(type="RuntimeReady", status=self.runtime_ready)
        network = pb.RuntimeCondition(type="NetworkReady", status=self.network_ready)
        if not self.network_ready:
            network.reason, network.message = "NetworkPluginNotReady", "cni plugin not initialized"
        return pb.StatusResponse(status=pb.RuntimeStatus(conditions=[runtime, network]))

    async def _events(
        self, request: pb.GetEventsRequest, context: Any
    ) -> AsyncIterator[pb.ContainerEventResponse]:
        self.calls.append(("GetContainerEvents", request))
        if not self.has_events:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "unknown method GetContainerEvents")
        queue: asyncio.Queue[pb.ContainerEventResponse] = asyncio.Queue()
        self._watchers.append(queue)
        try:
            while True:
                yield await queue.get()
        finally:
            self._watchers.remove(queue)

    def _tell(self, container: FakeContainer, kind: pb.ContainerEventType.ValueType) -> None:
        for queue in self._watchers:
            queue.put_nowait(
                pb.ContainerEventResponse(
                    container_id=container.id,
                    container_event_type=kind,
                    pod_sandbox_status=sandbox_status(container.sandbox),
                )
            )

    # --- sandboxes ----------------------------------------------------------------------------------

    async def _rpc_run_pod_sandbox(
        self, request: pb.RunPodSandboxRequest
    ) -> pb.RunPodSandboxResponse:
        if not self.network_ready:
            raise _Failed(grpc.StatusCode.UNKNOWN, "cni plugin not initialized")
        wanted = request.config.metadata
        for each in self.sandboxes.values():
            if each.config.metadata == wanted:
                name = f"{wanted.name}_{wanted.namespace}_{wanted.uid}_{wanted.attempt}"
                text = f'failed to reserve sandbox name "{name}": name is reserved for "{each.id}"'
                raise _Failed(grpc.StatusCode.UNKNOWN, text)
        number = next(self._ids)
        on_node = request.config.linux.security_context.namespace_options.network == pb.NODE
        ip = "" if on_node else f"10.0.{number // 250 % 250}.{number % 250 + 2}"
        made = FakeSandbox(f"s{number:063d}", request.config, self._at(), ip=ip)
        self.sandboxes[made.id] = made
        return pb.RunPodSandboxResponse(pod_sandbox_id=made.id)

    async def _rpc_stop_pod_sandbox(
        self, request: pb.StopPodSandboxRequest
    ) -> pb.StopPodSandboxResponse:
        found = self.sandboxes.get(request.pod_sandbox_id)
        if found is not None:
            found.is_ready = False
            for each in self._in(found):
                if each.is_running:
                    self.exit(each, 137)
        return pb.StopPodSandboxResponse()

    async def _rpc_remove_pod_sandbox(
        self, request: pb.RemovePodSandboxRequest
    ) -> pb.RemovePodSandboxResponse:
        found = self.sandboxes.pop(request.pod_sandbox_id, None)
        for each in [] if found is None else self._in(found):
            self._remove(each)
        return pb.RemovePodSandboxResponse()

    async def _rpc_podsandbox_status(
        self, request: pb.PodSandboxStatusRequest
    ) -> pb.PodSandboxStatusResponse:
        return pb.PodSandboxStatusResponse(
            status=sandbox_status(self._sandbox(request.pod_sandbox_id))
        )

    async def _rpc_list_pod_sandbox(
        self, request: pb.ListPodSandboxRequest
    ) -> pb.ListPodSandboxResponse:
        wanted = request.filter
        items = [
            pb.PodSandbox(
                id=each.id,
                metadata=each.config.metadata,
                state=pb.SANDBOX_READY if each.is_ready else pb.SANDBOX_NOTREADY,
                created_at=each.created_at,
                labels=each.config.labels,
                annotations=each.config.annotations,
            )
            for each in self.sandboxes.values()
            if has_labels(each.config.labels, wanted.label_selector) and wanted.id in ("", each.id)
        ]
        return pb.ListPodSandboxResponse(items=items)

    def _sandbox(self, sandbox_id: str) -> FakeSandbox:
        found = self.sandboxes.get(sandbox_id)
        if found is None:
            raise _Failed(grpc.StatusCode.NOT_FOUND, f"sandbox {sandbox_id} not found")
        return found

    def _in(self, sandbox: FakeSandbox) -> list[FakeContainer]:
        return [each for each in self.containers.values() if each.sandbox is sandbox]

    # --- containers ---------------------------------------------------------------------------------

    async def _rpc_create_container(
        self, request: pb.CreateContainerRequest
    ) -> pb.CreateContainerResponse:
        sandbox, config = self._sandbox(request.pod_sandbox_id), request.config
        image = self._image(config.image.image)
        if image is None:
            text = f'failed to resolve image "{config.image.image}": not found'
            raise _Failed(grpc.StatusCode.NOT_FOUND, text)
        for each in self._in(sandbox):
            if each.config.metadata == config.metadata:
                name = f"{config.metadata.name}_{config.metadata.attempt}"
                text = f'failed to reserve container name "{name}": reserved for "{each.id}"'
                raise _Failed(grpc.StatusCode.UNKNOWN, text)
        made_id = f"c{next(self._ids):063d}"
        log = f"{sandbox.config.log_directory}/{config.log_path}" if config.log_path else ""
        status = pb.ContainerStatus(
            id=made_id,
            metadata=config.metadata,
            state=pb.CONTAINER_CREATED,
            created_at=self._at(),
            image=pb.ImageSpec(image=config.image.user_specified_image or config.image.image),
            image_ref=(list(image.repo_digests) or [image.id])[0],
            labels=config.labels,
            annotations=config.annotations,
            log_path=log,
        )
        made = FakeContainer(made_id, sandbox, config, status)
        self.containers[made_id] = made
        self._tell(made, pb.CONTAINER_CREATED_EVENT)
        return pb.CreateContainerResponse(container_id=made_id)

    async def _rpc_start_container(
        self, request: pb.StartContainerRequest
    ) -> pb.StartContainerResponse:
        found = self._container(request.container_id)
        if found.status.state != pb.CONTAINER_CREATED:
            raise _Failed(grpc.StatusCode.UNKNOWN, f"container {found.id} is not in created state")
        script = self.scripts.get(found.config.metadata.name, [Run()])
        found.run = script.pop(0) if len(script) > 1 else script[0]
        if found.run.start_error:
            self.exit(found, 128, "StartError")
            found.status.message = found.run.start_error
            raise _Failed(grpc.StatusCode.UNKNOWN, found.run.start_error)
        found.status.state, found.status.started_at = pb.CONTAINER_RUNNING, self._at()
        open_log(found)
        self.say(found, *found.run.lines)
        self._tell(found, pb.CONTAINER_STARTED_EVENT)
        if found.run.exit_code is not None:
            found.timer = asyncio.get_running_loop().call_later(
                found.run.seconds, self.exit, found, found.run.exit_code, found.run.reason
            )
        return pb.StartContainerResponse()

    async def _rpc_stop_container(
        self, request: pb.StopContainerRequest
    ) -> pb.StopContainerResponse:
        found = self._container(request.container_id)
        if found.is_running:
            self.exit(found, found.run.stop_code)
        return pb.StopContainerResponse()

    async def _rpc_remove_container(
        self, request: pb.RemoveContainerRequest
    ) -> pb.RemoveContainerResponse:
        self._remove(self._container(request.container_id))
        return pb.RemoveContainerResponse()

    def _remove(self, container: FakeContainer) -> None:
        if container.is_running:
            self.exit(container, 137)
        del self.containers[container.id]
        self._tell(container, pb.CONTAINER_DELETED_EVENT)

    async def _rpc_container_status(
        self, request: pb.ContainerStatusRequest
    ) -> pb.ContainerStatusResponse:
        return pb.ContainerStatusResponse(status=self._container(request.container_id).status)

    async def _rpc_list_containers(
        self, request: pb.ListContainersRequest
    ) -> pb.ListContainersResponse:
        wanted = request.filter
        return pb.ListContainersResponse(
            containers=[
                listed(each, self._image_id(each))
                for each in self.containers.values()
                if has_labels(each.config.labels, wanted.label_selector)
                and wanted.id in ("", each.id)
                and wanted.pod_sandbox_id in ("", each.sandbox.id)
            ]
        )

    def _image_id(self, container: FakeContainer) -> str:
        found = self._image(container.config.image.image)
        return container.config.image.image if found is None else found.id

    def _container(self, container_id: str) -> FakeContainer:
        found = self.containers.get(container_id)
        if found is None:
            text = f"an error occurred when try to find container {container_id!r}: not found"
            raise _Failed(grpc.StatusCode.NOT_FOUND, text)
        return found

    async def _rpc_update_container_resources(
        self, request: pb.UpdateContainerResourcesRequest
    ) -> pb.UpdateContainerResourcesResponse:
        self._container(request.container_id).config.linux.resources.MergeFrom(request.linux)
        return pb.UpdateContainerResourcesResponse()

    async def _rpc_reopen_container_log(
        self, request: pb.ReopenContainerLogRequest
    ) -> pb.ReopenContainerLogResponse:
        found = self._container(request.container_id)
        if not found.is_running:
            raise _Failed(grpc.StatusCode.UNKNOWN, "container is not running")
        if found.log is not None:
            found.log.close()
        open_log(found)
        return pb.ReopenContainerLogResponse()

    async def _rpc_exec_sync(self, request: pb.ExecSyncRequest) -> pb.ExecSyncResponse:
        if not self._container(request.container_id).is_running:
            raise _Failed(grpc.StatusCode.UNKNOWN, "container is in CONTAINER_EXITED state")
        done = self.execs.get(tuple(request.cmd), Exec())
        if request.timeout and done.seconds > request.timeout:
            text = f"failed to exec in container: timeout {request.timeout}s exceeded"
            raise _Failed(grpc.StatusCode.DEADLINE_EXCEEDED, text)
        await asyncio.sleep(done.seconds)
        return pb.ExecSyncResponse(stdout=done.stdout, stderr=done.stderr, exit_code=done.exit_code)

    async def _rpc_exec(self, request: pb.ExecRequest) -> pb.ExecResponse:
        return pb.ExecResponse(url=f"{self.streams}/exec/{request.container_id}")

    async def _rpc_attach(self, request: pb.AttachRequest) -> pb.AttachResponse:
        return pb.AttachResponse(url=f"{self.streams}/attach/{request.container_id}")

    async def _rpc_port_forward(self, request: pb.PortForwardRequest) -> pb.PortForwardResponse:
        return pb.PortForwardResponse(url=f"{self.streams}/portforward/{request.pod_sandbox_id}")

    async def _rpc_list_container_stats(
        self, request: pb.ListContainerStatsRequest
    ) -> pb.ListContainerStatsResponse:
        wanted = request.filter.label_selector
        found = [c for c in self.containers.values() if c.is_running]
        return pb.ListContainerStatsResponse(
            stats=[self._usage(each) for each in found if has_labels(each.config.labels, wanted)]
        )

    def _usage(self, container: FakeContainer) -> pb.ContainerStats:
        cpu, memory = self.stats.get(container.config.metadata.name, (0, 0))
        attributes = pb.ContainerAttributes(id=container.id, labels=container.config.labels)
        return pb.ContainerStats(
            attributes=attributes,
            cpu=pb.CpuUsage(
                timestamp=self._at(), usage_core_nano_seconds=pb.UInt64Value(value=cpu)
            ),
            memory=pb.MemoryUsage(working_set_bytes=pb.UInt64Value(value=memory)),
        )

    # --- images -------------------------------------------------------------------------------------

    def _image(self, reference: str) -> pb.Image | None:
        for name, image in self.images.items():
            if reference in (name, image.id, *image.repo_digests):
                return image
        return None

    async def _rpc_image_status(self, request: pb.ImageStatusRequest) -> pb.ImageStatusResponse:
        return pb.ImageStatusResponse(image=self._image(request.image.image))

    async def _rpc_list_images(self, _request: pb.ListImagesRequest) -> pb.ListImagesResponse:
        return pb.ListImagesResponse(images=self.images.values())

    async def _rpc_pull_image(self, request: pb.PullImageRequest) -> pb.PullImageResponse:
        name = request.image.image
        self.pulls.append((name, request.auth.username))
        self._pulling += 1
        self.most_pulls_at_once = max(self.most_pulls_at_once, self._pulling)
        try:
            await asyncio.sleep(0)
            return pb.PullImageResponse(image_ref=self._pull(name, request.auth).id)
        finally:
            self._pulling -= 1

    def _pull(self, name: str, auth: pb.AuthConfig) -> pb.Image:
        remote = self.registry.get(name)
        start = f'failed to pull and unpack image "{name}": failed to resolve reference "{name}": '
        if remote is None:
            raise _Failed(grpc.StatusCode.NOT_FOUND, f"{start}{name}: not found")
        if remote.credentials not in (None, (auth.username, auth.password)):
            raise _Failed(grpc.StatusCode.UNKNOWN, f"{start}401 Unauthorized")
        return self.images.setdefault(name, make_image(name, remote))

    async def _rpc_remove_image(self, request: pb.RemoveImageRequest) -> pb.RemoveImageResponse:
        found = self._image(request.image.image)
        self.images = {name: each for name, each in self.images.items() if each is not found}
        return pb.RemoveImageResponse()

    async def _rpc_image_fs_info(self, _request: pb.ImageFsInfoRequest) -> pb.ImageFsInfoResponse:
        mountpoint, inodes = self.filesystem
        used = pb.FilesystemUsage(
            fs_id=pb.FilesystemIdentifier(mountpoint=mountpoint),
            used_bytes=pb.UInt64Value(value=sum(each.size for each in self.images.values())),
            inodes_used=pb.UInt64Value(value=inodes),
        )
        return pb.ImageFsInfoResponse(image_filesystems=[used])


@asynccontextmanager
async def fake_cri(images: Iterable[str] = ()) -> AsyncIterator[FakeCri]:
    """Serve a fake runtime for the length of the block; `images` are present on the node."""
    folder = Path(tempfile.mkdtemp(prefix="tscri", dir="/tmp"))  # sockets need short names
    fake = FakeCri(folder)
    for name in images:
        fake.add_image(name)
    await fake.start()
    try:
        yield fake
    finally:
        await fake.stop()
        fake.close()
        shutil.rmtree(folder)
