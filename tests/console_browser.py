"""Runs a flow of tests/clients/console in a real Chromium and answers what it asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FLOWS = ROOT / "tests/clients/console"
PACKAGES = ROOT / "console/node_modules"
SECONDS = 110.0
MIN_NODE = 18

Answers = Mapping[str, Callable[[], str | None]]


def browser() -> str:
    """Return where Chromium is, or skip with what is missing."""
    for needed in ("node", "chromium"):
        if shutil.which(needed) is None:
            pytest.skip(f"{needed} is not installed; scripts/debian-packages.sh installs it")
    if not (PACKAGES / "playwright-core").is_dir():
        pytest.skip("playwright-core is not there; scripts/console.sh --packages gets it")
    return str(shutil.which("chromium"))


def run_script(
    script: str, *words: str, base: str, answers: Answers | None = None, **environment: str
) -> str:
    """Run a script to its end and return what it printed; each question is answered by name.

    Errors: fails with the script's own words when it fails, or when it takes longer than `SECONDS`.
    """
    told = {**os.environ, "CHROMIUM": browser(), "BASE": base, **environment}
    command = ["node", str(FLOWS / script), *words]
    pipe = subprocess.PIPE
    with subprocess.Popen(
        command, stdin=pipe, stdout=pipe, stderr=subprocess.STDOUT, text=True, env=told
    ) as running:
        guard = threading.Timer(SECONDS, running.kill)
        guard.start()
        try:
            said = _talk(running, answers or {})
        finally:
            guard.cancel()
            if running.poll() is None and running.stdin is not None and not running.stdin.closed:
                running.stdin.close()
            running.wait(10)
    assert running.returncode == 0, f"{script} {' '.join(words)}:\n{said}"
    return said


def _talk(running: subprocess.Popen[str], answers: Answers) -> str:
    assert running.stdout is not None
    assert running.stdin is not None
    said = []
    for line in running.stdout:
        said.append(line)
        if line.startswith("> "):
            answer = answers[line[2:].strip()]() or "done"
            running.stdin.write(f"{answer}\n")
            running.stdin.flush()
    return "".join(said)
