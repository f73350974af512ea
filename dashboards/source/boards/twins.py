"""Digital twins: requests, streams, connections, Thing Models."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.panels import Board, Panel, Row, Steps, lines, number
from dashboards.source.promql import GATEWAY

REMOTE: Final = "a remote Ditto (`ditto.mode: remote`)"
MODELS: Final = "things whose definition is a Thing Model"

NOW: Final[tuple[Panel, ...]] = (
    number(
        "Thing commands",
        "cps",
        "Commands a second, reads and writes.",
        (GATEWAY.rate(names.THING_COMMANDS), "commands"),
        size=(6, 4),
    ),
    number(
        "Thing commands that failed",
        "percentunit",
        "failed is the service's fault (5xx); refused is the sender's and does not count here.",
        (GATEWAY.share(names.THING_COMMANDS, 'outcome="failed"'), "failed"),
        steps=Steps(0.001, 0.01),
        size=(6, 4),
    ),
    number(
        "Time to a durable answer, p99",
        "s",
        "Until a change is on disk.",
        (GATEWAY.quantile(0.99, names.THING_SECONDS), "p99"),
        steps=Steps(0.25, 1.0),
        size=(6, 4),
    ),
    number(
        "Things and policies in memory",
        "short",
        "Those that were used lately; all others are on disk.",
        (GATEWAY.now("live_entities", "type"), "{{type}}"),
        size=(6, 4),
    ),
)
THINGS: Final[tuple[Panel, ...]] = (
    lines(
        "Thing commands by action",
        "cps",
        "What is asked of things.",
        (GATEWAY.rate(names.THING_COMMANDS, "action"), "{{action}}"),
    ),
    lines(
        "Thing commands by outcome",
        "cps",
        "refused: not found, no permission, a precondition; failed: the service's fault.",
        (GATEWAY.rate(names.THING_COMMANDS, "outcome"), "{{outcome}}"),
    ),
    lines(
        "Time to a durable answer, p99 by action",
        "s",
        "A command is answered when its change is on disk.",
        (GATEWAY.quantile(0.99, names.THING_SECONDS, "action"), "{{action}}"),
        steps=Steps(0.25, 1.0),
    ),
    lines(
        "Commands in bulk requests",
        "cps",
        "What became of each command of a bulk request.",
        (GATEWAY.rate("twinspan_bulk_items_total", "outcome"), "{{outcome}}"),
    ),
    lines(
        "Operators' commands",
        "cps",
        "Commands past all policies, by type.",
        (GATEWAY.rate("sudo_commands_total", "type"), "{{type}}"),
        needs="operators who use Ditto's piggyback commands",
    ),
)
HTTP: Final[tuple[Panel, ...]] = (
    lines(
        "Requests by server and status",
        "cps",
        "Ditto's API and Hono's registry.",
        (GATEWAY.rate("twinspan_http_requests_total", "server, status"), "{{server}} {{status}}"),
    ),
    lines(
        "Time to answer, p99",
        "s",
        "By server and method.",
        (
            GATEWAY.quantile(0.99, "twinspan_http_request_duration_seconds", "server, method"),
            "{{server}} {{method}}",
        ),
    ),
    lines(
        "Ditto's API by path, p99",
        "s",
        "By what the path begins with.",
        (
            GATEWAY.quantile(0.99, "roundtrip_http_seconds", "ditto_request_path"),
            "{{ditto_request_path}}",
        ),
    ),
)
STREAMS: Final[tuple[Panel, ...]] = (
    lines(
        "Streaming sessions",
        "short",
        "Open WebSocket and SSE sessions.",
        (GATEWAY.now("twinspan_stream_sessions", "kind"), "{{kind}}"),
    ),
    lines(
        "Frames to and from sessions",
        "cps",
        "out: events and answers to applications.",
        (GATEWAY.rate("twinspan_stream_frames_total", "kind, direction"), "{{kind}} {{direction}}"),
    ),
    lines(
        "Sessions dropped",
        "cps",
        "Ended because they read too slowly; they lose events until they come back.",
        (GATEWAY.rate("twinspan_stream_sessions_dropped_total", "kind"), "{{kind}}"),
        quiet="every session reads fast enough",
    ),
    lines(
        "Messages through connections",
        "cps",
        "Ditto's managed connections, by direction and outcome.",
        (
            GATEWAY.rate("twinspan_connection_messages_total", "direction, outcome"),
            "{{direction}} {{outcome}}",
        ),
    ),
    lines(
        "Wanted values carried",
        "cps",
        "By the DeviceController: towards Devices at the edge and towards things.",
        (
            GATEWAY.rate("twinspan_device_desired_total", "towards, outcome"),
            "towards {{towards}} {{outcome}}",
        ),
    ),
)
MODELS_ROW: Final[tuple[Panel, ...]] = (
    lines(
        "Changes judged by Thing Models",
        "cps",
        "refused ones never reached the thing.",
        (GATEWAY.rate("twinspan_wot_validations_total", "outcome"), "{{outcome}}"),
    ),
    lines(
        "Thing Models needed",
        "cps",
        "Where they were found, and what became of fetching them.",
        (GATEWAY.rate("twinspan_wot_models_total", "found"), "{{found}}"),
        (GATEWAY.rate("twinspan_wot_fetches_total", "outcome"), "fetch {{outcome}}"),
        needs=MODELS,
    ),
    lines(
        "Time to fetch a Thing Model, p99",
        "s",
        "Over HTTP, from where its URL points.",
        (GATEWAY.quantile(0.99, "twinspan_wot_fetch_duration_seconds"), "p99"),
        needs=MODELS,
    ),
)
REMOTE_ROW: Final[tuple[Panel, ...]] = (
    lines(
        "Reached",
        "short",
        "1 while the remote Ditto is reached and its events are followed.",
        (GATEWAY.now("twinspan_remote_things_up", "instance"), "{{instance}}"),
    ),
    lines(
        "Requests by outcome",
        "cps",
        "What was asked of the remote Ditto.",
        (
            GATEWAY.rate("twinspan_remote_things_requests_total", "method, outcome"),
            "{{method}} {{outcome}}",
        ),
        needs=REMOTE,
    ),
    lines(
        "Time to its answer, p99",
        "s",
        "From sending a request to the remote Ditto's answer.",
        (GATEWAY.quantile(0.99, "twinspan_remote_things_request_seconds"), "p99"),
        needs=REMOTE,
    ),
    lines(
        "Its events",
        "cps",
        "Applied, known already, after a gap; and times that all was read again.",
        (GATEWAY.rate("twinspan_remote_things_events_total", "outcome"), "{{outcome}}"),
        (GATEWAY.rate("twinspan_remote_things_resyncs_total"), "read again"),
        needs=REMOTE,
    ),
)

BOARD: Final = Board(
    "twins",
    "Twinspan / Twins",
    "Things: requests, durability, streams, connections, Thing Models.",
    (variables.INSTANCE,),
    (
        Row("Now", NOW),
        Row("Things", THINGS),
        Row("HTTP", HTTP),
        Row("Streams, connections, Devices", STREAMS),
        Row("Thing Models", MODELS_ROW),
        Row("A remote Ditto", REMOTE_ROW, is_collapsed=True),
    ),
)
