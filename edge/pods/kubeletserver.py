"""The kubelet's API of this node on loopback: Pods, logs, metrics; exec, attach, run and port-forward.

Reading is open to this machine, as in KubeEdge. What runs something in a container wants the token of
`<data-dir>/edge/kubelet.token`, which EdgeStream sends. Logs of the node itself (`/logs/`) are not served:
they tell more of the machine than a Pod's owner may know. Source: kubelet 1.36 `server.go`; KubeEdge
reference, section 22.4.
"""

from __future__ import annotations

import asyncio
import ipaddress
import json
import logging
import time
from collections.abc import Awaitable, Callable
from dataclasses import asdict
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, unquote

from edge.kubeletaccess import ENDPOINT, KubeletToken
from edge.pods.kubeletrules import (
    Refused,
    as_asked,
    as_running,
    bare_id,
    is_meant,
    log_container,
    pod_list,
    read_command,
    read_ports,
    read_streams,
    ready_sandbox,
    refusal_of,
    running_container,
    running_metrics,
)
from edge.pods.logfiles import read_options
from edge.pods.podlogs import open_log, read_log
from edge.pods.ports import PodView, Running
from edge.pods.runtime import Runtime, RuntimeAway, RuntimeFault, State
from edge.pods.stats import METRICS_TEXT, NodeStats
from edge.pods.streaming import check_upgrade, pass_through
from gateway.errors import BadRequest, Forbidden, GatewayError, InvalidSetting, NotBuilt
from gateway.model.json import Json
from gateway.runtime.listener import Endpoints, parse_bind
from gateway.runtime.small_service import Request, Response, Takeover, serve_requests

if TYPE_CHECKING:
    from gateway.config.edge_workloads import Workloads
    from gateway.observe.metrics import Metrics

log = logging.getLogger(__name__)

SETTING = "edge.workloads.bind"
MAX_BODY = 65_536
MAX_CONNECTIONS = 300
RUN_SECONDS = 120.0
"""In which a command of `/run` must have ended."""
PLAIN = "text/plain; charset=utf-8"
_NO_LOGS = (
    "logs of the node are not served: they tell more of this machine than of its Pods;"
    " read them there, with journalctl"
)
Answer = Response | Takeover
Handler = Callable[[Request, list[str]], Awaitable[Answer]]


class KubeletServer:
    """Module: the listener."""

    name = "edge.kubelet"

    def __init__(
        self,
        settings: Workloads,
        node: str,
        endpoints: Endpoints,
        token: KubeletToken,
        pods: PodView,
        runtime: Runtime,
        metrics: Metrics,
        stats: NodeStats | None = None,
    ) -> None:
        self._settings = settings
        self._node = node
        self._endpoints = endpoints
        self._token = token
        self._pods = pods
        self._runtime = runtime
        self._metrics = metrics
        self._stats = stats
        self._handlers: dict[str, Handler] = {
            "healthz": self._healthz,
            "pods": self._list,
            "runningpods": self._running,
            "containerLogs": self._logs,
            "stats": self._summary,
            "metrics": self._metrics_of,
            "configz": self._configz,
            "logs": self._node_logs,
            "exec": self._exec,
            "attach": self._attach,
            "portForward": self._port_forward,
            "run": self._run,
        }
        self._guarded = frozenset({"exec", "attach", "portForward", "run"})

    async def run(self, ready: Callable[[], None]) -> None:
        """Errors: InvalidSetting for an address beyond loopback; PortTaken."""
        check_bind(self._settings.bind)
        await asyncio.to_thread(self._token.make)
        async with serve_requests(
            self._endpoints,
            ENDPOINT,
            self._settings.bind,
            self.respond,
            max_body=MAX_BODY,
            setting=SETTING,
            max_connections=MAX_CONNECTIONS,
        ):
            ready()
            await asyncio.get_running_loop().create_future()

    async def respond(self, request: Request) -> Answer:
        """Answer a request, whatever becomes of it."""
        try:
            return await self._answer(request)
        except GatewayError as error:
            return Response(error.status, {"Content-Type": PLAIN}, error.message.encode())

    async def _answer(self, request: Request) -> Answer:
        if not is_local_name(request.headers.get("host", "")):
            raise Forbidden("the Host is not this machine: expected localhost or an address")
        first, *rest = [unquote(each) for each in request.path.strip("/").split("/")]
        handler = self._handlers.get(first)
        if handler is None:
            raise Refused(404, "404 page not found")
        is_guarded = first in self._guarded
        self._check_method(request, first, is_guarded=is_guarded)
        if is_guarded and not self._token.is_shown(request.headers.get("authorization", "")):
            return Response(
                401, {"Content-Type": PLAIN, "WWW-Authenticate": "Bearer"}, b"Unauthorized"
            )
        return await handler(request, rest)

    def _check_method(self, request: Request, first: str, *, is_guarded: bool) -> None:
        taken = ("POST",) if first == "run" else ("GET", "POST") if is_guarded else ("GET", "HEAD")
        if request.method not in taken:
            raise Refused(405, "405: Method Not Allowed")

    # --- what there is ------------------------------------------------------------------------------

    async def _healthz(self, _request: Request, rest: list[str]) -> Answer:
        if rest not in ([], ["ping"]):
            raise Refused(404, "404 page not found")
        return Response(200, {"Content-Type": PLAIN}, b"ok")

    async def _list(self, _request: Request, rest: list[str]) -> Answer:
        _nothing_more(rest)
        return _json(pod_list([as_asked(each) for each in self._pods.pods()]))

    async def _running(self, _request: Request, rest: list[str]) -> Answer:
        _nothing_more(rest)
        found = (as_running(each.pod, each.observed) for each in self._pods.pods())
        return _json(pod_list([each for each in found if each is not None]))

    async def _configz(self, _request: Request, rest: list[str]) -> Answer:
        _nothing_more(rest)
        return _json(
            {"kubeletconfig": {"maxPods": self._settings.max_pods, **asdict(self._settings)}}
        )

    async def _node_logs(self, _request: Request, _rest: list[str]) -> Answer:
        raise NotBuilt(_NO_LOGS)

    def _stats_there(self) -> NodeStats:
        if self._stats is None:
            raise NotBuilt("this node measures nothing")
        return self._stats

    async def _summary(self, request: Request, rest: list[str]) -> Answer:
        if rest != ["summary"]:
            raise Refused(404, "404 page not found")
        only = parse_qs(request.query).get("only_cpu_and_memory", [""])[0] in ("true", "1")
        return _json(await self._stats_there().summary(only_cpu_and_memory=only))

    async def _metrics_of(self, _request: Request, rest: list[str]) -> Answer:
        match rest:
            case []:
                own = running_metrics(self._node, self._pods.pods())
                return _text(self._metrics.text() + own.encode())
            case ["resource"]:
                return _text((await self._stats_there().resource_metrics()).encode())
            case ["cadvisor"]:
                return _text((await self._stats_there().cadvisor_metrics()).encode())
            case ["probes"]:
                return _text(self._stats_there().probe_metrics().encode())
        raise Refused(404, "404 page not found")

    # --- logs ---------------------------------------------------------------------------------------

    async def _logs(self, request: Request, rest: list[str]) -> Answer:
        if len(rest) != 3:
            raise Refused(404, "404 page not found")
        namespace, name, container = rest
        query = {k: v[0] for k, v in parse_qs(request.query, keep_blank_values=True).items()}
        options = read_options(query, time.time_ns())
        found = self._pods.find(namespace, name)
        if found is None:
            raise Refused(404, f'pod "{name}" does not exist')
        if found.pod.container(container) is None:
            raise Refused(404, f'container "{container}" not found in pod "{name}"')
        meant = log_container(name, container, found.status, previous=options.previous)
        file = await open_log(await self._log_path(found, meant), options)
        pieces = read_log(
            file, follow=options.follow, is_running=lambda: self._runs(bare_id(meant))
        )
        return Response(200, {"Content-Type": "text/plain"}, pieces)

    async def _log_path(self, found: Running, container_id: str) -> str:
        bare = bare_id(container_id)
        for each in found.observed.containers:
            if each.id == bare and each.log_path:
                return each.log_path
        try:
            return (await self._runtime.container(bare)).log_path
        except RuntimeFault as error:
            raise BadRequest(f"unable to retrieve container logs for {container_id}") from error

    async def _runs(self, container_id: str) -> bool:
        """Say whether a container runs; with the runtime away it is thought to."""
        try:
            return (await self._runtime.container(container_id)).state is State.RUNNING
        except RuntimeAway:
            return True
        except RuntimeFault:
            return False

    # --- streams ------------------------------------------------------------------------------------

    def _meant(self, rest: list[str], *, with_container: bool) -> tuple[Running, str, str]:
        """Return Pod, uid (may be empty) and container of a path. Errors: Refused."""
        *place, container = rest if with_container else [*rest, ""]
        if len(place) not in (2, 3):
            raise Refused(404, "404 page not found")
        found = self._pods.find(place[0], place[1])
        if found is None:
            raise Refused(404, "pod does not exist")
        return found, place[2] if len(place) == 3 else "", container

    async def _exec(self, request: Request, rest: list[str]) -> Answer:
        query = parse_qs(request.query, keep_blank_values=True)
        streams = read_streams(query)
        command = read_command(query.get("command", ()))
        found, uid, name = self._meant(rest, with_container=True)
        check_upgrade(request)
        container = running_container(found, uid, name)
        try:
            url = await self._runtime.exec_url(container.id, command, **asdict(streams))
        except RuntimeFault as error:
            raise refusal_of(error) from error
        return await pass_through(url, request)

    async def _attach(self, request: Request, rest: list[str]) -> Answer:
        streams = read_streams(parse_qs(request.query, keep_blank_values=True))
        found, uid, name = self._meant(rest, with_container=True)
        check_upgrade(request)
        container = running_container(found, uid, name)
        spec = found.pod.container(name)
        tty = spec is not None and spec.tty  # a process cannot change what it was started with
        try:
            url = await self._runtime.attach_url(
                container.id,
                stdin=streams.stdin,
                stdout=streams.stdout,
                stderr=streams.stderr and not tty,
                tty=tty,
            )
        except RuntimeFault as error:
            raise refusal_of(error) from error
        return await pass_through(url, request)

    async def _port_forward(self, request: Request, rest: list[str]) -> Answer:
        ports = read_ports(parse_qs(request.query))
        found, uid, _ = self._meant(rest, with_container=False)
        if not is_meant(found.pod, uid):
            raise Refused(404, "pod not found")
        check_upgrade(request)
        sandbox = ready_sandbox(found)
        try:
            url = await self._runtime.port_forward_url(sandbox.id, ports)
        except RuntimeFault as error:
            raise refusal_of(error) from error
        return await pass_through(url, request)

    async def _run(self, request: Request, rest: list[str]) -> Answer:
        found, uid, name = self._meant(rest, with_container=True)
        command = read_command(parse_qs(request.query).get("cmd", [""])[0].split(" "))
        container = running_container(found, uid, name)
        try:
            ran = await self._runtime.exec_sync(container.id, command, RUN_SECONDS)
        except RuntimeFault as error:
            raise Refused(500, error.message) from error
        except TimeoutError as error:
            raise Refused(500, f"the command took longer than {RUN_SECONDS:g} s") from error
        if ran.exit_code:
            said = ran.stderr[:4_096].decode("utf-8", "replace")
            words = " ".join(command)
            raise Refused(500, f"command '{words}' exited with {ran.exit_code}: {said}")
        return Response(200, {"Content-Type": "application/json"}, ran.stdout + ran.stderr)


def check_bind(bind: str) -> None:
    """Errors: InvalidSetting for an address that other machines reach: this API speaks plain HTTP."""
    host, _ = parse_bind(bind, SETTING)
    try:
        is_loopback = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        is_loopback = False
    if not is_loopback:
        raise InvalidSetting(f"{SETTING}: expected a loopback address, got {bind!r}")


def is_local_name(authority: str) -> bool:
    """True for an address or `localhost`: web pages that have their names point here say another one."""
    host = authority
    if not authority.endswith("]"):
        host = authority.rpartition(":")[0] if ":" in authority else authority
    try:
        return host == "localhost" or bool(ipaddress.ip_address(host.strip("[]")))
    except ValueError:
        return False


def _nothing_more(rest: list[str]) -> None:
    if rest:
        raise Refused(404, "404 page not found")


def _json(body: Json) -> Response:
    return Response(200, {"Content-Type": "application/json"}, json.dumps(body).encode())


def _text(body: bytes) -> Response:
    return Response(200, {"Content-Type": METRICS_TEXT}, body)
