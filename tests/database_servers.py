"""Debian's Redis and MariaDB as processes of a test: on free ports, in folders of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pymysql
import pytest

from edge.mappers.pushaddress import Address
from edge.mappers.redisclient import RedisClient
from tests.ports import free_port

PATIENCE = 60.0
PASSWORD = "pass-w0rd"


def program(name: str) -> str:
    """The path of a server; the test says that it did not run where it is not installed."""
    for path in (None, "/usr/sbin:/usr/local/sbin:/sbin"):
        found = shutil.which(name, path=path)
        if found is not None:
            return found
    pytest.skip(f"NOT RUN: {name} is not installed; scripts/debian-packages.sh installs it")


@asynccontextmanager
async def a_process(*words: str, port: int) -> AsyncIterator[None]:
    """Run a server until the block ends; the block begins when it listens."""
    process = await asyncio.create_subprocess_exec(
        *words, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while not await _listens(port):
                assert process.returncode is None, f"{words[0]} did not start"
                await asyncio.sleep(0.05)
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        await process.wait()


async def _listens(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


# --- Redis -----------------------------------------------------------------------------------------


@asynccontextmanager
async def redis(folder: Path, *more: str, port: int = 0) -> AsyncIterator[Address]:
    """A Redis server with a password."""
    at = port or free_port()
    words = ("--bind", "127.0.0.1", "--port", str(at), "--save", "", "--dir", str(folder))
    async with a_process(
        program("redis-server"), *words, "--requirepass", PASSWORD, *more, port=at
    ):
        yield Address("127.0.0.1", at, is_secure=False)


async def redis_cli(address: Address, *words: str) -> list[str]:
    """Ask with Redis' own client; return its lines."""
    process = await asyncio.create_subprocess_exec(
        *(program("redis-cli"), "-p", str(address.port), "--no-auth-warning", *words),
        env={**os.environ, "REDISCLI_AUTH": PASSWORD},
        stdout=asyncio.subprocess.PIPE,
    )
    out, _ = await process.communicate()
    return out.decode().splitlines()


async def redis_client(address: Address, database: int = 0) -> RedisClient:
    return await RedisClient.connect(address, PASSWORD, database)


# --- MariaDB ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MariaDb:
    """A running server; its users: root over the socket, `mapper` with the password over TCP."""

    port: int
    socket: Path

    def run(self, *statements: str) -> list[tuple[Any, ...]]:
        """Run statements as root; return the rows of the last."""
        connection = pymysql.connect(user="root", unix_socket=str(self.socket), autocommit=True)
        with connection, connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
            return list(cursor.fetchall())

    async def ask(self, *statements: str) -> list[tuple[Any, ...]]:
        return await asyncio.to_thread(self.run, *statements)


async def install(folder: Path) -> None:
    """Make an empty data directory."""
    process = await asyncio.create_subprocess_exec(
        *(program("mariadb-install-db"), "--no-defaults", f"--datadir={folder}"),
        *("--auth-root-authentication-method=normal", "--skip-test-db", *_user()),
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    _, said = await process.communicate()
    assert process.returncode == 0, said.decode()


@asynccontextmanager
async def mariadb(folder: Path, *more: str, port: int = 0) -> AsyncIterator[MariaDb]:
    """Run MariaDB on a data directory that `install` made."""
    at = port or free_port()
    place = folder / "s"
    async with a_process(
        *(program("mariadbd"), "--no-defaults", f"--datadir={folder}", f"--socket={place}"),
        *("--bind-address=127.0.0.1", f"--port={at}", "--innodb-buffer-pool-size=8M"),
        *("--skip-log-bin", "--innodb-flush-log-at-trx-commit=0", *_user(), *more),
        port=at,
    ):
        yield MariaDb(at, place)


def _user() -> tuple[str, ...]:
    return ("--user=root",) if os.geteuid() == 0 else ()
