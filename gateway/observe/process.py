"""Meters of this process under the names that Hono's process dashboard asks for.

There is no Java here: memory is what the process holds of the machine's, pauses are those of Python's own
garbage collector. Shares of the processors are those since the last scrape. Linux tells all of it; elsewhere
what cannot be read is left out.
Source: Micrometer's JVM, processor and file descriptor meters, as Hono exports them.
"""

from __future__ import annotations

import gc
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

LEVELS: Final = {
    logging.DEBUG: "debug",
    logging.INFO: "info",
    logging.WARNING: "warn",
    logging.ERROR: "error",
    logging.CRITICAL: "error",
}
_PROC: Final = Path("/proc")
_LIMITS: Final = (
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
_Gauge = tuple[str, str, Callable[[], float]]


class ProcessMeters(Collector):
    """The collector; `watching` makes it hear of pauses and of what is logged."""

    def __init__(self) -> None:
        self._pauses, self._paused = 0, 0.0
        self._began = 0.0
        self._peak_threads = 0
        self._logged = dict.fromkeys(("trace", *LEVELS.values()), 0)
        self._own = _Share(lambda: (time.process_time(), time.perf_counter() * _processors()))
        self._machine = _Share(_busy_and_all)
        self._gauges: tuple[_Gauge, ...] = (
            ("jvm_memory_used_bytes", "Memory that this process holds.", _resident),
            ("jvm_memory_max_bytes", "Memory that this process may hold.", _memory_limit),
            ("jvm_threads_live_threads", "Threads of this process.", threading.active_count),
            ("jvm_threads_peak_threads", "Most threads that a scrape has seen.", self._peak),
            ("process_cpu_usage", "Share of all processors that this process uses.", self._own),
            ("system_cpu_usage", "Share of all processors in use.", self._machine),
            ("system_cpu_count", "Processors that this process may use.", _processors),
            ("process_files_open_files", "Open file descriptors.", _open_files),
        )

    def collect(self) -> Iterator[Metric]:
        for name, documentation, source in self._gauges:
            with suppress(OSError, ValueError):
                yield GaugeMetricFamily(name, documentation, value=source())
        yield SummaryMetricFamily(
            "jvm_gc_pause_seconds",
            "Time in Python's garbage collector.",
            count_value=self._pauses,
            sum_value=self._paused,
        )
        family = CounterMetricFamily("logback_events", "Lines logged, by level.", labels=("level",))
        for level, count in self._logged.items():
            family.add_metric((level,), count)
        yield family

    def _peak(self) -> int:
        self._peak_threads = max(self._peak_threads, threading.active_count())
        return self._peak_threads

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Count pauses of the garbage collector and log lines for the length of the block."""
        counting = _Counting(self._logged)
        logging.getLogger().addHandler(counting)
        gc.callbacks.append(self._on_gc)
        try:
            yield
        finally:
            gc.callbacks.remove(self._on_gc)
            logging.getLogger().removeHandler(counting)

    def _on_gc(self, phase: str, _info: Mapping[str, int]) -> None:
        now = time.perf_counter()
        if phase == "start":
            self._began = now
        else:
            self._pauses += 1
            self._paused += now - self._began


class _Counting(logging.Handler):
    """Counts records by level."""

    def __init__(self, counts: dict[str, int]) -> None:
        super().__init__()
        self._counts = counts

    def emit(self, record: logging.LogRecord) -> None:
        self._counts[LEVELS.get(record.levelno, "trace")] += 1


class _Share:
    """Part of a whole since it was last asked, from two clocks that only go up."""

    def __init__(self, read: Callable[[], tuple[float, float]]) -> None:
        self._read = read
        self._last = (0.0, 0.0)
        with suppress(OSError, ValueError):
            self._last = read()

    def __call__(self) -> float:
        part, whole = now = self._read()
        last_part, last_whole = self._last
        self._last = now
        if whole <= last_whole:
            return 0.0
        return min(1.0, max(0.0, (part - last_part) / (whole - last_whole)))


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _resident() -> float:
    pages = (_PROC / "self/statm").read_text().split()[1]
    return int(pages) * os.sysconf("SC_PAGE_SIZE")


def _memory_limit() -> float:
    """The machine's memory, or less where the process was given less."""
    found = float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    for file in _LIMITS:
        with suppress(OSError, ValueError):
            found = min(found, float(file.read_text()))
    return found


def _open_files() -> float:
    return len(os.listdir(_PROC / "self/fd"))


def _busy_and_all() -> tuple[float, float]:
    times = [int(word) for word in (_PROC / "stat").read_text().split("\n", 1)[0].split()[1:9]]
    idle = times[3] + times[4]
    return sum(times) - idle, sum(times)
