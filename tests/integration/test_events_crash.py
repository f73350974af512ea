"""Events on disk when the process dies without a word."""

from __future__ import annotations

import asyncio
import signal
import sys
from pathlib import Path

from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.events import SqliteEvents
from gateway.store.ports import CONSUMERS

WRITER = """
import asyncio, sys
from gateway.model.message import Kind, Message
from gateway.model.trace import TraceContext
from gateway.runtime.module import running
from gateway.store.database import Database
from gateway.store.events import SqliteEvents
from pathlib import Path

TRACE = TraceContext("0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331")

async def main():
    store = SqliteEvents(Database(Path(sys.argv[1]), "events"))
    async with running(store):
        number = 0
        while True:
            number += 1
            message = Message(tenant="acme", device="d", kind=Kind.EVENT, qos=1,
                              payload=str(number).encode(), at=1.0, trace=TRACE)
            def stored(error, number=number):
                if error is None:
                    print(number, flush=True)
            store.append(message, stored)
            await asyncio.sleep(0.0005)

asyncio.run(main())
"""


async def acknowledged_then_killed(path: Path, at_least: int) -> list[int]:
    """Run a writer, kill it, and return what it said was stored."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", WRITER, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None
    numbers: list[int] = []
    async with asyncio.timeout(60):
        while len(numbers) < at_least:
            numbers.append(int(await process.stdout.readline()))
    process.send_signal(signal.SIGKILL)
    rest = await process.stdout.read()
    await process.wait()
    lines = rest.decode().split("\n")[:-1]
    return numbers + [int(line) for line in lines]


async def test_no_acknowledged_event_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "events.db"
    acknowledged = await acknowledged_then_killed(path, 300)
    store = SqliteEvents(Database(path, "events"), read_ahead=100_000)
    async with running(store):
        ready = asyncio.Event()
        cursor = store.open_cursor("acme", CONSUMERS, ready.set)
        async with asyncio.timeout(10):
            await ready.wait()
        found: list[int] = []
        while (event := cursor.take()) is not None:
            found.append(int(event.message.payload))
        assert found == sorted(found)
        assert set(acknowledged) <= set(found)
