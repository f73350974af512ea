"""What walks with a made radio share: its process, the document's sample, and what the cloud then says."""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.edge_walk import NAMESPACE
from tests.walk import Walk


@dataclass
class LabProcess:
    """`python -m tests.<radio>.lab`, spoken to as a person would."""

    process: subprocess.Popen[str]
    address: str
    """Where the radio is: what the process says first."""

    def say(self, line: str) -> str:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline().strip()
        assert not answer.startswith(("failed", "unknown")), answer
        return answer

    def shows(self, name: str, text: str) -> bool:
        return text in self.say(f"show {name}")


@contextmanager
def a_lab(module: str) -> Iterator[LabProcess]:
    """Run `module` until the block ends."""
    process = subprocess.Popen(
        [sys.executable, "-m", module],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield LabProcess(process, process.stdout.readline().strip())
    finally:
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        process.wait(10)
        process.stdout.close()


def sample_of(document: Path) -> str:
    """The first YAML block of a document."""
    found = re.search(r"```yaml\n(.*?)```", document.read_text(), re.DOTALL)
    assert found is not None
    return found.group(1)


def reported(cloud: Walk, device: str, name: str) -> Any:
    return cloud.thing(f"{NAMESPACE}:{device}", f"/features/{name}/properties/value")


def status(cloud: Walk, device: str) -> dict[str, Any]:
    with contextlib.suppress(AssertionError):
        found: dict[str, Any] = cloud.kubectl_json(
            "get", "devicestatus", device, "-n", NAMESPACE
        ).get("status", {})
        return found
    return {}


def faults(cloud: Walk, device: str) -> str:
    return json.dumps(status(cloud, device).get("extensions", {}).get("faults", []))
