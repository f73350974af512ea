"""Devices at the edge and the mappers that speak with them."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number, states, table
from dashboards.source.promql import DRIVER, EDGE

DRIVEN: Final = EDGE.of(DRIVER)
READS: Final = "twinspan_edge_mapper_reads_total"
OWN_PROCESS: Final = (
    "mappers in processes of their own (Bluetooth LE, Zigbee, Modbus, OPC UA, CoAP, HTTP, EdgeX)"
)
DMI: Final = "mappers of KubeEdge's kind, over DMI"

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Reads",
        "cps",
        "Properties read a second.",
        (DRIVEN.rate(READS), "reads"),
        size=(6, 4),
    ),
    number(
        "Reads that are not good",
        "percentunit",
        "Bad or uncertain; they are not reported to the twin.",
        (DRIVEN.share(READS, 'quality!="good"'), "not good"),
        steps=Steps(0.01, 0.1),
        size=(6, 4),
        quiet="every read was good",
    ),
    number(
        "Writes",
        "cps",
        "Values written to devices a second.",
        (DRIVEN.rate("twinspan_edge_mapper_writes_total"), "writes"),
        size=(6, 4),
    ),
    number(
        "Mapper processes down",
        "short",
        "Protocols whose mapper does not run though Devices need it.",
        (f"count({DRIVEN.at('twinspan_edge_mapper_up')} == 0)", "down"),
        steps=Steps(None, 1),
        size=(6, 4),
        quiet="every mapper runs",
    ),
)
VALUES: Final[tuple[Panel, ...]] = (
    lines(
        "Reads by protocol and quality",
        "cps",
        "bad: the device did not answer or answered with nonsense; uncertain: the value is stale.",
        (DRIVEN.rate(READS, "driver, quality"), "{{driver}} {{quality}}"),
    ),
    lines(
        "Reads by node",
        "cps",
        "Which node's devices are read.",
        (DRIVEN.rate(READS, "node, instance"), "{{node}} {{instance}}"),
        links=(Link("This node", "twinspan-node", "var-node=${__field.labels.node}"),),
    ),
    lines(
        "Writes by protocol and outcome",
        "cps",
        "Wanted values that were written to devices.",
        (
            DRIVEN.rate("twinspan_edge_mapper_writes_total", "driver, outcome"),
            "{{driver}} {{outcome}}",
        ),
    ),
)
MAPPERS: Final[tuple[Panel, ...]] = (
    table(
        "Mappers",
        "A line for each protocol on each node.",
        (DRIVEN.now("twinspan_edge_mapper_up", "node, driver", how="min"), ""),
        (DRIVEN.now("twinspan_edge_mapper_hardware_up", "node, driver", how="min"), ""),
        (DRIVEN.now("twinspan_edge_mapper_devices", "node, driver"), ""),
        (DRIVEN.now("twinspan_edge_mapper_starts_total", "node, driver"), ""),
        (DRIVEN.now("twinspan_edge_mapper_resident_memory_bytes", "node, driver"), ""),
        columns={
            "node": "Node",
            "driver": "Protocol",
            "Value #A": "Runs",
            "Value #B": "Hardware",
            "Value #C": "Devices",
            "Value #D": "Starts",
            "Value #E": "Memory",
        },
        units={"Memory": "bytes"},
        size=(16, 8),
        links=(Link("This node", "twinspan-node", "var-node=${__data.fields.Node}"),),
        needs=OWN_PROCESS,
    ),
    states(
        "Adapters and coordinators",
        "Whether a mapper's hardware works: Bluetooth adapter, Zigbee stick, serial line.",
        (DRIVEN.at("twinspan_edge_mapper_hardware_up"), "{{node}} {{driver}}"),
        needs=OWN_PROCESS,
    ),
    lines(
        "Devices by state",
        "short",
        "connected, or waiting for the device to answer.",
        (DRIVEN.now("twinspan_edge_mapper_devices", "driver, state"), "{{driver}} {{state}}"),
        needs=OWN_PROCESS,
    ),
    lines(
        "Calls to devices, p99",
        "s",
        "connect, read and write.",
        (
            DRIVEN.quantile(0.99, "twinspan_edge_mapper_call_duration_seconds", "driver, call"),
            "{{driver}} {{call}}",
        ),
        needs=OWN_PROCESS,
    ),
    lines(
        "Calls that failed",
        "cps",
        "By call and cause.",
        (
            DRIVEN.rate("twinspan_edge_mapper_call_failures_total", "driver, call, cause"),
            "{{driver}} {{call}} {{cause}}",
        ),
        quiet="every device answers",
    ),
    lines(
        "Values sent unasked",
        "cps",
        "Notifications and reports; coalesced ones were overtaken by a newer value.",
        (
            DRIVEN.rate("twinspan_edge_mapper_notifications_total", "driver, outcome"),
            "{{driver}} {{outcome}}",
        ),
        needs=OWN_PROCESS,
    ),
    lines(
        "Discovered devices",
        "short",
        "That mappers see and that may be nobody's Device yet.",
        (
            DRIVEN.now("twinspan_edge_mapper_discovered_devices", "node, driver"),
            "{{node}} {{driver}}",
        ),
        needs=OWN_PROCESS,
    ),
)
OTHERS: Final[tuple[Panel, ...]] = (
    lines(
        "Mappers over DMI",
        "short",
        "Registered with EdgeCore.",
        (EDGE.now("twinspan_edge_dmi_mappers", "node"), "{{node}}"),
    ),
    lines(
        "Calls over DMI",
        "cps",
        "By method and outcome.",
        (EDGE.rate("twinspan_edge_dmi_calls_total", "method, outcome"), "{{method}} {{outcome}}"),
        needs=DMI,
    ),
    lines(
        "Samples pushed elsewhere",
        "cps",
        "To databases and brokers that Devices name.",
        (
            EDGE.rate("twinspan_edge_mapper_pushes_total", "method, outcome"),
            "{{method}} {{outcome}}",
        ),
        needs="Devices with a `pushMethod`",
    ),
)

BOARD: Final = Board(
    "devices",
    "Twinspan / Devices and mappers",
    "Devices at the edge: what is read and written, and the mappers that do it.",
    (variables.NODE, variables.DRIVER),
    (
        Row("Now", NOW),
        Row("Values", VALUES),
        Row("Mappers", MAPPERS),
        Row("DMI and pushes", OTHERS),
    ),
)
