"""The processes themselves: modules, event loop, stores, memory, workers."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.panels import Board, Panel, Row, Steps, lines, number, states, table
from dashboards.source.promql import GATEWAY

ENDS: Final = "twinspan_certificate_expiry_timestamp_seconds"
OURS: Final = GATEWAY.of('job=~"twinspan.*"')

MODULES: Final[tuple[Panel, ...]] = (
    number(
        "Modules up",
        "short",
        "Parts of the processes that are ready.",
        (GATEWAY.now("twinspan_module_ready"), "up"),
        size=(6, 4),
    ),
    number(
        "Up since",
        "dateTimeFromNow",
        "Start of the process that started last.",
        (f"1000 * {OURS.now('process_start_time_seconds', how='max')}", "start"),
        size=(6, 4),
    ),
    number(
        "Workers up",
        "short",
        "Worker processes with adapters; 0 where the main process has them all.",
        (GATEWAY.now("twinspan_workers"), "workers"),
        size=(6, 4),
    ),
    number(
        "Workers that ended unasked",
        "short",
        "Since start. Each is a crash; another takes its place.",
        (GATEWAY.now("twinspan_worker_ends_total"), "ends"),
        steps=Steps(None, 1),
        size=(6, 4),
    ),
    table(
        "Versions",
        "What runs where.",
        (GATEWAY.at("twinspan_build_info"), ""),
        columns={
            "instance": "Instance",
            "job": "Job",
            "version": "Twinspan",
            "python": "Python",
            "platform": "Machine",
        },
        size=(24, 5),
    ),
    states(
        "Modules",
        "Each module of each process over time.",
        (GATEWAY.at("twinspan_module_ready"), "{{instance}} {{module}}"),
        size=(12, 12),
    ),
    table(
        "Modules that are not ready",
        "With the process that they are part of; its log says why.",
        (f"{GATEWAY.at('twinspan_module_ready')} == 0", ""),
        columns={"instance": "Instance", "module": "Module"},
        size=(12, 12),
        quiet="every module is ready",
    ),
)
LOOP: Final[tuple[Panel, ...]] = (
    lines(
        "Event loop lag",
        "s",
        "How late the loop gets to what is due. It grows before anything else does.",
        (GATEWAY.quantile(0.5, names.LAG, "instance"), "{{instance}} p50"),
        (GATEWAY.quantile(0.99, names.LAG, "instance"), "{{instance}} p99"),
        steps=Steps(0.05, 0.25),
    ),
    lines(
        "Group commit, p99",
        "s",
        "Time to write a batch to disk, by store.",
        (GATEWAY.quantile(0.99, names.COMMIT, "instance, store"), "{{instance}} {{store}}"),
        steps=Steps(0.25, 1.0),
    ),
    lines(
        "Writes that wait",
        "short",
        "For the store's writer; at 10,000 the store answers 503.",
        (GATEWAY.now("twinspan_store_queue_depth", "instance, store"), "{{instance}} {{store}}"),
        steps=Steps(1_000, 5_000),
    ),
    lines(
        "Commits",
        "cps",
        "Batches written to disk.",
        (GATEWAY.rate(f"{names.COMMIT}_count", "store"), "{{store}}"),
    ),
)
QUEUES: Final[tuple[Panel, ...]] = (
    lines(
        "Share of queues in use",
        "percentunit",
        "When a queue is full it refuses, drops or pauses its source.",
        (
            f"{GATEWAY.now('twinspan_queue_depth', 'instance, queue')} / "
            f"{GATEWAY.now('twinspan_queue_limit', 'instance, queue')}",
            "{{instance}} {{queue}}",
        ),
        steps=Steps(0.5, 0.9),
    ),
    lines(
        "Reads of stores, p99",
        "s",
        "With their wait for a reader's thread.",
        (
            GATEWAY.quantile(0.99, "twinspan_store_read_duration_seconds", "instance, store"),
            "{{instance}} {{store}}",
        ),
    ),
    lines(
        "Reads that wait",
        "short",
        "For a reader's thread.",
        (
            GATEWAY.now("twinspan_store_read_queue_depth", "instance, store"),
            "{{instance}} {{store}}",
        ),
    ),
    lines(
        "Free on disk",
        "percentunit",
        "Part of the disk where a store is.",
        (
            f"{GATEWAY.now('twinspan_disk_free_bytes', 'instance, store', how='min')} / "
            f"{GATEWAY.now('twinspan_disk_size_bytes', 'instance, store', how='min')}",
            "{{instance}} {{store}}",
        ),
        steps=Steps(0.2, 0.1, falling=True),
    ),
    table(
        "Certificates",
        "When the certificates that processes use end. EdgeCore renews its own at 70 to 90 % of its life.",
        (
            f"{GATEWAY.now(ENDS, 'instance, certificate', how='min')} - time()",
            "",
        ),
        columns={"instance": "Instance", "certificate": "Certificate", "Value": "Ends in"},
        units={"Ends in": "s"},
        size=(8, 8),
    ),
    states(
        "Stores that cannot write",
        "A full or broken disk: the store answers 503 until it can write again.",
        (GATEWAY.at("twinspan_store_faulty"), "{{instance}} {{store}}"),
        names={0: "writes", 1: "cannot write"},
        steps=Steps(None, 1),
    ),
    lines(
        "Spans for the collector",
        "cps",
        "dropped: too many waited; failed: the collector did not take them in time.",
        (GATEWAY.rate("twinspan_otlp_spans_total", "outcome"), "{{outcome}}"),
        needs="traces that are exported (`observe.traces.otlp`)",
    ),
    lines(
        "Log records for the collector",
        "cps",
        "As for spans: sent is good.",
        (GATEWAY.rate("twinspan_otlp_logs_total", "outcome"), "{{outcome}}"),
        needs="logs that are exported over OTLP",
    ),
)
PROCESS: Final[tuple[Panel, ...]] = (
    lines(
        "Processor",
        "percentunit",
        "1 is one core. Share of all cores that the process and the machine use as separate curves.",
        (OURS.rate("process_cpu_seconds_total", "instance"), "{{instance}}"),
        (GATEWAY.now("system_cpu_usage", "host", how="max"), "machine {{host}}"),
    ),
    lines(
        "Memory",
        "bytes",
        "Resident, and what the process may hold.",
        (OURS.now("process_resident_memory_bytes", "instance"), "{{instance}}"),
        (GATEWAY.now("jvm_memory_max_bytes", "host", how="max"), "limit {{host}}"),
    ),
    lines(
        "Open files",
        "percentunit",
        "Part of what the process may open. Each connection is one.",
        (
            f"{OURS.now('process_open_fds', 'instance')} / {OURS.now('process_max_fds', 'instance')}",
            "{{instance}}",
        ),
        steps=Steps(0.8, 0.95),
    ),
    lines(
        "Threads",
        "short",
        "Live, and the most that a scrape has seen.",
        (GATEWAY.now("jvm_threads_live_threads", "instance"), "{{instance}}"),
        (GATEWAY.now("jvm_threads_peak_threads", "instance"), "{{instance}} peak"),
    ),
    lines(
        "Time in garbage collection",
        "percentunit",
        "Part of each second in which nothing else runs.",
        (GATEWAY.rate("jvm_gc_pause_seconds_sum", "instance"), "{{instance}}"),
    ),
    lines(
        "Log lines by level",
        "cps",
        "Warnings and errors are worth reading.",
        (GATEWAY.rate("logback_events_total", "level"), "{{level}}"),
    ),
)

BOARD: Final = Board(
    "runtime",
    "Twinspan / Runtime",
    "Twinspan's processes: modules, event loop, stores, memory, workers.",
    (variables.INSTANCE,),
    (
        Row("Modules", MODULES),
        Row("Event loop and stores", LOOP),
        Row("Queues, reads, export", QUEUES),
        Row("Process", PROCESS),
    ),
)
