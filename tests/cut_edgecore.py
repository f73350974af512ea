"""EdgeCore that kills itself (-9) at a call that changes something at its container runtime.

`python -m tests.cut_edgecore edge run ...` with `CUT=<number>:<moment>`: the number of the call, from 1, and
`before` it, `during` it (20 ms after it was sent) or `after` it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from typing import Any

from edge.pods import cri
from gateway.cli.main import main

MOMENTS = ("before", "during", "after")
DURING_SECONDS = 0.02
CHANGES = (
    "RunPodSandbox",
    "StopPodSandbox",
    "RemovePodSandbox",
    "CreateContainer",
    "StartContainer",
    "StopContainer",
    "RemoveContainer",
)

Call = Callable[..., Awaitable[Any]]


def cut(call: Call, at: int, moment: str) -> Call:
    """Return a call that is as before but for the one it dies at."""
    seen = 0

    async def counted(runtime: cri.CriRuntime, service: str, name: str, *rest: Any) -> Any:
        nonlocal seen
        seen += name in CHANGES
        if name not in CHANGES or seen != at:
            return await call(runtime, service, name, *rest)
        if moment == "before":
            _die()
        if moment == "during":
            asyncio.get_running_loop().call_later(DURING_SECONDS, _die)
        answer = await call(runtime, service, name, *rest)
        _die()
        return answer

    return counted


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    number, _, when = os.environ["CUT"].partition(":")
    cri.CriRuntime._call = cut(cri.CriRuntime._call, int(number), when)  # type: ignore[method-assign,assignment]
    main()
