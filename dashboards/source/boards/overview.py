"""Is all well? One look at everything, each part leading to the dashboard that tells more."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number, states, table
from dashboards.source.promql import EDGE, GATEWAY, MESSAGING

MESSAGING_LINK: Final = Link("Messaging", "twinspan-messaging", "${tenant:queryparam}")
FLEET_LINK: Final = Link("Edge fleet", "twinspan-fleet")
RUNTIME_LINK: Final = Link("Runtime", "twinspan-runtime", "${instance:queryparam}")

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Uploads",
        "cps",
        "Telemetry and events a second that adapters took, whatever became of them.",
        (MESSAGING.rate(f"{names.TELEMETRY}_count"), "uploads"),
        links=(MESSAGING_LINK,),
    ),
    number(
        "Uploads that failed",
        "percentunit",
        "Part of all uploads that no application and no twin took.",
        (MESSAGING.share(f"{names.TELEMETRY}_count", 'status="undeliverable"'), "failed"),
        steps=Steps(0.01, 0.05),
        links=(MESSAGING_LINK,),
    ),
    number(
        "Connected devices",
        "short",
        "Devices with an open, authenticated connection (MQTT, AMQP).",
        (MESSAGING.now("hono_connections_authenticated"), "devices"),
        links=(MESSAGING_LINK,),
    ),
    number(
        "Nodes linked",
        "short",
        "Edge nodes connected to CloudHub.",
        (GATEWAY.now("twinspan_cloudhub_connected_nodes"), "nodes"),
        links=(FLEET_LINK,),
    ),
    number(
        "Modules down",
        "short",
        "Parts of Twinspan's processes that are not ready.",
        (
            f"{GATEWAY.now('twinspan_module_ready', how='count')} - {GATEWAY.now('twinspan_module_ready')}",
            "down",
        ),
        steps=Steps(None, 1),
        links=(RUNTIME_LINK,),
    ),
    number(
        "Event loop lag, p99",
        "s",
        "How late the process gets to what is due. Above 100 ms devices notice.",
        (GATEWAY.quantile(0.99, names.LAG), "lag"),
        steps=Steps(0.05, 0.25),
        links=(RUNTIME_LINK,),
    ),
)
DEVICES: Final[tuple[Panel, ...]] = (
    lines(
        "Telemetry and events by outcome",
        "cps",
        "undeliverable: no consumer, no credit, or too slow; unprocessable: the device's fault.",
        (MESSAGING.rate(f"{names.TELEMETRY}_count", "type, status"), "{{type}} {{status}}"),
        links=(MESSAGING_LINK,),
    ),
    lines(
        "Commands by outcome",
        "cps",
        "Commands to devices, and devices' answers.",
        (
            MESSAGING.rate(f"{names.COMMANDS}_count", "direction, status"),
            "{{direction}} {{status}}",
        ),
        links=(Link("Command & control", "twinspan-commands"),),
    ),
    lines(
        "Thing commands by outcome",
        "cps",
        "What applications, devices and controllers asked of digital twins.",
        (GATEWAY.rate(names.THING_COMMANDS, "outcome"), "{{outcome}}"),
        links=(Link("Twins", "twinspan-twins"),),
    ),
)
EDGE_PANELS: Final[tuple[Panel, ...]] = (
    states(
        "Links of nodes",
        "Whether each node is connected, as CloudCore sees it.",
        (EDGE.now("twinspan_cloudhub_node_connected", "node", how="max"), "{{node}}"),
        links=(Link("This node", "twinspan-node", "var-node=${__field.labels.node}"),),
    ),
    lines(
        "Waiting at the edge",
        "short",
        "Telemetry and events on nodes' disks that the cloud has not taken yet.",
        (EDGE.now("twinspan_edge_spool_messages", "type"), "{{type}}"),
        links=(FLEET_LINK,),
    ),
    lines(
        "Reads of devices by quality",
        "cps",
        "Properties that mappers read; bad and uncertain ones are not reported.",
        (
            EDGE.rate("twinspan_edge_mapper_reads_total", "driver, quality"),
            "{{driver}} {{quality}}",
        ),
        links=(Link("Devices and mappers", "twinspan-devices"),),
    ),
)
SERVICES: Final[tuple[Panel, ...]] = (
    table(
        "Processes",
        "What Prometheus scrapes. Up is 0 where it gets no answer.",
        ('up{job=~"twinspan.*"}', ""),
        columns={"job": "Job", "instance": "Instance", "node": "Node", "Value": "Up"},
        links=(Link("Runtime", "twinspan-runtime", "var-instance=${__data.fields.Instance}"),),
    ),
    lines(
        "Time to a durable answer, p99",
        "s",
        "Uploads until their outcome, thing commands until they are on disk.",
        (MESSAGING.quantile(0.99, names.TELEMETRY, "type"), "{{type}}"),
        (GATEWAY.quantile(0.99, names.THING_SECONDS), "thing command"),
        size=(12, 8),
        steps=Steps(0.5, 1.0),
    ),
)

BOARD: Final = Board(
    "overview",
    "Twinspan / Overview",
    "Is all well, and where to look if not.",
    (variables.INSTANCE, variables.TENANT, variables.NODE),
    (
        Row("Now", NOW),
        Row("Devices and twins", DEVICES),
        Row("Edge", EDGE_PANELS),
        Row("Processes", SERVICES),
    ),
)
