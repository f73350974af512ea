"""Probes and hooks against servers of aiohttp and gRPC."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest
from aiohttp import web

from edge.pods.hooks import LifecycleHooks
from edge.pods.podspec import (
    Container,
    EnvSource,
    EnvVar,
    ExecAction,
    FieldRef,
    GrpcAction,
    Handler,
    HttpGetAction,
    HttpHeader,
    Pod,
    Port,
    Probe,
    SleepAction,
    TcpAction,
    read_pod,
)
from edge.pods.probehttp import TriedInVain, Verdict
from edge.pods.probers import Probers
from edge.pods.proberules import Found
from edge.pods.runtime import Ran, RuntimeFault
from gateway.errors import GatewayError
from tests.device_pki import a_server
from tests.ports import free_port

LOOPBACK = "127.0.0.1"


def ran(stdout: bytes, stderr: bytes, exit_code: int) -> Ran:
    return Ran(stdout=stdout, stderr=stderr, exit_code=exit_code)


@dataclass
class Commands:
    """A runtime that answers commands."""

    answer: Ran | Exception = field(default_factory=lambda: ran(b"", b"", 0))
    asked: list[tuple[str, tuple[str, ...], float]] = field(default_factory=list)

    async def exec_sync(self, container_id: str, command: list[str], seconds: float) -> Ran:
        self.asked.append((container_id, tuple(command), seconds))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def pod_of(*, host_network: bool = False) -> Pod:
    return read_pod({"metadata": {"name": "p", "uid": "u"}, "spec": {"hostNetwork": host_network}})


async def tried(
    probe: Probe, container: Container | None = None, runtime: Any = None, ip: str = LOOPBACK
) -> Verdict:
    used: Any = runtime or Commands()
    probers = Probers(used, lambda: LOOPBACK)
    container = container or Container(name="c")
    return await probers.try_(pod_of(host_network=not ip), container, "id", probe, ip)


@asynccontextmanager
async def serving(
    handle: Callable[[web.Request], Awaitable[web.StreamResponse]],
    context: ssl.SSLContext | None = None,
) -> AsyncIterator[int]:
    app = web.Application()
    app.router.add_get("/{path:.*}", handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    try:
        site = web.TCPSite(runner, LOOPBACK, 0, ssl_context=context)
        await site.start()
        server = site._server
        assert isinstance(server, asyncio.Server)
        yield server.sockets[0].getsockname()[1]
    finally:
        await runner.cleanup()


def http(port: int | str, path: str = "/", **more: Any) -> Probe:
    return Probe(http_get=HttpGetAction(path=path, port=port, **more), timeout_seconds=5)


async def test_http_asks_as_the_kubelet_does() -> None:
    seen: list[web.Request] = []

    async def handle(request: web.Request) -> web.Response:
        seen.append(request)
        return web.Response(text="fine")

    async with serving(handle) as port:
        verdict = await tried(http(port, "healthz?deep=1"))
        headers = [
            HttpHeader(name="host", value="shop.example"),
            HttpHeader(name="X-Two", value="1"),
            HttpHeader(name="x-two", value="2"),
            HttpHeader(name="Accept", value=""),
            HttpHeader(name="user-agent", value="mine"),
        ]
        await tried(http(port, http_headers=headers))
    assert verdict == Verdict(Found.SUCCESS, "fine")
    plain, own = seen
    assert plain.path_qs == "/healthz?deep=1"
    assert dict(plain.headers) == {
        "Host": f"127.0.0.1:{port}",
        "Connection": "close",
        "User-Agent": "kube-probe/1.36",
        "Accept": "*/*",
    }
    assert own.headers["Host"] == "shop.example"
    assert own.headers.getall("X-Two") == ["1", "2"]
    assert own.headers["User-Agent"] == "mine"
    assert "Accept" not in own.headers


@pytest.mark.parametrize(
    ("status", "found", "output"),
    [
        (200, Found.SUCCESS, "body"),
        (204, Found.SUCCESS, ""),
        (304, Found.WARNING, "Probe terminated redirects, Response body: "),
        (399, Found.WARNING, "Probe terminated redirects, Response body: body"),
        (400, Found.FAILURE, "HTTP probe failed with statuscode: 400"),
        (503, Found.FAILURE, "HTTP probe failed with statuscode: 503"),
    ],
)
async def test_http_status_decides(status: int, found: Found, output: str) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=status, text=None if status in (204, 304) else "body")

    async with serving(handle) as port:
        assert await tried(http(port)) == Verdict(found, output)


async def test_redirects_are_followed_on_the_same_host_only() -> None:
    async def handle(request: web.Request) -> web.Response:
        if request.path == "/here":
            return web.Response(status=302, headers={"Location": "/there"})
        if request.path == "/away":
            away = {"Location": "http://elsewhere.example/"}
            return web.Response(status=307, headers=away, text="moved")
        if request.path == "/round":
            return web.Response(status=302, headers={"Location": "/round"})
        return web.Response(text=f"{request.path} {request.headers['Host']}")

    async with serving(handle) as port:
        shop = [HttpHeader(name="Host", value="shop")]
        assert (await tried(http(port, "/here", http_headers=shop))).output == "/there shop"
        away = await tried(http(port, "/away"))
        endless = await tried(http(port, "/round"))
    said = "Probe terminated redirects, Response body: moved"
    assert away == Verdict(Found.WARNING, said)
    assert endless.found is Found.FAILURE
    assert "stopped after 10 redirects" in endless.output


async def test_http_reads_ten_kilobytes_of_an_endless_answer() -> None:
    async def handle(request: web.Request) -> web.StreamResponse:
        answer = web.StreamResponse()
        await answer.prepare(request)
        try:
            while True:
                await answer.write(b"x" * 1_000)
        except ConnectionError:
            return answer

    async with serving(handle) as port:
        verdict = await tried(http(port))
    assert verdict == Verdict(Found.SUCCESS, "x" * 10_240)


async def test_https_is_asked_without_checking_its_certificate(tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(a_server(tmp_path))

    async def handle(_: web.Request) -> web.Response:
        return web.Response(text="safe")

    async with serving(handle, context) as port:
        verdict = await tried(http(port, scheme="HTTPS"))
    assert verdict == Verdict(Found.SUCCESS, "safe")


async def test_http_says_why_there_is_no_answer() -> None:
    async def handle(_: web.Request) -> web.Response:
        await asyncio.sleep(30)
        return web.Response()

    port = free_port()
    refused = await tried(http(port))
    place = f"{LOOPBACK}:{port}"
    said = f'Get "http://{place}/": dial tcp {place}: connect: connection refused'
    assert refused == Verdict(Found.FAILURE, said)
    async with serving(handle) as slow:
        probe = Probe(http_get=HttpGetAction(path="/", port=slow), timeout_seconds=1)
        late = await tried(probe)
    assert late.found is Found.FAILURE
    assert "context deadline exceeded" in late.output


async def test_ports_have_names_and_hosts_have_defaults() -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(text="named")

    async with serving(handle) as port:
        container = Container(name="c", ports=[Port(name="web", container_port=port)])
        assert (await tried(http("web"), container)).output == "named"
        assert (await tried(http(str(port)), container, ip="")).output == "named"
        by_host = await tried(http(port, host=LOOPBACK), ip="192.0.2.1")
        assert by_host.found is Found.SUCCESS
    with pytest.raises(TriedInVain, match="invalid syntax"):
        await tried(http("nope"))
    with pytest.raises(TriedInVain, match="invalid port number"):
        await tried(Probe(tcp_socket=TcpAction(port=70_000)))


async def test_tcp_connects() -> None:
    server = await asyncio.start_server(lambda _r, w: w.close(), LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    async with server:
        assert (await tried(Probe(tcp_socket=TcpAction(port=port)))).found is Found.SUCCESS
    refused = await tried(Probe(tcp_socket=TcpAction(port=port)))
    said = f"dial tcp {LOOPBACK}:{port}: connect: connection refused"
    assert refused == Verdict(Found.FAILURE, said)


# --- commands --------------------------------------------------------------------------------------


async def test_a_command_succeeds_by_its_exit_code_and_shows_what_it_printed() -> None:
    probe = Probe(exec=ExecAction(command=["cat", "$(FILE)", "$(SECRET)"]), timeout_seconds=2)
    container = Container(
        name="c",
        env=[
            EnvVar(name="FILE", value="/tmp/ready"),
            EnvVar(name="SECRET", value_from=EnvSource(field_ref=FieldRef(field_path="x"))),
        ],
    )
    good = Commands(ran(b"out ", b"err", 0))
    assert await tried(probe, container, good) == Verdict(Found.SUCCESS, "out err")
    assert good.asked == [("id", ("cat", "/tmp/ready", "$(SECRET)"), 2.0)]
    bad = Commands(ran(b"x" * 20_000, b"", 1))
    assert await tried(probe, container, bad) == Verdict(Found.FAILURE, "x" * 10_240)


async def test_a_command_that_takes_too_long_fails() -> None:
    probe = Probe(exec=ExecAction(command=["sleep", "60"]))
    verdict = await tried(probe, runtime=Commands(TimeoutError()))
    said = 'command timed out: "sleep 60" timed out after 1s'
    assert verdict == Verdict(Found.FAILURE, said)


async def test_a_runtime_that_fails_says_nothing_of_the_container() -> None:
    commands = Commands(RuntimeFault("no such shim"))
    with pytest.raises(TriedInVain, match="no such shim"):
        await tried(Probe(exec=ExecAction(command=["true"])), runtime=commands)
    assert len(commands.asked) == 3


# --- gRPC ------------------------------------------------------------------------------------------


@asynccontextmanager
async def health(statuses: dict[bytes, bytes]) -> AsyncIterator[int]:
    """Serve Health/Check with gRPC's own server: request bytes -> answer bytes."""

    async def check(request: bytes, context: Any) -> bytes:
        if request not in statuses:
            await context.abort(grpc.StatusCode.NOT_FOUND, "unknown service")
        if statuses[request] == b"late":
            await asyncio.sleep(30)
        return statuses[request]

    server = grpc.aio.server()
    method = grpc.unary_unary_rpc_method_handler(check)
    handlers = {"Check": method}
    server.add_generic_rpc_handlers(
        (grpc.method_handlers_generic_handler("grpc.health.v1.Health", handlers),)
    )
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)


def rpc(port: int, service: str = "", seconds: int = 5) -> Probe:
    return Probe(grpc=GrpcAction(port=port, service=service), timeout_seconds=seconds)


async def test_grpc_health_is_asked() -> None:
    long = "s" * 200
    statuses = {
        b"": b"\x08\x01",
        b"\x0a\x03bad": b"\x08\x02",
        b"\x0a\x04none": b"",
        b"\x0a\x04slow": b"late",
        b"\x0a\xc8\x01" + long.encode(): b"\x08\x01",
    }
    async with health(statuses) as port:
        assert await tried(rpc(port)) == Verdict(Found.SUCCESS, "service healthy")
        assert (await tried(rpc(port, long))).found is Found.SUCCESS
        bad = await tried(rpc(port, "bad"))
        none = await tried(rpc(port, "none"))
        unknown = await tried(rpc(port, "other"))
        late = await tried(rpc(port, "slow", 1))
    said = 'service unhealthy (responded with "NOT_SERVING")'
    assert bad == Verdict(Found.FAILURE, said)
    assert none.output == 'service unhealthy (responded with "UNKNOWN")'
    assert unknown.found is Found.FAILURE
    assert "NOT_FOUND: unknown service" in unknown.output
    assert late == Verdict(Found.FAILURE, "timeout: health rpc did not complete within 1s")


async def test_grpc_says_why_nobody_answers() -> None:
    server = grpc.aio.server()
    port = server.add_insecure_port(f"{LOOPBACK}:0")
    await server.start()
    try:
        other = await tried(rpc(port))
    finally:
        await server.stop(0)
    assert other.found is Found.FAILURE
    assert "does not implement the grpc health protocol (grpc.health.v1.Health)" in other.output
    port = free_port()
    place = f"{LOOPBACK}:{port}"
    refused = await tried(rpc(port, seconds=1))
    late = f'timeout: failed to connect service "{place}" within 1s'
    assert refused.output == f"{late}: context deadline exceeded"


@pytest.mark.parametrize(
    "words", [b"", b"SSH-2.0-x\r\n", b"\x00" * 9, b"\x00\x00\x04\x08" + b"\xff" * 64]
)
async def test_a_peer_that_speaks_something_else_fails_a_probe(words: bytes) -> None:
    writers: list[asyncio.StreamWriter] = []

    async def babble(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        writer.write(words)

    server = await asyncio.start_server(babble, LOOPBACK, 0)
    port = server.sockets[0].getsockname()[1]
    try:
        for probe in (rpc(port, seconds=1), http(port)):
            limited = msgspec.structs.replace(probe, timeout_seconds=1)
            verdict = await tried(limited)
            assert verdict.found is Found.FAILURE
            assert verdict.output
    finally:
        for writer in writers:
            writer.transport.abort()
        server.close()
        await server.wait_closed()


@pytest.mark.parametrize(
    "location", ["http://[::1", "//[", "ftp://127.0.0.1/", "http://127.0.0.1:x/"]
)
async def test_a_redirect_to_nowhere_fails_a_probe(location: str) -> None:
    async def handle(_: web.Request) -> web.Response:
        return web.Response(status=302, headers={"Location": location})

    async with serving(handle) as port:
        assert (await tried(http(port))).found is Found.FAILURE


# --- hooks -----------------------------------------------------------------------------------------


@dataclass
class Told:
    events: list[str] = field(default_factory=list)

    def event(self, _pod: Pod, kind: str, reason: str, message: str, _c: object = None) -> None:
        self.events.append(f"{kind} {reason} {message}")

    def node_event(self, kind: str, reason: str, message: str) -> None:
        raise AssertionError


async def hooked(handler: Handler, commands: Commands | None = None) -> list[str]:
    told, runtime = Told(), commands or Commands()
    hooks = LifecycleHooks(runtime, told)  # type: ignore[arg-type]
    await hooks.run(pod_of(), Container(name="c"), "id", handler, LOOPBACK)
    return told.events


async def test_a_hook_s_command_has_no_time_limit_and_says_how_it_failed() -> None:
    commands = Commands()
    handler = Handler(exec=ExecAction(command=["sh", "-c", "exit 3"]))
    await hooked(handler, commands)
    assert commands.asked == [("id", ("sh", "-c", "exit 3"), 0)]
    with pytest.raises(GatewayError) as refused:
        await hooked(handler, Commands(ran(b"", b"oh", 3)))
    assert refused.value.message == (
        'Exec lifecycle hook ([sh -c exit 3]) for Container "c" in Pod "p_default(u)" failed - '
        "error: command 'sh -c exit 3' exited with 3: oh, message: \"oh\""
    )


async def test_a_hook_s_request_only_has_to_be_answered(tmp_path: Path) -> None:
    agents: list[str] = []

    async def handle(request: web.Request) -> web.Response:
        agents.append(request.headers["User-Agent"])
        return web.Response(status=500)

    async with serving(handle) as port:
        assert await hooked(Handler(http_get=HttpGetAction(path="/x", port=port))) == []
        secure = HttpGetAction(path="/x", port=port, scheme="HTTPS")
        (event,) = await hooked(Handler(http_get=secure))
    assert agents == ["kube-lifecycle/1.36"] * 2
    assert event.startswith("Warning LifecycleHTTPFallback request to HTTPS lifecycle hook")
    with pytest.raises(GatewayError, match=r"HTTP lifecycle hook \(/x\) for Container"):
        await hooked(Handler(http_get=HttpGetAction(path="/x", port=free_port())))


async def test_a_hook_rests_and_others_are_refused() -> None:
    assert await hooked(Handler(sleep=SleepAction(seconds=0))) == []
    with pytest.raises(GatewayError, match="Cannot run handler"):
        await hooked(Handler(tcp_socket=TcpAction(port=1)))
