"""What the Grafana dashboards of Hono's Helm chart ask Prometheus for: metrics and labels, as a table.

Versions: the dashboards with uid QpiDB0Bmz (overview), rcEOBABmk (message details), 9kSOf0fiz (process
details), as of Hono 2.x. The queries are made from the table; the dashboards themselves are not ours.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

TIMES = "hono_telemetry_processing_duration_seconds_count"
SIZES = "hono_telemetry_payload_bytes_sum"
COMMAND_TIMES = "hono_command_processing_duration_seconds_count"
COMMAND_SIZES = "hono_command_payload_bytes_sum"
STATUSES = ("unprocessable", "undeliverable", "forwarded")
TO_DEVICES = 'direction=~"one-way|request"'
CHOSEN = 'component_name=~"{component_name}",type=~"{type}",tenant=~".+",host=~"{host}"'
HOST = 'host=~"{host}"'
WINDOW = "1m"

VARIABLES: Mapping[str, str] = {"component_name": TIMES, "type": TIMES, "host": TIMES}
"""Template variables, each filled with the values that this label has in a metric."""
PROCESS_VARIABLE = ("host", "jvm_threads_peak_threads")
NOT_THERE = ("jvm_gc_memory_promoted_bytes_total",)
"""Asked for and not given: Python does not say how much memory outlives a collection."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One query: function over a selector, maybe as percentage of what another selector gives.

    Shape:  `matchers` with the variables in braces; `of` None, or the matchers of the whole.
    """

    metric: str
    matchers: str
    function: str = "irate"
    of: str | None = None
    is_summed: bool = True

    def query(self, values: Mapping[str, str]) -> str:
        """The PromQL with the variables filled in."""
        part = self._selected(self.matchers, values)
        if self.of is None:
            return part
        return f"100 * {part} / {self._selected(self.of, values)}"

    def _selected(self, matchers: str, values: Mapping[str, str]) -> str:
        selector = f"{self.metric}{{{matchers.format_map(values)}}}"
        if self.function:
            selector = f"{self.function}({selector}[{WINDOW}])"
        return f"sum({selector})" if self.is_summed else selector


def overview() -> Iterator[Ask]:
    """Rates and payload by status, and what could not be delivered."""
    for metric in (TIMES, SIZES):
        for kind in ("telemetry", "event"):
            for status in STATUSES:
                yield Ask(metric, f'type="{kind}",status="{status}"')
    for metric in (COMMAND_TIMES, COMMAND_SIZES):
        for status in STATUSES:
            yield Ask(metric, f'{TO_DEVICES},status="{status}"')
    lost = 'status="undeliverable"'
    for qos in ("0", "1"):
        whole = f'type="telemetry",qos="{qos}"'
        yield Ask(TIMES, f"{whole},{lost}", of=whole)
    yield Ask(TIMES, f'type="event",{lost}', of='type="event"')
    yield Ask(COMMAND_TIMES, f"{TO_DEVICES},{lost}", of=TO_DEVICES)
    yield Ask("up", "", function="")


def message_details() -> Iterator[Ask]:
    """The same for chosen adapters, tenants, types and machines."""
    for metric in (TIMES, SIZES):
        for status in STATUSES:
            yield Ask(metric, f'status="{status}",{CHOSEN}')
    yield Ask(TIMES, f'status="forwarded",{CHOSEN}', function="rate")
    yield Ask(SIZES, CHOSEN, function="rate")
    yield Ask(TIMES, f'status!="forwarded",{CHOSEN}', function="rate", of=CHOSEN)


def process_details() -> Iterator[Ask]:
    """Memory, pauses, processors, files, threads and log lines of the process."""
    for metric in (
        "jvm_memory_used_bytes",
        "jvm_memory_max_bytes",
        "system_cpu_count",
        "jvm_threads_live_threads",
        "jvm_threads_peak_threads",
    ):
        yield Ask(metric, HOST, function="")
    for metric in ("process_cpu_usage", "system_cpu_usage", "process_files_open_files"):
        yield Ask(metric, HOST, function="", is_summed=False)
    yield Ask("jvm_gc_pause_seconds_sum", HOST, function="rate")
    yield Ask("logback_events_total", HOST, function="rate", is_summed=False)
    for level in ("debug|trace", "info", "warn", "error"):
        yield Ask("logback_events_total", f'level=~"{level}",{HOST}', function="increase")


DASHBOARDS = {
    "overview": tuple(overview()),
    "message details": tuple(message_details()),
    "process details": tuple(process_details()),
}
