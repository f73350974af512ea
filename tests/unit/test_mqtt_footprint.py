"""What the edge's broker and client pull into a process that must stay small."""

from __future__ import annotations

import subprocess
import sys

HEAVY = {"aiohttp", "bcrypt", "cryptography", "paho", "prometheus_client", "click", "rich"}


def test_the_broker_and_the_client_import_nothing_heavy() -> None:
    program = (
        "import sys, edge.broker, edge.mqttclient; print(*{m.split('.')[0] for m in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert not HEAVY & set(done.stdout.decode().split())
