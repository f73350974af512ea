"""Writes the Grafana dashboards: `python scripts/dashboards.py [--check]`.

Panels are rows of a table here, so that a query, its unit and its legend stand on one line; the JSON in
`dashboards/` is what Grafana imports.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).parent.parent / "dashboards"
RATE = "[$__rate_interval]"
TENANT = 'tenant=~"$tenant"'


@dataclass(frozen=True)
class Panel:
    """One panel: `unit` as Grafana names it; `queries` are (PromQL, legend)."""

    title: str
    unit: str
    queries: tuple[tuple[str, str], ...]
    kind: str = "timeseries"
    description: str = ""


def rate(metric: str, by: str, where: str = "") -> str:
    """Return the summed rate of a counter by labels."""
    return f"sum by ({by}) (rate({metric}{{{where}}}{RATE}))"


def quantile(q: float, metric: str, by: str, where: str = "") -> str:
    """Return a quantile of a histogram by labels."""
    return f"histogram_quantile({q}, sum by (le, {by}) (rate({metric}_bucket{{{where}}}{RATE})))"


TELEMETRY = "hono_telemetry_processing_duration_seconds"
COMMANDS = "hono_command_processing_duration_seconds"

OVERVIEW: tuple[tuple[str, tuple[Panel, ...]], ...] = (
    (
        "Devices",
        (
            Panel(
                "Telemetry and events by outcome",
                "cps",
                (
                    (
                        rate(f"{TELEMETRY}_count", "tenant, type, status", TENANT),
                        "{{tenant}} {{type}} {{status}}",
                    ),
                ),
                description="Uploads a second as devices saw them end.",
            ),
            Panel(
                "Time to an upload's outcome, p99",
                "s",
                ((quantile(0.99, TELEMETRY, "tenant, type", TENANT), "{{tenant}} {{type}}"),),
            ),
            Panel(
                "Payload from devices",
                "Bps",
                (
                    (
                        rate("hono_telemetry_payload_bytes_sum", "tenant, type", TENANT),
                        "{{tenant}} {{type}}",
                    ),
                ),
            ),
            Panel(
                "Connected devices",
                "short",
                (
                    (
                        f"sum by (tenant, component_name) (hono_connections_authenticated{{{TENANT}}})",
                        "{{tenant}} {{component_name}}",
                    ),
                ),
            ),
            Panel(
                "Attempts to connect by outcome",
                "cps",
                (
                    (
                        rate("hono_connections_attempts_total", "component_name, outcome"),
                        "{{component_name}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Commands by direction and outcome",
                "cps",
                (
                    (
                        rate(f"{COMMANDS}_count", "direction, status", TENANT),
                        "{{direction}} {{status}}",
                    ),
                ),
            ),
        ),
    ),
    (
        "Applications",
        (
            Panel(
                "Attached application links",
                "short",
                (("sum by (type) (twinspan_northbound_links)", "{{type}}"),),
            ),
            Panel(
                "Deliveries by outcome",
                "cps",
                (
                    (
                        rate("hono_amqp_delivery_duration_seconds_count", "type, outcome", TENANT),
                        "{{type}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Events written to disk",
                "cps",
                ((rate("twinspan_events_stored_total", "tenant", TENANT), "{{tenant}}"),),
            ),
        ),
    ),
    (
        "Twins",
        (
            Panel(
                "Thing commands by action and outcome",
                "cps",
                (
                    (
                        rate("twinspan_thing_commands_total", "action, outcome"),
                        "{{action}} {{outcome}}",
                    ),
                ),
            ),
            Panel(
                "Time to a durable answer, p99",
                "s",
                (
                    (
                        quantile(0.99, "twinspan_thing_command_duration_seconds", "action"),
                        "{{action}}",
                    ),
                ),
            ),
            Panel(
                "HTTP requests by server and status",
                "cps",
                (
                    (
                        rate("twinspan_http_requests_total", "server, status"),
                        "{{server}} {{status}}",
                    ),
                ),
            ),
            Panel(
                "Streaming sessions",
                "short",
                (("sum by (kind) (twinspan_stream_sessions)", "{{kind}}"),),
            ),
        ),
    ),
    (
        "Process",
        (
            Panel(
                "Modules that are up",
                "short",
                (("twinspan_module_ready", "{{module}}"),),
                kind="table",
            ),
            Panel(
                "Event loop lag, p99",
                "s",
                (
                    (
                        "histogram_quantile(0.99, sum by (le) "
                        f"(rate(twinspan_event_loop_lag_seconds_bucket{RATE})))",
                        "lag",
                    ),
                ),
            ),
            Panel(
                "Group commit, p99",
                "s",
                ((quantile(0.99, "twinspan_store_commit_duration_seconds", "store"), "{{store}}"),),
            ),
            Panel(
                "Writes that wait",
                "short",
                (("twinspan_store_queue_depth", "{{store}}"),),
            ),
            Panel("Memory", "bytes", (("process_resident_memory_bytes", "resident"),)),
            Panel("CPU", "percentunit", ((f"rate(process_cpu_seconds_total{RATE})", "cpu"),)),
        ),
    ),
)

WIDTH, HEIGHT, COLUMNS = 8, 8, 24


def dashboard(uid: str, title: str, rows: tuple[tuple[str, tuple[Panel, ...]], ...]) -> Any:
    """Return a Grafana dashboard as plain data."""
    panels: list[Any] = []
    y = 0
    for name, members in rows:
        panels.append(
            {
                "id": len(panels) + 1,
                "type": "row",
                "title": name,
                "collapsed": False,
                "panels": [],
                "gridPos": {"x": 0, "y": y, "w": COLUMNS, "h": 1},
            }
        )
        y += 1
        for at, panel in enumerate(members):
            x = at * WIDTH % COLUMNS
            panels.append(_panel(len(panels) + 1, panel, x, y + at * WIDTH // COLUMNS * HEIGHT))
        y += -(-len(members) * WIDTH // COLUMNS) * HEIGHT
    return {
        "uid": uid,
        "title": title,
        "tags": ["twinspan"],
        "schemaVersion": 39,
        "version": 1,
        "editable": True,
        "refresh": "10s",
        "time": {"from": "now-30m", "to": "now"},
        "templating": {"list": [_datasource(), _tenants()]},
        "panels": panels,
    }


def _panel(number: int, panel: Panel, x: int, y: int) -> Any:
    return {
        "id": number,
        "type": panel.kind,
        "title": panel.title,
        "description": panel.description,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "gridPos": {"x": x, "y": y, "w": WIDTH, "h": HEIGHT},
        "fieldConfig": {"defaults": {"unit": panel.unit, "min": 0}, "overrides": []},
        "options": {},
        "targets": [
            {
                "refId": chr(ord("A") + at),
                "expr": expr,
                "legendFormat": legend,
                "instant": panel.kind == "table",
                "range": panel.kind != "table",
            }
            for at, (expr, legend) in enumerate(panel.queries)
        ],
    }


def _datasource() -> Any:
    return {
        "name": "datasource",
        "type": "datasource",
        "query": "prometheus",
        "label": "Prometheus",
    }


def _tenants() -> Any:
    query = "label_values(hono_telemetry_processing_duration_seconds_count, tenant)"
    return {
        "name": "tenant",
        "type": "query",
        "label": "Tenant",
        "multi": True,
        "includeAll": True,
        "allValue": ".*",
        "current": {"text": "All", "value": "$__all"},
        "refresh": 2,
        "datasource": {"type": "prometheus", "uid": "${datasource}"},
        "query": {"query": query, "refId": "tenant"},
        "definition": query,
    }


def files() -> dict[Path, str]:
    """Return what the folder should hold."""
    content = dashboard("twinspan-overview", "Twinspan overview", OVERVIEW)
    return {FOLDER / "overview.json": json.dumps(content, indent=2) + "\n"}


def main() -> None:
    """Write the files, or with --check say which is stale."""
    for file, text in files().items():
        if "--check" in sys.argv:
            if not file.exists() or file.read_text("utf-8") != text:
                sys.exit(f"{file.name} is stale: run python scripts/dashboards.py")
        else:
            file.write_text(text, "utf-8")


if __name__ == "__main__":
    main()
