"""One SQLite file: one writer thread with group commit, readers on connections of their own.

Every write is a function that gets the connection and runs inside a savepoint; the writer takes all
that waits (at most `MAX_GROUP`), runs it in one transaction, commits with `synchronous=FULL` and
only then tells the callers. So an acknowledged write survives power loss, and a hundred waiting
writers pay for one sync.

Full: a queue at its bound, a full disk or a broken file answers StoreUnavailable; reads go on, and
writes are tried again with the next group, so a disk that has space again mends itself. Writes that say that
they add something are refused before the disk is full, so that there is room to delete.
"""

from __future__ import annotations

import asyncio
import logging
import queue
import sqlite3
import tempfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, closing, contextmanager, suppress
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from gateway.errors import GatewayError, StoreUnavailable
from gateway.store.damage import (
    BUSY_SECONDS,
    SchemaTooNew,
    StoreDamaged,
    damaged,
    examine,
    is_corrupt,
    opening_failed,
)
from gateway.store.disk import Disk
from gateway.store.reader_threads import ReaderThreads
from gateway.store.search_sql import add_functions

log = logging.getLogger(__name__)

T = TypeVar("T")
Work = Callable[[sqlite3.Connection], T]
Answer = Callable[[T | GatewayError], None]

MAX_GROUP = 500
READERS = 2
EXAMINE_SECONDS = 3.0
"""How long a start reads a file's pages to find damage; about half a gigabyte from a fast disk."""

_Item = tuple[Work[Any], Answer[Any], bool]


def migrations(schema: str) -> list[tuple[int, str]]:
    """Return the numbered scripts of a schema, oldest first: `0001_title.sql` is version 1."""
    folder = resources.files("gateway.store") / "schema" / schema
    scripts = [
        (int(entry.name[:4]), entry.read_text("utf-8"))
        for entry in folder.iterdir()
        if entry.name.endswith(".sql")
    ]
    return sorted(scripts)


def migrate(connection: sqlite3.Connection, scripts: list[tuple[int, str]]) -> None:
    """Bring a database to the newest version, each step in a transaction of its own.

    Errors: SchemaTooNew when the file is ahead of this program.
    """
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    _check_version(version, scripts)
    for number, script in scripts:
        if number > version:
            connection.executescript(
                f"BEGIN IMMEDIATE; {script}\n; PRAGMA user_version={number}; COMMIT;"
            )


def _check_version(version: int, scripts: list[tuple[int, str]]) -> None:
    newest = scripts[-1][0] if scripts else 0
    if version > newest:
        raise SchemaTooNew(f"database is at version {version}, this program knows {newest}")


class Database:
    """A database file, or a temporary one that goes with the block when `path` is None (tests).

    Shape:  `schema` names a folder under `gateway/store/schema`; `gives_back` makes a new file so that free
            pages can be given back to the file system.
    Units:  `min_free` in bytes of the disk that writes with `grows` leave free; 0 for none.
    """

    def __init__(
        self,
        path: Path | None,
        schema: str,
        *,
        max_queue: int = 10_000,
        gives_back: bool = False,
        min_free: int = 0,
    ) -> None:
        self.schema = schema
        self._gives_back = gives_back
        self.path = path
        self._queue: queue.SimpleQueue[_Item | None] = queue.SimpleQueue()
        self._max_queue = max_queue
        self._open_path = path or Path()
        self._min_free = min_free
        self._was_tight = False
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_taking = False
        self._readers: ReaderThreads | None = None
        self.commit_seconds: Callable[[float], None] = _ignore
        """Called from the writer thread with the time of each commit; core points it at a metric."""
        self.read_seconds: Callable[[float], None] = _ignore
        """Called on the loop's thread with the time of each read, its wait included."""
        self.on_damage: Callable[[StoreDamaged], None] = _keep_on
        """Told on the loop's thread when the open file turns out to be broken; it is asked no second time."""
        self._is_damaged = False
        self.fault = ""
        """Why the last group could not be written; empty since one was."""

    @property
    def is_open(self) -> bool:
        """True while writes are taken."""
        return self._is_taking

    @property
    def depth(self) -> int:
        """How many writes wait."""
        return self._queue.qsize()

    @property
    def reads_waiting(self) -> int:
        """How many reads wait for a thread."""
        return 0 if self._readers is None else self._readers.depth

    # --- life ---------------------------------------------------------------------------------

    @asynccontextmanager
    async def running(self, *, is_examined: bool = False) -> AsyncIterator[None]:
        """Open, migrate and serve; leaving waits until all that was queued is written.

        Shape:  `is_examined` when the caller has just had `examine` look at the file.

        Errors: StoreDamaged, SchemaTooNew, before anything is changed.
        """
        self._loop = asyncio.get_running_loop()
        self._is_damaged = False
        with self._file() as self._open_path:
            if not is_examined:
                await self.examine()
            async with self._serving():
                yield

    async def examine(self, seconds: float = EXAMINE_SECONDS) -> None:
        """Look whether the file is sound, before it is opened; see `gateway.store.damage`."""
        scripts = migrations(self.schema)

        def build(empty: sqlite3.Connection, version: int) -> None:
            _check_version(version, scripts)
            migrate(empty, [step for step in scripts if step[0] <= version])

        path = self.path or self._open_path
        await asyncio.to_thread(examine, path, self.schema, build, seconds=seconds)

    @asynccontextmanager
    async def _serving(self) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with closing(self._open()) as writer:
            thread = threading.Thread(
                target=self._write_forever, args=(writer,), name=f"{self.schema}-writer"
            )
            readers = self._readers = ReaderThreads(
                f"{self.schema}-reader",
                self._connect_reader,
                threads=READERS,
                limit=self._max_queue,
            )
            thread.start()
            self._is_taking = True
            try:
                yield
            finally:
                self._is_taking = False  # what came after the end mark would never be answered
                self._queue.put(None)
                await loop.run_in_executor(None, thread.join)
                self._readers = None
                await loop.run_in_executor(None, readers.stop)
                self._loop = None

    def _open(self) -> sqlite3.Connection:
        """Return the writer's connection, on the newest schema."""
        try:
            connection = self._connect()
            try:
                migrate(connection, migrations(self.schema))
            except BaseException:
                connection.close()
                raise
        except sqlite3.Error as error:
            raise opening_failed(self._open_path, self.schema, error) from error
        return connection

    @contextmanager
    def _file(self) -> Iterator[Path]:
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            yield self.path
            return
        with tempfile.TemporaryDirectory(prefix="twinspan-") as folder:
            yield Path(folder) / f"{self.schema}.db"

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(
            self._open_path,
            isolation_level=None,
            timeout=BUSY_SECONDS,
            check_same_thread=False,
            cached_statements=512,
        )
        add_functions(connection)
        if self._gives_back:
            connection.execute("PRAGMA auto_vacuum=INCREMENTAL")  # counts before the first table
        connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; PRAGMA foreign_keys=ON;"
            "PRAGMA temp_store=MEMORY; PRAGMA journal_size_limit=16777216;"
        )
        return connection

    # --- writes -------------------------------------------------------------------------------

    def submit(self, work: Work[T], done: Answer[T], *, grows: bool = False) -> None:
        """Queue a write; `done` gets its result on the loop's thread after the commit.

        Shape:  `grows` for what adds something: it is refused while the disk is nearly full.

        Errors (through `done`): the GatewayError that `work` raised; StoreUnavailable.
        """
        if not self._is_taking:
            done(StoreUnavailable(f"the {self.schema} store is not open"))
            return
        if self._queue.qsize() >= self._max_queue:
            done(StoreUnavailable(f"more than {self._max_queue} writes wait"))
            return
        self._queue.put((work, done, grows))

    async def write(self, work: Work[T], *, grows: bool = False) -> T:
        """Run a write and return its result once it is durable.

        Shape, errors: as `submit`.
        """
        future: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        def done(result: T | GatewayError) -> None:
            if future.done():
                return
            if isinstance(result, GatewayError):
                future.set_exception(result)
            else:
                future.set_result(result)

        self.submit(work, done, grows=grows)
        return await future

    def _write_forever(self, connection: sqlite3.Connection) -> None:
        open_ = True
        while open_:
            item = self._queue.get()
            if item is None:
                break
            group = [item]
            open_ = self._gather(group)
            self._commit(connection, group)

    def _gather(self, group: list[_Item]) -> bool:
        """Add what else waits; False when the end mark was among it.

        Nothing is waited for: while one group syncs, the next one collects by itself.
        """
        while len(group) < MAX_GROUP:
            try:
                item = self._queue.get_nowait()
            except queue.Empty:
                return True
            if item is None:
                return False
            group.append(item)
        return True

    def _commit(self, connection: sqlite3.Connection, group: list[_Item]) -> None:
        started = time.perf_counter()
        tight = self._tightness()
        answers: list[tuple[Answer[Any], Any]] = []
        try:
            connection.execute("BEGIN IMMEDIATE")
            for work, done, grows in group:
                result = tight if tight and grows else _in_savepoint(connection, work)
                answers.append((done, result))
            connection.execute("COMMIT")
            self.fault = ""
        except sqlite3.Error as error:
            self.fault = str(error)
            log.warning("store cannot write", extra={"store": self.schema, "cause": str(error)})
            self._note_damage(error)
            _undo(connection)
            refusal = StoreUnavailable(f"the {self.schema} store cannot write: {error}")
            answers = [(done, refusal) for _, done, _ in group]
        self.commit_seconds(time.perf_counter() - started)
        loop = self._loop
        if loop is not None and not loop.is_closed():
            loop.call_soon_threadsafe(_tell, answers)

    def _tightness(self) -> StoreUnavailable | None:
        """Return how to refuse what would grow the file; None while there is room."""
        is_tight = self._min_free > 0 and Disk(self._open_path.parent, self._min_free).is_tight
        if is_tight is not self._was_tight:
            self._was_tight = is_tight
            text = "the disk is nearly full" if is_tight else "the disk has room again"
            log.warning(text, extra={"store": self.schema})
        if not is_tight:
            return None
        return StoreUnavailable(f"the disk is nearly full: the {self.schema} store takes no more")

    # --- reads --------------------------------------------------------------------------------

    async def read(self, work: Work[T]) -> T:
        """Run a read on a reader's connection; it sees everything that was acknowledged before.

        Errors: StoreUnavailable when the store is closed or the file cannot be read.
        """
        if self._readers is None:
            raise StoreUnavailable(f"the {self.schema} store is not open")
        started = time.perf_counter()
        try:
            result = await self._readers.read(work)
            self.read_seconds(time.perf_counter() - started)
            return result
        except sqlite3.Error as error:
            self._note_damage(error)
            raise StoreUnavailable(f"the {self.schema} store cannot read: {error}") from error

    def _note_damage(self, error: sqlite3.Error) -> None:
        """Tell, once and from any thread, that the open file is broken."""
        loop = self._loop
        if self._is_damaged or not is_corrupt(error) or loop is None or loop.is_closed():
            return
        self._is_damaged = True
        found = damaged(self._open_path, self.schema, str(error))
        log.error("store is damaged", extra={"store": self.schema, "cause": found.message})
        loop.call_soon_threadsafe(self.on_damage, found)

    def _connect_reader(self) -> sqlite3.Connection:
        connection = self._connect()
        connection.execute("PRAGMA query_only=ON")
        return connection


def _ignore(_seconds: float) -> None:
    """Nobody measures."""


def _keep_on(_damage: StoreDamaged) -> None:
    """What can still be read and written is; the log has told."""


def _undo(connection: sqlite3.Connection) -> None:
    """Take back a group, and give the log's room back: on a full disk the next delete needs it."""
    for statement in ("ROLLBACK", "PRAGMA wal_checkpoint(TRUNCATE)"):
        with suppress(sqlite3.Error):  # the writer has to live on
            connection.execute(statement)


def _in_savepoint(connection: sqlite3.Connection, work: Work[T]) -> T | GatewayError:
    """Run one item of a group so that its failure undoes its own changes alone."""
    connection.execute("SAVEPOINT item")
    try:
        result: T | GatewayError = work(connection)
    except GatewayError as error:
        connection.execute("ROLLBACK TO item")
        result = error
    except sqlite3.IntegrityError as error:
        connection.execute("ROLLBACK TO item")
        result = GatewayError(f"store: {error}")
    except sqlite3.Error:
        raise  # disk full, I/O error: the whole group is undone and answered
    except Exception as error:  # a bug in one item must not take down the writer
        log.exception("a write failed")
        connection.execute("ROLLBACK TO item")
        result = GatewayError(f"store: {type(error).__name__}")
    connection.execute("RELEASE item")
    return result


def _tell(answers: list[tuple[Answer[Any], Any]]) -> None:
    for done, result in answers:
        try:
            done(result)
        except Exception:  # top of a callback: the others of the group must hear theirs
            log.exception("an answer of the store was not taken")
