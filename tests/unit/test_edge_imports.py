"""The edge agent stays small: what importing it may not pull in."""

from __future__ import annotations

import subprocess
import sys

HEAVY = (
    "aiohttp",
    "bcrypt",
    "bleak",
    "click",
    "cloud",
    "cryptography",
    "gateway.connectivity",
    "gateway.core",
    "gateway.ditto",
    "gateway.hono",
    "gateway.kube",
    "grpc",
    "httptools",
    "jsonpatch",
    "jwt",
    "kubernetes",
    "opentelemetry",
    "paho",
    "proton",
    "rich",
    "zigpy",
)


def test_importing_the_edge_agent_pulls_in_nothing_heavy() -> None:
    script = f"import sys, edge.core; print([m for m in {HEAVY!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
