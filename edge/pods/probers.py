"""Tries a probe once: by a command in the container, HTTP, a TCP connection, or gRPC's health service.

The container's commands run through the runtime; the others come from this node to the Pod's address.
At most 10 KiB of what a command prints are kept. Source: Kubernetes, probes; gRPC health checking, v1.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING

from edge.pods.environment import expand
from edge.pods.podspec import Container, ExecAction, GrpcAction, Pod, Probe, TcpAction
from edge.pods.probehttp import (
    VERSION,
    TriedInVain,
    Verdict,
    dial_text,
    host_port,
    port_of,
    probe_http,
    request_of,
)
from edge.pods.proberules import Found
from edge.pods.runtime import Runtime, RuntimeFault
from gateway.errors import Undeliverable

if TYPE_CHECKING:
    from edge.unarygrpc import GrpcClient

MAX_OUTPUT = 10 * 1_024
ATTEMPTS = 3
"""How often a try is made that says nothing."""
HEALTH_METHOD = "/grpc.health.v1.Health/Check"
_HEALTH = {0: "UNKNOWN", 1: "SERVING", 2: "NOT_SERVING", 3: "SERVICE_UNKNOWN"}
_SERVING = 1
_UNIMPLEMENTED = 12


class Probers:
    """Probes of this node's containers. `node_ip` is where Pods with the node's network are asked."""

    def __init__(self, runtime: Runtime, node_ip: Callable[[], str]) -> None:
        self._runtime = runtime
        self._node_ip = node_ip

    async def try_(
        self, pod: Pod, container: Container, container_id: str, probe: Probe, pod_ip: str
    ) -> Verdict:
        """Try a probe; what says nothing is tried again. Errors: TriedInVain."""
        for _ in range(ATTEMPTS - 1):
            try:
                return await self._once(pod, container, container_id, probe, pod_ip)
            except TriedInVain:
                continue
        return await self._once(pod, container, container_id, probe, pod_ip)

    async def _once(
        self, pod: Pod, container: Container, container_id: str, probe: Probe, pod_ip: str
    ) -> Verdict:
        address = pod_ip or (self._node_ip() if pod.spec.host_network else "")
        seconds = float(max(1, probe.timeout_seconds))
        if probe.exec is not None:
            return await self._exec(container, container_id, probe.exec, seconds)
        if probe.http_get is not None:
            request = request_of(probe.http_get, container, address, "probe")
            return await probe_http(request, seconds)
        if probe.tcp_socket is not None:
            return await _tcp(probe.tcp_socket, container, address, seconds)
        if probe.grpc is not None:
            return await _grpc(probe.grpc, address, seconds)
        namespace, name = pod.key
        where = f"{name}_{namespace}({pod.uid}):{container.name}"
        raise TriedInVain(f"missing probe handler for {where}")

    async def _exec(
        self, container: Container, container_id: str, action: ExecAction, seconds: float
    ) -> Verdict:
        command = static_command(action.command, container)
        late = f'command timed out: "{" ".join(command)}" timed out after {seconds:g}s'
        try:
            async with asyncio.timeout(seconds + 5.0):  # for a runtime that does not keep time
                ran = await self._runtime.exec_sync(container_id, command, seconds)
        except TimeoutError:
            return Verdict(Found.FAILURE, late)
        except RuntimeFault as error:
            raise TriedInVain(error.in_full) from error
        output = (ran.stdout + ran.stderr)[:MAX_OUTPUT].decode("utf-8", "replace")
        return Verdict(Found.FAILURE if ran.exit_code else Found.SUCCESS, output)


async def _tcp(action: TcpAction, container: Container, address: str, seconds: float) -> Verdict:
    host, port = action.host or address, port_of(action.port, container)
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(host, port)
    except OSError as error:  # the time that is up, too
        return Verdict(Found.FAILURE, dial_text(host_port(host, port), error))
    writer.transport.abort()
    return Verdict(Found.SUCCESS)


async def _grpc(action: GrpcAction, address: str, seconds: float) -> Verdict:
    from edge.unarygrpc import CallFailed  # its HTTP/2 library is for who asks this

    place = host_port(address, action.port)
    clock = asyncio.get_running_loop().time
    until = clock() + seconds
    try:
        client = await _connected(address, action.port, seconds)
    except TimeoutError:
        late = f'timeout: failed to connect service "{place}" within {seconds:g}s'
        return Verdict(Found.FAILURE, f"{late}: context deadline exceeded")
    try:
        left = max(0.0, until - clock())
        return _health(await client.call(HEALTH_METHOD, health_request(action.service), left))
    except CallFailed as error:
        return Verdict(Found.FAILURE, _refusal(error.grpc_status, error.message))
    except Undeliverable as error:
        late = f"timeout: health rpc did not complete within {seconds:g}s"
        is_late = isinstance(error.__cause__, TimeoutError)
        said = late if is_late else f"error: health rpc probe failed: {error.message}"
        return Verdict(Found.FAILURE, said)
    finally:
        client.close()


async def _connected(address: str, port: int, seconds: float) -> GrpcClient:
    """Connect, again after each refusal while there is time, as gRPC does. Errors: TimeoutError."""
    from edge.unarygrpc import GrpcClient  # see above

    async with asyncio.timeout(seconds):
        while True:
            with suppress(OSError):
                return await GrpcClient.connect_tcp(address, port, seconds, _AGENT)
            await asyncio.sleep(REFUSED_SECONDS)


_AGENT = f"kube-probe/{VERSION}"
REFUSED_SECONDS = 0.1
"""Between two tries to reach a gRPC service."""


def _refusal(status: int, message: str) -> str:
    if status == _UNIMPLEMENTED:
        service = "grpc health protocol (grpc.health.v1.Health)"
        said = message.partition(": ")[2]
        return f"error: this server does not implement the {service}: {said}"
    return f"error: health rpc probe failed: rpc error: {message}"


def _health(answer: bytes) -> Verdict:
    status = health_status(answer)
    if status == _SERVING:
        return Verdict(Found.SUCCESS, "service healthy")
    said = _HEALTH.get(status, str(status))
    return Verdict(Found.FAILURE, f'service unhealthy (responded with "{said}")')


def health_request(service: str) -> bytes:
    """Write a HealthCheckRequest: field 1, a text."""
    text = service.encode()[:MAX_OUTPUT]
    return b"\x0a" + _varint(len(text)) + text if text else b""


def _varint(number: int) -> bytes:
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*out, number])


def health_status(answer: bytes) -> int:
    """Read a HealthCheckResponse: field 1, a small number, 0 when absent; -1 for what is none."""
    if not answer:
        return 0
    return answer[1] if len(answer) >= 2 and answer[0] == 0x08 and answer[1] < 0x80 else -1


def static_command(command: list[str], container: Container) -> list[str]:
    """Return a probe's command, `$(NAME)` replaced by what the container's env says literally."""
    known = {each.name: each.value for each in container.env if each.value_from is None}
    return [expand(part, known) for part in command]
