"""Brings images that were made here into containerd: the sample's, and that of sandboxes.

CRI can only pull, so containerd's own `ctr` reads the archive.
"""

from __future__ import annotations

import asyncio
import platform
import shutil

from edge.pods.runtime import Runtime
from edge.pods.sampleimages import HEARTBEAT, archive, heartbeat_image, pause_image
from gateway.errors import GatewayError, Rejected, Undeliverable

IMPORT_SECONDS = 60.0
MAX_WORDS = 500
PAUSE = "registry.k8s.io/pause:3.6"
"""What containerd takes for sandboxes unless its settings name another."""


async def bring(runtime: Runtime, endpoint: str) -> None:
    """Have the sample's image and the one of sandboxes on this node; does nothing when they are there.

    Errors: RuntimeFault; Undeliverable or Rejected with what stands in the way.
    """
    info = await runtime.info()
    if not info.is_network_ready:
        raise Undeliverable(f"{info.network_message}\n  -> twinspan edge setup-cni")
    names = [HEARTBEAT, await runtime.sandbox_image()]
    missing = [name for name in names if name and await runtime.image(name) is None]
    if missing:
        await _import(endpoint, images_of(missing))


def images_of(names: list[str], machine: str = "") -> bytes:
    """Return an archive: the sample by its own name, the pause image by all others. Errors: BadRequest."""
    machine = machine or platform.machine()
    return archive(
        {
            name: heartbeat_image(machine) if name == HEARTBEAT else pause_image(machine)
            for name in names
        }
    )


async def _import(endpoint: str, text: bytes) -> None:
    program = shutil.which("ctr")
    if program is None:
        raise Undeliverable("containerd's program ctr is not there to bring an image in")
    address = endpoint.removeprefix("unix://")
    command = ("--address", address, "--namespace", "k8s.io", "images", "import", "-")
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(
        program, *command, stdin=pipe, stdout=asyncio.subprocess.DEVNULL, stderr=pipe
    )
    try:
        async with asyncio.timeout(IMPORT_SECONDS):
            _, words = await process.communicate(text)
    except TimeoutError as error:
        raise Undeliverable("ctr did not end in time") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Rejected(f"ctr: {words.decode(errors='replace').strip()[:MAX_WORDS]}")


async def hindrance(runtime: Runtime, endpoint: str) -> str:
    """Bring the sample's image; return what stood in the way, else ""."""
    try:
        await bring(runtime, endpoint)
    except GatewayError as error:
        return error.message
    return ""
