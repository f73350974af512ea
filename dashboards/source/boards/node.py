"""One edge node: link, spool, twins, brokers, services."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.boards.fleet import LINKED
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number
from dashboards.source.promql import EDGE

DRAIN: Final = 'sum(deriv(twinspan_edge_spool_bytes{node=~"$node"}[10m]))'

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Link",
        "short",
        "Whether EdgeHub is linked to CloudHub.",
        (f"min({LINKED})", "link"),
        names={0: "down", 1: "up"},
        steps=Steps(None, 1, falling=True),
    ),
    number(
        "Waiting",
        "short",
        "Uploads on the node's disk.",
        (EDGE.now("twinspan_edge_spool_messages"), "waiting"),
    ),
    number(
        "Bytes waiting",
        "bytes",
        "On the node's disk.",
        (EDGE.now("twinspan_edge_spool_bytes"), "bytes"),
    ),
    number(
        "Growth of what waits",
        "Bps",
        "Over ten minutes; below nothing it drains.",
        (DRAIN, "growth"),
        steps=Steps(1, 10_000),
    ),
    number(
        "Memory",
        "bytes",
        "Of EdgeCore's process; its goal is to stay below 60 MB without containers.",
        (EDGE.now("process_resident_memory_bytes", how="max"), "resident"),
    ),
    number(
        "Event loop lag, p99",
        "s",
        "How late EdgeCore gets to what is due.",
        (EDGE.quantile(0.99, names.LAG), "lag"),
        steps=Steps(0.05, 0.25),
    ),
)
LINK: Final[tuple[Panel, ...]] = (
    lines(
        "Link over time",
        "short",
        "1 while linked.",
        (f"min by (node) ({LINKED})", "{{node}}"),
        top=1.0,
    ),
    lines(
        "Messages on the link",
        "cps",
        "out: to the cloud, in: from it; unreadable ones by themselves.",
        (EDGE.rate("twinspan_edge_link_messages_total", "direction"), "{{direction}}"),
        (EDGE.rate("twinspan_edge_link_refused_total"), "unreadable"),
    ),
    lines(
        "The cloud's answers to uploads",
        "cps",
        "taken is good; others are tried again or refused for good.",
        (EDGE.rate("twinspan_edge_uploads_answered_total", "verdict"), "{{verdict}}"),
    ),
)
SPOOL: Final[tuple[Panel, ...]] = (
    lines(
        "Waiting on disk",
        "short",
        "Uploads by type. Above nothing for long: the link is slow, or no application takes them.",
        (EDGE.now("twinspan_edge_spool_messages", "type"), "{{type}}"),
    ),
    lines(
        "Taken at the edge",
        "cps",
        "Telemetry and events by outcome of writing them to disk.",
        (EDGE.rate("twinspan_edge_spooled_total", "type, outcome"), "{{type}} {{outcome}}"),
    ),
    lines(
        "Share of the spool in use",
        "percentunit",
        "When it is full, the oldest telemetry is dropped and new events are refused.",
        (
            f"{EDGE.now('twinspan_edge_spool_bytes', 'node, type')} / "
            f"{EDGE.now('twinspan_edge_spool_limit_bytes', 'node, type')}",
            "{{node}} {{type}}",
        ),
        steps=Steps(0.5, 0.8),
    ),
    lines(
        "Time until the spool is full",
        "s",
        "At the rate of the last ten minutes, as if the cloud took nothing from now on.",
        (
            EDGE.now("twinspan_edge_spool_seconds_left", "node, type", how="min"),
            "{{node}} {{type}}",
        ),
        needs="devices that send",
    ),
    lines(
        "Lost",
        "cps",
        "dropped_oldest: the spool was full; others: refused by the cloud for good, or damaged on disk.",
        (EDGE.rate("twinspan_edge_loss_total", "cause"), "{{cause}}"),
        steps=Steps(None, 0.001),
        quiet="nothing was lost",
    ),
)
TWINS: Final[tuple[Panel, ...]] = (
    lines(
        "Twin updates",
        "cps",
        "By who asked (cloud, mapper, MQTT) and outcome.",
        (
            EDGE.rate("twinspan_edge_twin_updates_total", "origin, outcome"),
            "{{origin}} {{outcome}}",
        ),
    ),
    lines(
        "The cloud's answers to reports",
        "cps",
        "Of twins and states.",
        (EDGE.rate("twinspan_edge_reports_answered_total", "outcome"), "{{outcome}}"),
    ),
    lines(
        "Devices with reports that wait",
        "short",
        "Their last values are on their way or wait for the link.",
        (EDGE.now("twinspan_edge_reporting_devices", "instance"), "{{instance}}"),
    ),
)
LOCAL: Final[tuple[Panel, ...]] = (
    lines(
        "MQTT clients",
        "short",
        "At the edge's own broker; 1 for the external broker while it is connected.",
        (EDGE.now("twinspan_edge_mqtt_clients"), "clients"),
        (EDGE.now("twinspan_edge_external_mqtt_up", how="max"), "external broker"),
    ),
    lines(
        "MQTT messages",
        "cps",
        "in: published by clients, out: delivered to them.",
        (EDGE.rate("twinspan_edge_mqtt_messages_total", "direction"), "{{direction}}"),
    ),
    lines(
        "MQTT messages dropped",
        "cps",
        "A client that is slow or away, a broker that is away, or a message too large.",
        (EDGE.rate("twinspan_edge_mqtt_dropped_total", "cause"), "{{cause}}"),
        quiet="every message was delivered",
    ),
    lines(
        "MetaServer requests",
        "cps",
        "By verb, where the answer came from (the edge's store or the cloud), and outcome.",
        (
            EDGE.rate("twinspan_edge_metaserver_requests_total", "verb, origin, outcome"),
            "{{verb}} {{origin}} {{outcome}}",
        ),
        needs="programs at the edge that use the MetaServer",
    ),
    lines(
        "MetaServer watches",
        "short",
        "That its clients hold.",
        (EDGE.now("twinspan_edge_metaserver_watches"), "watches"),
    ),
    lines(
        "ServiceBus calls",
        "cps",
        "HTTP down to services at the edge and up from them.",
        (
            EDGE.rate("twinspan_edge_servicebus_calls_total", "direction, outcome"),
            "{{direction}} {{outcome}}",
        ),
        needs="rules that call services at the edge",
    ),
)
STORE: Final[tuple[Panel, ...]] = (
    lines(
        "Group commit, p99",
        "s",
        "Of the node's database: how slow its disk is.",
        (EDGE.quantile(0.99, names.COMMIT, "store", 'store="edge"'), "{{store}}"),
        steps=Steps(0.25, 1.0),
    ),
    lines(
        "Spans for the cloud",
        "cps",
        "Traces of the edge that travel over the hub, by what became of them.",
        (EDGE.rate("twinspan_edge_spans_total", "outcome"), "{{outcome}}"),
        needs="an edge whose traces go over the hub",
    ),
    lines(
        "Databases set aside",
        "short",
        "Times since start that a damaged database was put aside and begun anew.",
        (EDGE.now("twinspan_edge_stores_set_aside_total", "node"), "{{node}}"),
    ),
    lines(
        "Processor and files",
        "short",
        "Cores in use, open files.",
        (
            EDGE.rate("process_cpu_seconds_total", "instance", 'job=~"twinspan.*"'),
            "cores {{instance}}",
        ),
        (EDGE.now("process_open_fds", "instance", 'job=~"twinspan.*"'), "files {{instance}}"),
    ),
)

BOARD: Final = Board(
    "node",
    "Twinspan / Edge node",
    "One edge node: its link, its spool, its twins, and what runs on it.",
    (variables.ONE_NODE,),
    (
        Row("Now", NOW),
        Row("Link", LINK),
        Row("Spool", SPOOL),
        Row("Twins", TWINS),
        Row("Broker, MetaServer, ServiceBus", LOCAL),
        Row("Store and process", STORE),
    ),
)
TO_DEVICES: Final = Link("Devices and mappers", "twinspan-devices", "${node:queryparam}")
