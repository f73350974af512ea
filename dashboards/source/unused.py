"""Metrics that no dashboard and no rule asks for, and why."""

from __future__ import annotations

from typing import Final

OTHERS_NAME: Final = (
    "the same as one of ours, under the name that another project's dashboards ask for"
)
PROCESS: Final = (
    "for the dashboards of Hono; ours ask for the metric of prometheus-client that tells the same"
)
PYTHON: Final = "detail of Python's garbage collector; the time that it takes is what is shown"

UNUSED: Final[dict[str, str]] = {
    "KubeEdge_CloudHub_connected_nodes": OTHERS_NAME,
    "streaming_sessions_count": OTHERS_NAME,
    "streaming_messages": OTHERS_NAME,
    "jvm_memory_used_bytes": PROCESS,
    "process_cpu_usage": PROCESS,
    "process_files_open_files": PROCESS,
    "system_cpu_count": PROCESS,
    "process_virtual_memory_bytes": "address space: says nothing about memory in use",
    "python_gc_objects_collected": PYTHON,
    "python_gc_objects_uncollectable": PYTHON,
    "python_gc_collections": PYTHON,
    "hono_tenants_total": "changes when an operator makes tenants, and is in the registry's own list",
}
