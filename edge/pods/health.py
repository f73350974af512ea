"""How the runtime is: asked every five seconds, told to the Node and to Pods that wait for a network."""

from __future__ import annotations

import asyncio
import logging
import re
from collections.abc import Callable

from edge.pods.runtime import Runtime, RuntimeFault, RuntimeInfo

log = logging.getLogger(__name__)

POLL_SECONDS = 5.0
SILENT_SECONDS = 30.0
"""A runtime that said nothing for so long makes the node not ready; a restart of it does not."""

Listener = Callable[[], None]


class RuntimeHealth:
    """The runtime's last word about itself."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._listeners: list[Listener] = []
        self._silent_since: float | None = None
        self._reasons: tuple[str, ...] | None = None
        self.info: RuntimeInfo | None = None
        """None: it has not answered yet."""
        self.error = ""

    def listen(self, listener: Listener) -> None:
        """Tell `listener` whenever it becomes ready, or not ready, or another version."""
        self._listeners.append(listener)

    @property
    def version(self) -> str:
        """`containerd://1.6.20`; "" while it is not known. What a distribution adds (`~ds1`) is left out."""
        return f"{self.info.name}://{plain_version(self.info.version)}" if self.info else ""

    @property
    def problems(self) -> tuple[str, ...]:
        """Why no Pod can be started now, in the words of a Node's Ready condition; empty when all is well."""
        if self.info is None:
            return (f"container runtime is not reachable: {self.error}",) if self.error else ()
        if self.error:
            return (f"container runtime is down: {self.error}",)
        found = []
        if not self.info.is_ready:
            found.append(
                f"container runtime not ready: {_condition('Runtime', self.info.runtime_message)}"
            )
        if self.network_problem:
            found.append(self.network_problem)
        return tuple(found)

    @property
    def network_problem(self) -> str:
        """Why no Pod with a network of its own can be started, else ""."""
        if self.info is None or self.info.is_network_ready:
            return ""
        condition = _condition("Network", self.info.network_message)
        return f"container runtime network not ready: {condition}"

    async def run(self) -> None:
        """Ask again and again; until cancelled."""
        while True:
            await self.ask()
            await asyncio.sleep(POLL_SECONDS if not self.problems else POLL_SECONDS / 5)

    async def ask(self) -> None:
        """Ask once."""
        now = asyncio.get_running_loop().time()
        try:
            self.info = await self._runtime.info()
        except RuntimeFault as error:
            self._silence(now, error.message)
        else:
            self._silent_since, self.error = None, ""
        self._tell()

    def _silence(self, now: float, text: str) -> None:
        if self._silent_since is None:
            self._silent_since = now
            log.warning("the container runtime does not answer", extra={"cause": text})
        if self.info is None or now - self._silent_since >= SILENT_SECONDS:
            self.error = text

    def _tell(self) -> None:
        reasons = (self.version, *self.problems)
        if reasons != self._reasons:
            self._reasons = reasons
            log.info(
                "the container runtime",
                extra={"version": self.version, "problems": "; ".join(self.problems)},
            )
            for listener in self._listeners:
                listener()


def plain_version(version: str) -> str:
    """Return the numbers a version begins with, and what a pre-release adds."""
    found = re.match(r"v?\d+(\.\d+)+([-+][0-9A-Za-z.-]+)?", version)
    return found[0] if found else version


def _condition(kind: str, message: str) -> str:
    """As the kubelet writes a runtime's condition."""
    return f"{kind}Ready=false reason:{kind}PluginNotReady message:{message}"
