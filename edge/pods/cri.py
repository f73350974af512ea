"""Speaks CRI v1 to containerd or CRI-O on a unix socket. Source: Kubernetes CRI v1 (`api.proto`)."""

from __future__ import annotations

import asyncio
import math
import os
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from types import MappingProxyType
from typing import Any, TypeVar

# No child of ours calls the runtime; with fork handlers each one that is started writes a line of complaint.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")
import grpc
import grpc.aio
from cri_api.v1 import api_pb2 as pb
from google.protobuf.message import Message

from edge.pods import criforms as forms
from edge.pods.runtime import (
    NODE_LABEL,
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
)
from edge.pods.sockets import find_endpoint as find_endpoint

Answer = TypeVar("Answer", bound=Message)

MAX_ANSWER = 16 * 1024 * 1024
"""Bytes of one answer; the runtimes cap what an ExecSync prints at the same."""
MAX_TEXT = 4_096
"""Characters of a runtime's words that are kept."""
SHORT_SECONDS = 10.0
"""Of the question how the runtime is, and on top of a command's own time."""
READ_SECONDS = 30.0
"""Of a call that reads; a slow disk makes the runtime wait."""
CALL_SECONDS = 120.0
"""Of a call that changes, as the kubelet's `runtimeRequestTimeout`."""
SANDBOX_SECONDS = 240.0
"""Of RunPodSandbox, which may pull an image of its own and runs the CNI plugins."""
PULL_SECONDS = 3_600.0
"""Of a pull in all; the runtime itself ends one without progress (`image_pull_progress_timeout`)."""
LONGEST = 2**31 - 1
"""Seconds of a grace or a command. The API takes graces beyond all calendars, and a deadline that has no
place in one is over at once."""
OPTIONS = (
    ("grpc.max_receive_message_length", MAX_ANSWER),
    ("grpc.default_authority", "localhost"),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1_000),
    ("grpc.enable_http_proxy", 0),
)

_FAULTS: Mapping[grpc.StatusCode, type[RuntimeFault]] = MappingProxyType(
    {
        grpc.StatusCode.UNAVAILABLE: RuntimeAway,
        grpc.StatusCode.DEADLINE_EXCEEDED: RuntimeAway,
        grpc.StatusCode.UNIMPLEMENTED: RuntimeLacks,
        grpc.StatusCode.NOT_FOUND: RuntimeNotFound,
    }
)


def answers(endpoint: str) -> bool:
    """True when something that speaks CRI v1 answers there; waits two seconds at most."""
    with grpc.insecure_channel(endpoint, options=OPTIONS) as channel:
        ask = channel.unary_unary(
            "/runtime.v1.RuntimeService/Version",
            request_serializer=pb.VersionRequest.SerializeToString,
            response_deserializer=pb.VersionResponse.FromString,
        )
        try:
            ask(pb.VersionRequest(), timeout=2.0)
        except grpc.RpcError:
            return False
        return True


class CriRuntime:
    """A runtime behind a CRI socket.

    Shape:  connects with the first call and again after the runtime was away; every call has a deadline.
    Errors: (of all) RuntimeAway when it cannot be reached or is silent, RuntimeLacks for what it does not
            know, RuntimeNotFound, else RuntimeFault in its own words.
    """

    def __init__(self, endpoint: str, node_name: str) -> None:
        self._endpoint = endpoint
        self._node = node_name
        self._channel: grpc.aio.Channel | None = None
        self._methods: dict[str, Callable[..., Any]] = {}
        self._sandbox_of: dict[str, str] = {}

    # --- the runtime itself -------------------------------------------------------------------------

    @property
    def name(self) -> str:
        return "edge-container-runtime"

    async def run(self, ready: Callable[[], None]) -> None:
        """Module, before all that call it: hangs up when they have ended."""
        ready()
        try:
            await asyncio.Event().wait()
        finally:
            await self.close()

    async def info(self) -> RuntimeInfo:
        version = await self._ask("Version", pb.VersionRequest(), pb.VersionResponse, SHORT_SECONDS)
        answer = await self._ask("Status", pb.StatusRequest(), pb.StatusResponse, SHORT_SECONDS)
        return forms.runtime_info(version, answer.status)

    async def sandbox_image(self) -> str:
        """Return the image of sandboxes, as the runtime's settings name it; "" where it does not say."""
        return forms.sandbox_image({"config": await self.configuration()})

    async def configuration(self) -> str:
        """Return the settings that the runtime works by, in its own form; "" where it does not say."""
        request = pb.StatusRequest(verbose=True)
        answer = await self._ask("Status", request, pb.StatusResponse)
        return str(answer.info.get("config", ""))

    async def close(self) -> None:
        channel, self._channel = self._channel, None
        self._methods.clear()
        if channel is not None:
            await channel.close(None)

    # --- sandboxes ----------------------------------------------------------------------------------

    async def run_sandbox(self, config: SandboxConfig, handler: str = "") -> str:
        with _expressed():
            request = pb.RunPodSandboxRequest(
                config=forms.sandbox_config(config, self._node), runtime_handler=handler
            )
        answer = await self._ask(
            "RunPodSandbox", request, pb.RunPodSandboxResponse, SANDBOX_SECONDS
        )
        return answer.pod_sandbox_id

    async def stop_sandbox(self, sandbox_id: str) -> None:
        request = pb.StopPodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._end("StopPodSandbox", request, pb.StopPodSandboxResponse)

    async def remove_sandbox(self, sandbox_id: str) -> None:
        request = pb.RemovePodSandboxRequest(pod_sandbox_id=sandbox_id)
        await self._end("RemovePodSandbox", request, pb.RemovePodSandboxResponse)

    async def sandbox(self, sandbox_id: str) -> Sandbox:
        request = pb.PodSandboxStatusRequest(pod_sandbox_id=sandbox_id)
        answer = await self._ask("PodSandboxStatus", request, pb.PodSandboxStatusResponse)
        return forms.sandbox_status(answer.status)

    async def sandboxes(self) -> list[Sandbox]:
        request = pb.ListPodSandboxRequest(filter=pb.PodSandboxFilter(label_selector=self._ours))
        answer = await self._ask("ListPodSandbox", request, pb.ListPodSandboxResponse)
        return [forms.sandbox(each) for each in answer.items]

    @property
    def _ours(self) -> dict[str, str]:
        return {NODE_LABEL: self._node}

    # --- containers ---------------------------------------------------------------------------------

    async def create_container(
        self, sandbox_id: str, config: ContainerConfig, sandbox: SandboxConfig
    ) -> str:
        with _expressed():
            request = pb.CreateContainerRequest(
                pod_sandbox_id=sandbox_id,
                config=forms.container_config(config, sandbox, self._node),
                sandbox_config=forms.sandbox_config(sandbox, self._node),
            )
        answer = await self._ask(
            "CreateContainer", request, pb.CreateContainerResponse, CALL_SECONDS
        )
        self._sandbox_of[answer.container_id] = sandbox_id
        return answer.container_id

    async def start_container(self, container_id: str) -> None:
        request = pb.StartContainerRequest(container_id=container_id)
        await self._ask("StartContainer", request, pb.StartContainerResponse, CALL_SECONDS)

    async def stop_container(self, container_id: str, grace_seconds: int) -> None:
        grace = min(max(0, grace_seconds), LONGEST)
        request = pb.StopContainerRequest(container_id=container_id, timeout=grace)
        await self._end("StopContainer", request, pb.StopContainerResponse, CALL_SECONDS + grace)

    async def remove_container(self, container_id: str) -> None:
        request = pb.RemoveContainerRequest(container_id=container_id)
        await self._end("RemoveContainer", request, pb.RemoveContainerResponse)
        self._sandbox_of.pop(container_id, None)

    async def container(self, container_id: str) -> ContainerState:
        request = pb.ContainerStatusRequest(container_id=container_id)
        answer = await self._ask("ContainerStatus", request, pb.ContainerStatusResponse)
        sandbox_id = self._sandbox_of.get(container_id) or await self._find_sandbox(container_id)
        return forms.container_status(answer.status, sandbox_id)

    async def _find_sandbox(self, container_id: str) -> str:
        """Return whose container that is: only a list says it."""
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(id=container_id))
        answer = await self._ask("ListContainers", request, pb.ListContainersResponse)
        return next((each.pod_sandbox_id for each in answer.containers), "")

    async def containers(self) -> list[ContainerState]:
        request = pb.ListContainersRequest(filter=pb.ContainerFilter(label_selector=self._ours))
        answer = await self._ask("ListContainers", request, pb.ListContainersResponse)
        self._sandbox_of = {each.id: each.pod_sandbox_id for each in answer.containers}
        return [forms.container(each) for each in answer.containers]

    async def update_resources(self, container_id: str, resources: LinuxResources) -> None:
        request = pb.UpdateContainerResourcesRequest(
            container_id=container_id, linux=forms.resources(resources)
        )
        answer = pb.UpdateContainerResourcesResponse
        await self._ask("UpdateContainerResources", request, answer, CALL_SECONDS)

    async def reopen_log(self, container_id: str) -> None:
        request = pb.ReopenContainerLogRequest(container_id=container_id)
        await self._ask("ReopenContainerLog", request, pb.ReopenContainerLogResponse)

    async def container_stats(self) -> list[ContainerStats]:
        request = pb.ListContainerStatsRequest(
            filter=pb.ContainerStatsFilter(label_selector=self._ours)
        )
        answer = await self._ask("ListContainerStats", request, pb.ListContainerStatsResponse)
        return [forms.container_stats(each) for each in answer.stats]

    # --- into containers ----------------------------------------------------------------------------

    async def exec_sync(
        self, container_id: str, command: Sequence[str], timeout_seconds: float
    ) -> Ran:
        """Errors: also TimeoutError when the command took longer (0: `CALL_SECONDS`)."""
        seconds = min(math.ceil(timeout_seconds if timeout_seconds > 0 else CALL_SECONDS), LONGEST)
        request = pb.ExecSyncRequest(container_id=container_id, cmd=command, timeout=seconds)
        call = self._method("RuntimeService", "ExecSync", pb.ExecSyncResponse)
        try:
            answer: pb.ExecSyncResponse = await call(request, timeout=seconds + SHORT_SECONDS)
        except grpc.aio.AioRpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:
                raise TimeoutError(f"command did not end within {seconds} s") from error
            raise fault(error) from error
        return Ran(stdout=answer.stdout, stderr=answer.stderr, exit_code=answer.exit_code)

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
        request = pb.ExecRequest(
            container_id=container_id,
            cmd=command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            tty=tty,
        )
        return (await self._ask("Exec", request, pb.ExecResponse)).url

    async def attach_url(
        self, container_id: str, *, stdin: bool, stdout: bool, stderr: bool, tty: bool
    ) -> str:
        request = pb.AttachRequest(
            container_id=container_id, stdin=stdin, stdout=stdout, stderr=stderr, tty=tty
        )
        return (await self._ask("Attach", request, pb.AttachResponse)).url

    async def port_forward_url(self, sandbox_id: str, ports: Sequence[int]) -> str:
        request = pb.PortForwardRequest(pod_sandbox_id=sandbox_id, port=ports)
        return (await self._ask("PortForward", request, pb.PortForwardResponse)).url

    async def events(self) -> AsyncGenerator[str]:
        """Yield uids of our Pods in which something happened, until the runtime ends the stream."""
        stream = self._open().unary_stream(
            "/runtime.v1.RuntimeService/GetContainerEvents",
            request_serializer=_to_bytes,
            response_deserializer=pb.ContainerEventResponse.FromString,
        )(pb.GetEventsRequest())
        try:
            async for event in stream:
                status = event.pod_sandbox_status
                if status.labels.get(NODE_LABEL) == self._node:
                    yield status.metadata.uid
        except grpc.aio.AioRpcError as error:
            raise fault(error) from error
        finally:
            stream.cancel()

    # --- images -------------------------------------------------------------------------------------

    async def image(self, reference: str) -> Image | None:
        request = pb.ImageStatusRequest(image=pb.ImageSpec(image=reference))
        answer = await self._ask_images("ImageStatus", request, pb.ImageStatusResponse)
        return forms.image(answer.image) if answer.HasField("image") else None

    async def images(self) -> list[Image]:
        answer = await self._ask_images("ListImages", pb.ListImagesRequest(), pb.ListImagesResponse)
        return [forms.image(each) for each in answer.images]

    async def pull(
        self, reference: str, auth: Auth | None = None, sandbox: SandboxConfig | None = None
    ) -> str:
        request = pb.PullImageRequest(
            image=pb.ImageSpec(image=reference),
            auth=None if auth is None else forms.auth_config(auth),
            sandbox_config=None if sandbox is None else forms.sandbox_config(sandbox, self._node),
        )
        answer = await self._ask_images("PullImage", request, pb.PullImageResponse, PULL_SECONDS)
        return answer.image_ref

    async def remove_image(self, reference: str) -> None:
        request = pb.RemoveImageRequest(image=pb.ImageSpec(image=reference))
        try:
            await self._ask_images("RemoveImage", request, pb.RemoveImageResponse, CALL_SECONDS)
        except RuntimeNotFound:
            return

    async def used_images(self) -> frozenset[str]:
        """Return ids and names of images that any container uses, ours or not, and the sandboxes' own."""
        listed = await self._ask(
            "ListContainers", pb.ListContainersRequest(), pb.ListContainersResponse
        )
        used = {n for each in listed.containers for n in forms.image_names(each)}
        return frozenset(used | {await self.sandbox_image()}) - {""}

    async def image_filesystems(self) -> list[FilesystemUsage]:
        answer = await self._ask_images(
            "ImageFsInfo", pb.ImageFsInfoRequest(), pb.ImageFsInfoResponse
        )
        return [forms.filesystem(each) for each in answer.image_filesystems]

    # --- calls --------------------------------------------------------------------------------------

    async def _ask(
        self, name: str, request: Message, answer: type[Answer], seconds: float = READ_SECONDS
    ) -> Answer:
        return await self._call("RuntimeService", name, request, answer, seconds)

    async def _ask_images(
        self, name: str, request: Message, answer: type[Answer], seconds: float = READ_SECONDS
    ) -> Answer:
        return await self._call("ImageService", name, request, answer, seconds)

    async def _end(
        self, name: str, request: Message, answer: type[Answer], seconds: float = CALL_SECONDS
    ) -> None:
        """Stop or remove; what is gone already has been."""
        try:
            await self._ask(name, request, answer, seconds)
        except RuntimeNotFound:
            return

    async def _call(
        self, service: str, name: str, request: Message, answer: type[Answer], seconds: float
    ) -> Answer:
        try:
            found: Answer = await self._method(service, name, answer)(request, timeout=seconds)
        except grpc.aio.AioRpcError as error:
            raise fault(error) from error
        return found

    def _method(self, service: str, name: str, answer: type[Message]) -> Callable[..., Any]:
        made = self._methods.get(name)
        if made is None:
            made = self._methods[name] = self._open().unary_unary(
                f"/runtime.v1.{service}/{name}",
                request_serializer=_to_bytes,
                response_deserializer=answer.FromString,
            )
        return made

    def _open(self) -> grpc.aio.Channel:
        if self._channel is None:
            self._channel = grpc.aio.insecure_channel(self._endpoint, options=OPTIONS)
        return self._channel


@contextmanager
def _expressed() -> Iterator[None]:
    """What has no room in a message (a user beyond 64 bits) is its Pod's fault. Errors: RuntimeFault."""
    try:
        yield
    except ValueError as error:
        raise RuntimeFault(f"the runtime cannot be asked for that: {error}") from error


def _to_bytes(message: Message) -> bytes:
    return message.SerializeToString()


def fault(error: grpc.aio.AioRpcError) -> RuntimeFault:
    """Return what a failed call means to us."""
    code = error.code()
    words = (error.details() or "").strip()[:MAX_TEXT]
    found = _FAULTS.get(code, RuntimeFault)(words or f"the runtime answered {code.name}")
    found.rpc = code.name.title().replace("_", "")
    return found
