"""Network namespaces of tests: a thread with a network of its own, and a Pod-like neighbour behind a cable.

A namespace goes with the last thread or process in it: nothing is to be cleaned up by name. Needs root.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import subprocess
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import Future
from typing import Any, TypeVar

import pytest

CLONE_NEWNET = 0x40000000
HOST, POD, SUBNET = "10.77.0.1", "10.77.0.2", "10.77.0.0/24"
SECONDS = 60.0

needs_root = pytest.mark.skipif(
    os.geteuid() != 0, reason="needs root: network namespaces of its own"
)
T = TypeVar("T")
Loop = Callable[[], asyncio.AbstractEventLoop]


def ip(*words: str) -> str:
    """Run `ip` in the namespace of this thread."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=True, timeout=10)
    return done.stdout


def in_namespace(work: Callable[[], Awaitable[T]], loop: Loop | None = None) -> T:
    """Run a coroutine in a network of its own, loopback up."""

    async def whole() -> T:
        return await work()

    def run() -> T:
        _unshare()
        with asyncio.Runner(loop_factory=loop) as runner:
            return runner.run(whole())

    return _in_thread(run).result(SECONDS)


def _unshare() -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.unshare(CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "unshare")
    ip("link", "set", "lo", "up")


def _in_thread(run: Callable[[], T]) -> Future[T]:
    future: Future[T] = Future()

    def main() -> None:
        try:
            future.set_result(run())
        except BaseException as error:  # noqa: BLE001  handed to who waits
            future.set_exception(error)

    threading.Thread(target=main, daemon=True).start()
    return future


class Neighbour:
    """A namespace with one cable to ours, as a Pod has it: its own thread runs what it is given."""

    def __init__(self) -> None:
        self._jobs: list[tuple[Callable[[], Any], Future[Any]]] = []
        self._some = threading.Condition()
        self._is_over = False
        self._id = 0
        self._made = threading.Event()
        threading.Thread(target=self._main, daemon=True).start()
        self._made.wait(10)
        ip("link", "add", "cable0", "type", "veth", "peer", "name", "eth0", "netns", str(self._id))
        ip("addr", "add", f"{HOST}/24", "dev", "cable0")
        ip("link", "set", "cable0", "up")
        self._wait(lambda: ip("addr", "add", f"{POD}/24", "dev", "eth0"))
        self._wait(lambda: ip("link", "set", "eth0", "up"))
        self._wait(lambda: ip("route", "add", "default", "via", HOST))

    def _main(self) -> None:
        _unshare()
        self._id = threading.get_native_id()
        self._made.set()
        while True:
            with self._some:
                self._some.wait_for(lambda: bool(self._jobs) or self._is_over)
                if self._is_over:
                    return
                work, future = self._jobs.pop(0)
            try:
                future.set_result(work())
            except BaseException as error:  # noqa: BLE001  handed to who waits
                future.set_exception(error)

    def _wait(self, work: Callable[[], Any]) -> Any:
        return self._give(work).result(10)

    def _give(self, work: Callable[[], T]) -> Future[T]:
        future: Future[T] = Future()
        with self._some:
            self._jobs.append((work, future))
            self._some.notify()
        return future

    async def run(self, work: Callable[[], T]) -> T:
        """Run blocking work in the neighbour's network."""
        return await asyncio.wrap_future(self._give(work))

    def close(self) -> None:
        with self._some:
            self._is_over = True
            self._some.notify()
