"""What was acknowledged survives the death of the process at any moment."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path

from gateway.ditto.service import PoliciesService, ThingsService
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore

CHILD = """
import asyncio, sys
from pathlib import Path
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.model.thing import Action, ThingCommand
from gateway.observe.metrics import Metrics
from gateway.observe.tracing import Tracer
from gateway.store.database import Database
from gateway.store.things_sqlite import SqliteThingStore

async def main():
    database = Database(Path(sys.argv[1]), "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        things = ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=Tracer())

        def writer(thing_id):
            def send(revision):
                path = ("attributes", "n") if revision > 1 else ()
                value = revision if revision > 1 else {"attributes": {"n": 1}}
                command = ThingCommand(thing_id=thing_id, action=Action.MODIFY, path=path, value=value,
                                       subjects=("nginx:me",))
                things.submit(command, answered)
            def answered(result):
                print(thing_id, result.revision, flush=True)
                send(result.revision + 1)
            send(1)

        for n in range(20):
            writer(f"crash:t{n}")
        await asyncio.Event().wait()

asyncio.run(main())
"""


async def test_no_acknowledged_revision_is_lost_by_kill_9(tmp_path: Path) -> None:
    path = tmp_path / "gateway.db"
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-c", CHILD, str(path), stdout=asyncio.subprocess.PIPE
    )
    assert child.stdout is not None
    acknowledged: dict[str, int] = {}
    for _ in range(600):
        thing_id, revision = (await child.stdout.readline()).decode().split()
        acknowledged[thing_id] = int(revision)
    child.kill()
    rest = await child.stdout.read()
    await child.wait()
    for line in rest.decode().splitlines(keepends=True):
        if line.endswith("\n"):
            thing_id, text = line.split()
            acknowledged[thing_id] = int(text)
    assert len(acknowledged) == 20
    database = Database(path, "gateway")
    async with database.running():
        store = SqliteThingStore(database)
        things = ThingsService(store, PoliciesService(store), metrics=Metrics(), tracer=Tracer())
        for thing_id, least in acknowledged.items():
            thing = await things.load(thing_id)
            assert thing is not None
            assert thing.revision >= least
            assert thing.document["attributes"] == {"n": thing.revision}
            events = await things.history(thing_id, 0, 100_000)
            assert [event.revision for event in events] == list(range(1, thing.revision + 1))
