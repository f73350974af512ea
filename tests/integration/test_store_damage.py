"""A damaged database is named before anything is written to it, and left as it was found."""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from gateway.errors import StoreUnavailable
from gateway.store.damage import SchemaTooNew, StoreDamaged
from gateway.store.database import Database
from tests.damage import DAMAGES, SCHEMAS, garbage_pages, with_statement
from tests.process import ANY_PORT


async def a_file(path: Path, schema: str) -> None:
    """A store of this schema that was closed as it should be."""
    async with Database(path, schema).running():
        pass


@pytest.mark.parametrize("schema", SCHEMAS)
async def test_a_sound_file_is_opened_again(tmp_path: Path, schema: str) -> None:
    path = tmp_path / f"{schema}.db"
    await a_file(path, schema)
    await a_file(path, schema)


@pytest.mark.parametrize("schema", ["gateway", "kube"])
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
async def test_a_damaged_file_is_named_and_left_as_it_was(
    tmp_path: Path, schema: str, damage: Callable[[Path], None]
) -> None:
    path = tmp_path / f"{schema}.db"
    await a_file(path, schema)
    damage(path)
    before = path.read_bytes()
    with pytest.raises(StoreDamaged) as caught:
        await a_file(path, schema)
    assert caught.value.description
    if not isinstance(caught.value, SchemaTooNew):
        assert str(path) in caught.value.message
    assert path.read_bytes() == before
    log = path.with_name(f"{path.name}-wal")  # a reader makes one
    assert not log.exists() or log.stat().st_size == 0


async def test_a_newer_file_says_so(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    await a_file(path, "kube")
    with_statement("PRAGMA user_version=999")(path)
    with pytest.raises(SchemaTooNew, match="version 999"):
        await a_file(path, "kube")


async def test_a_log_that_was_never_written_back_is_part_of_the_file(tmp_path: Path) -> None:
    path, copy = tmp_path / "kube.db", tmp_path / "copy" / "kube.db"
    copy.parent.mkdir()
    async with Database(path, "kube").running():
        for ending in ("", "-wal"):  # as a process leaves them that is killed
            shutil.copy(f"{path}{ending}", f"{copy}{ending}")
    assert copy.with_name("kube.db-wal").stat().st_size > 0
    await a_file(copy, "kube")


async def test_a_file_that_breaks_while_it_is_open_is_told_once(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    await a_file(path, "kube")
    store = Database(path, "kube")
    told: list[StoreDamaged] = []
    store.on_damage = told.append
    async with store.running():
        garbage_pages(path)
        for _ in range(2):
            with pytest.raises(StoreUnavailable, match="malformed"):
                await store.read(lambda c: c.execute("SELECT * FROM objects").fetchall())
        await asyncio.sleep(0)
    assert len(told) == 1
    assert str(path) in told[0].message


async def test_pages_are_read_for_a_while_only(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    await a_file(path, "kube")
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE filler (v BLOB)")
        db.executemany("INSERT INTO filler VALUES (?)", ((bytes(3_000),) for _ in range(20_000)))
    await Database(path, "kube").examine(seconds=0.0)
    await Database(path, "kube").examine(seconds=60.0)


async def test_a_folder_in_the_files_place_is_no_damage(tmp_path: Path) -> None:
    path = tmp_path / "kube.db"
    path.mkdir()
    with pytest.raises(StoreUnavailable, match="cannot be opened"):
        await a_file(path, "kube")


async def test_a_cloud_with_a_damaged_store_does_not_start_and_says_how_to_go_on(
    tmp_path: Path,
) -> None:
    await a_file(tmp_path / "kube.db", "kube")
    garbage_pages(tmp_path / "kube.db")
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "gateway.cli", "cloud", "--data-dir", str(tmp_path)),
        *(word for each in ANY_PORT for word in ("--set", each)),
        stderr=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        _, said = await process.communicate()
    assert process.returncode == 1
    text = said.decode()
    assert f"the kube store {tmp_path / 'kube.db'} is damaged" in text
    assert "from a backup" in text
    assert "Traceback" not in text
