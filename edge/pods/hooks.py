"""Lifecycle hooks of containers: a command, an HTTP request, or a rest.

What an HTTP hook answers does not matter, only that it answers. How long a hook may take is its caller's
to say, by cancelling. Source: Kubernetes, container lifecycle hooks.
"""

from __future__ import annotations

import asyncio
import ssl as tls
from dataclasses import replace

from edge.pods.podspec import Container, ExecAction, Handler, HttpGetAction, Pod
from edge.pods.ports import Recorder
from edge.pods.probehttp import Request, ask, request_of
from edge.pods.runtime import Runtime
from gateway.errors import GatewayError

MAX_SHOWN = 1_024
"""Bytes of a hook's output in an event."""


class HookFailed(GatewayError):
    """A hook did not do; the message is for an event."""

    status = 502
    code = "edge.pods.hook"


class LifecycleHooks:
    """The `Hooks` port."""

    def __init__(self, runtime: Runtime, recorder: Recorder) -> None:
        self._runtime = runtime
        self._recorder = recorder

    async def run(
        self, pod: Pod, container: Container, container_id: str, handler: Handler, pod_ip: str
    ) -> None:
        if handler.exec is not None:
            await self._exec(pod, container, container_id, handler.exec)
        elif handler.http_get is not None:
            await self._http(pod, container, handler.http_get, pod_ip)
        elif handler.sleep is not None:
            await asyncio.sleep(handler.sleep.seconds)
        else:
            raise HookFailed("Cannot run handler: invalid handler: neither exec, httpGet nor sleep")

    async def _exec(
        self, pod: Pod, container: Container, container_id: str, action: ExecAction
    ) -> None:
        shown = f"Exec lifecycle hook ([{' '.join(action.command)}])"
        try:
            ran = await self._runtime.exec_sync(container_id, action.command, 0)
        except (GatewayError, TimeoutError) as error:
            raise _failed(shown, pod, container, str(error)) from error
        if ran.exit_code:
            output = (ran.stdout + ran.stderr)[:MAX_SHOWN].decode("utf-8", "replace")
            why = f"command '{' '.join(action.command)}' exited with {ran.exit_code}: {output}"
            raise _failed(shown, pod, container, f'{why}, message: "{output}"')

    async def _http(
        self, pod: Pod, container: Container, action: HttpGetAction, pod_ip: str
    ) -> None:
        try:
            request = request_of(action, container, pod_ip, "lifecycle")
            try:
                await ask(request)
            except GatewayError as error:
                if not isinstance(error.__cause__, tls.SSLError):
                    raise
                await self._without_tls(pod, request)
        except GatewayError as error:
            raise _failed(
                f"HTTP lifecycle hook ({action.path})", pod, container, str(error)
            ) from error

    async def _without_tls(self, pod: Pod, request: Request) -> None:
        """Ask what turned out to be plain HTTP."""
        place = request.url.removeprefix("https://")
        headers = {name: each for name, each in request.headers.items() if name != "Authorization"}
        await ask(replace(request, url=f"http://{place}", headers=headers))
        host = place.partition("/")[0]
        text = (
            f"request to HTTPS lifecycle hook {host} got HTTP response, retry with HTTP succeeded"
        )
        self._recorder.event(pod, "Warning", "LifecycleHTTPFallback", text)


def _failed(hook: str, pod: Pod, container: Container, why: str) -> HookFailed:
    namespace, name = pod.key
    where = f'for Container "{container.name}" in Pod "{name}_{namespace}({pod.uid})"'
    return HookFailed(f"{hook} {where} failed - error: {why}")
