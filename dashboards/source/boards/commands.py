"""Command & control: do commands reach their devices, and do answers come?"""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, number, table
from dashboards.source.promql import ADAPTERS, EDGE, GATEWAY, MESSAGING

COUNT: Final = f"{names.COMMANDS}_count"
FAILED: Final = 'status!="forwarded"'

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Commands",
        "cps",
        "One-way commands and requests a second.",
        (MESSAGING.rate(COUNT, "", names.TO_DEVICES), "commands"),
        size=(6, 4),
    ),
    number(
        "Commands that failed",
        "percentunit",
        "No device, device away, refused, or no answer in time.",
        (MESSAGING.share(COUNT, FAILED, "", names.TO_DEVICES), "failed"),
        steps=Steps(0.05, 0.2),
        size=(6, 4),
        quiet="every command was forwarded",
    ),
    number(
        "Answers of devices",
        "cps",
        "Responses a second.",
        (MESSAGING.rate(COUNT, "", 'direction="response"'), "responses"),
        size=(6, 4),
    ),
    number(
        "Waiting for devices",
        "short",
        "Commands on disk until their device connects.",
        (MESSAGING.now("twinspan_stored_commands_waiting"), "commands"),
        size=(6, 4),
        needs="commands that are stored for devices that are away",
    ),
)
FLOW: Final[tuple[Panel, ...]] = (
    lines(
        "Commands by direction and outcome",
        "cps",
        "one-way and request go to devices, response comes back.",
        (ADAPTERS.rate(COUNT, "direction, status"), "{{direction}} {{status}}"),
    ),
    lines(
        "Commands by tenant and adapter",
        "cps",
        "Who is commanded, and through what.",
        (ADAPTERS.rate(COUNT, "tenant, component_name"), "{{tenant}} {{component_name}}"),
    ),
    lines(
        "Time to an outcome, p50 and p99",
        "s",
        "From receiving a command to the device's (or adapter's) outcome.",
        (ADAPTERS.quantile(0.5, names.COMMANDS, "direction"), "{{direction}} p50"),
        (ADAPTERS.quantile(0.99, names.COMMANDS, "direction"), "{{direction}} p99"),
    ),
    lines(
        "Slowest command",
        "s",
        "The largest time of the last minutes.",
        (ADAPTERS.now(f"{names.COMMANDS}_max", "direction", how="max"), "{{direction}}"),
    ),
    lines(
        "Payload of commands",
        "Bps",
        "Bytes a second.",
        (ADAPTERS.rate(f"{names.COMMAND_BYTES}_sum", "direction"), "{{direction}}"),
    ),
    table(
        "Failures by tenant",
        "Commands and answers over the dashboard's time that did not get there.",
        (MESSAGING.gain(COUNT, "tenant, direction, status", FAILED), ""),
        columns={
            "tenant": "Tenant",
            "direction": "Direction",
            "status": "Outcome",
            "Value": "Number",
        },
        size=(8, 8),
        links=(
            Link(
                "This tenant's messaging",
                "twinspan-messaging",
                "var-tenant=${__data.fields.Tenant}",
            ),
        ),
        quiet="every command was forwarded",
    ),
)
STORED: Final[tuple[Panel, ...]] = (
    lines(
        "Stored commands by outcome",
        "cps",
        "kept and delivered are good; expired were never fetched in time.",
        (
            MESSAGING.rate("twinspan_stored_commands_total", "tenant, outcome"),
            "{{tenant}} {{outcome}}",
        ),
        needs="commands that are stored for devices that are away",
    ),
    lines(
        "Room that stored commands take",
        "bytes",
        "Bytes on disk.",
        (GATEWAY.now("twinspan_stored_commands_bytes"), "stored commands"),
    ),
    lines(
        "Methods of Devices at the edge",
        "cps",
        "Calls by way and outcome.",
        (EDGE.rate("twinspan_edge_method_calls_total", "way, outcome"), "{{way}} {{outcome}}"),
        needs="Devices whose model has methods",
    ),
)

BOARD: Final = Board(
    "commands",
    "Twinspan / Command & control",
    "Do commands reach their devices, and do answers come?",
    (variables.INSTANCE, variables.TENANT, variables.ADAPTER, variables.NODE),
    (Row("Now", NOW), Row("Flow", FLOW), Row("Stored commands, methods of Devices", STORED)),
)
