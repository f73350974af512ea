"""The edge agent stays small: what importing it may not pull in."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = (
    "aiocoap",
    "aiohttp",
    "asyncua",
    "bcrypt",
    "bleak",
    "click",
    "cloud",
    "cryptography",
    "dbus_fast",
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
    "pymodbus",
    "serial",
    "rich",
    "zigpy",
)


@pytest.mark.parametrize(
    ("entry", "allowed"), [("edge.core", set()), ("gateway.cli.edge", {"click"})]
)
def test_importing_the_edge_agent_pulls_in_nothing_heavy(entry: str, allowed: set[str]) -> None:
    heavy = [name for name in HEAVY if name not in allowed]
    script = f"import sys, {entry}; print([m for m in {heavy!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"


def test_the_gateway_alone_does_not_load_the_kubernetes_server() -> None:
    server = ["gateway.kube.module", "gateway.kube.cluster", "gateway.kube.control.manager"]
    script = f"import sys, gateway.cli.run; print([m for m in {server!r} if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.strip() == "[]"
