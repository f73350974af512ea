"""Who sends what through which adapter, and what becomes of it."""

from __future__ import annotations

from typing import Final

from dashboards.source import variables
from dashboards.source.boards import names
from dashboards.source.panels import Board, Link, Panel, Row, Steps, lines, table
from dashboards.source.promql import ADAPTERS, GATEWAY, MESSAGING

COUNT: Final = f"{names.TELEMETRY}_count"
BYTES: Final = f"{names.TELEMETRY_BYTES}_sum"
KAFKA: Final = "northbound messaging over Kafka"
REMOTE: Final = "a remote Hono (`hono.mode: remote`)"
APART: Final = "adapters in processes elsewhere"

TENANTS: Final[tuple[Panel, ...]] = (
    table(
        "Tenants",
        "Each tenant's traffic over the dashboard's time. Click a tenant to see it alone.",
        (ADAPTERS.gain(COUNT, "tenant"), ""),
        (ADAPTERS.gain(BYTES, "tenant"), ""),
        (f"{ADAPTERS.gain(COUNT, 'tenant', 'status!=' + chr(34) + 'forwarded' + chr(34))}", ""),
        (MESSAGING.now("hono_connections_authenticated", "tenant"), ""),
        columns={
            "tenant": "Tenant",
            "Value #A": "Uploads",
            "Value #B": "Payload",
            "Value #C": "Not delivered",
            "Value #D": "Connected",
        },
        units={"Payload": "bytes"},
        links=(
            Link("This tenant alone", "twinspan-messaging", "var-tenant=${__data.fields.Tenant}"),
        ),
    ),
    table(
        "Adapters",
        "Each adapter's traffic over the dashboard's time.",
        (ADAPTERS.gain(COUNT, "component_name"), ""),
        (ADAPTERS.gain(BYTES, "component_name"), ""),
        (
            f"{ADAPTERS.gain(COUNT, 'component_name', 'status!=' + chr(34) + 'forwarded' + chr(34))}",
            "",
        ),
        (ADAPTERS.now("hono_connections_authenticated", "component_name"), ""),
        columns={
            "component_name": "Adapter",
            "Value #A": "Uploads",
            "Value #B": "Payload",
            "Value #C": "Not delivered",
            "Value #D": "Connected",
        },
        units={"Payload": "bytes"},
        links=(
            Link(
                "This adapter alone", "twinspan-messaging", "var-adapter=${__data.fields.Adapter}"
            ),
        ),
    ),
)
UPLOADS: Final[tuple[Panel, ...]] = (
    lines(
        "Uploads by tenant and outcome",
        "cps",
        "Telemetry and events a second.",
        (ADAPTERS.rate(COUNT, "tenant, type, status"), "{{tenant}} {{type}} {{status}}"),
    ),
    lines(
        "Uploads by adapter and QoS",
        "cps",
        "How devices send: QoS 0 may be lost, QoS 1 waits for an outcome.",
        (ADAPTERS.rate(COUNT, "component_name, qos"), "{{component_name}} QoS {{qos}}"),
    ),
    lines(
        "Not delivered, as part of all",
        "percentunit",
        "undeliverable: applications' or the store's fault; unprocessable: the device's fault.",
        (
            ADAPTERS.share(COUNT, 'status="undeliverable"', "component_name"),
            "{{component_name}} undeliverable",
        ),
        (
            ADAPTERS.share(COUNT, 'status="unprocessable"', "component_name"),
            "{{component_name}} unprocessable",
        ),
        steps=Steps(0.01, 0.05),
        quiet="every upload was delivered",
    ),
    lines(
        "Time to an upload's outcome, p50 and p99",
        "s",
        "From receiving an upload to its outcome; what an application is slow with counts too.",
        (ADAPTERS.quantile(0.5, names.TELEMETRY, "type"), "{{type}} p50"),
        (ADAPTERS.quantile(0.99, names.TELEMETRY, "type"), "{{type}} p99"),
    ),
    lines(
        "Slowest upload",
        "s",
        "The largest time of the last minutes, by adapter.",
        (ADAPTERS.now(f"{names.TELEMETRY}_max", "component_name", how="max"), "{{component_name}}"),
    ),
    lines(
        "Payload from devices",
        "Bps",
        "Bytes a second as they count for the tenants' limits.",
        (ADAPTERS.rate(BYTES, "tenant, type"), "{{tenant}} {{type}}"),
    ),
)
CONNECTIONS: Final[tuple[Panel, ...]] = (
    lines(
        "Connected devices",
        "short",
        "Authenticated connections by tenant and adapter.",
        (
            ADAPTERS.now("hono_connections_authenticated", "tenant, component_name"),
            "{{tenant}} {{component_name}}",
        ),
    ),
    lines(
        "Connections without a proved device",
        "short",
        "Where an adapter does not ask for authentication.",
        (
            GATEWAY.now("hono_connections_unauthenticated", "component_name"),
            "{{component_name}}",
        ),
        needs="adapters that do not ask for authentication",
    ),
    lines(
        "Attempts to connect by outcome",
        "cps",
        "unauthorized: wrong or unknown credentials; others name the limit that was met.",
        (
            ADAPTERS.rate("hono_connections_attempts_total", "component_name, outcome"),
            "{{component_name}} {{outcome}}",
        ),
    ),
    lines(
        "How long connections lasted, mean",
        "s",
        "Of connections that ended. Short ones tell of devices that reconnect all the time.",
        (
            ADAPTERS.mean("hono_connections_authenticated_duration_seconds", "component_name"),
            "{{component_name}}",
        ),
    ),
    lines(
        "CoAP datagrams and handshakes",
        "cps",
        "By what they were, or what became of them.",
        (GATEWAY.rate("twinspan_coap_datagrams_total", "outcome"), "datagram {{outcome}}"),
        (GATEWAY.rate("twinspan_coap_dtls_handshakes_total", "outcome"), "handshake {{outcome}}"),
        needs="devices that speak CoAP",
    ),
    lines(
        "DTLS sessions",
        "short",
        "Sessions of CoAP devices that are kept.",
        (GATEWAY.now("twinspan_coap_dtls_sessions"), "sessions"),
    ),
)
APPLICATIONS: Final[tuple[Panel, ...]] = (
    lines(
        "Attached application links",
        "short",
        "Consumers (telemetry, event) and senders (command) at the AMQP endpoint.",
        (GATEWAY.now("twinspan_northbound_links", "type"), "{{type}}"),
    ),
    lines(
        "Deliveries to applications by outcome",
        "cps",
        "accepted is good; released and modified are tried again, rejected is lost.",
        (MESSAGING.rate(f"{names.DELIVERY}_count", "type, outcome"), "{{type}} {{outcome}}"),
    ),
    lines(
        "Time that applications take, p99",
        "s",
        "From sending a message to the consumer's outcome.",
        (MESSAGING.quantile(0.99, names.DELIVERY, "type"), "{{type}}"),
        steps=Steps(0.5, 1.0),
    ),
    lines(
        "No credit and no outcome in time",
        "cps",
        "No credit: consumers are slower than devices, or none is there.",
        (
            MESSAGING.rate("hono_amqp_nocredit_total", "tenant, type"),
            "no credit {{tenant}} {{type}}",
        ),
        (MESSAGING.rate("hono_amqp_timeout_total", "tenant, type"), "timeout {{tenant}} {{type}}"),
        quiet="consumers keep up",
    ),
    lines(
        "Log-ins of applications",
        "cps",
        "By outcome and who they are.",
        (
            GATEWAY.rate("hono_authentication_attempts_total", "outcome, client_type"),
            "{{outcome}} {{client_type}}",
        ),
    ),
    lines(
        "Messages without a form",
        "cps",
        "Dropped because the applications' protocol has no form for them.",
        (GATEWAY.rate("twinspan_northbound_unencodable_total", "type"), "{{type}}"),
        quiet="every message could be encoded",
    ),
)
EVENTS: Final[tuple[Panel, ...]] = (
    lines(
        "Events written to disk",
        "cps",
        "Events are kept until an application takes them.",
        (MESSAGING.rate("twinspan_events_stored_total", "tenant"), "{{tenant}}"),
    ),
    lines(
        "Events on disk",
        "bytes",
        "Bytes that applications may still get.",
        (GATEWAY.now("twinspan_events_stored_bytes", "instance"), "{{instance}}"),
    ),
    lines(
        "Share of the event store in use",
        "percentunit",
        "At 1 events are refused.",
        (
            f"{GATEWAY.now('twinspan_events_stored_bytes', 'instance')} / "
            f"{GATEWAY.now('twinspan_events_limit_bytes', 'instance')}",
            "{{instance}}",
        ),
        steps=Steps(0.5, 0.8),
    ),
    lines(
        "Events refused",
        "cps",
        "The store or the tenant's share of it is full, or the disk cannot be written.",
        (
            MESSAGING.rate("twinspan_events_refused_total", "tenant, reason"),
            "{{tenant}} {{reason}}",
        ),
        steps=Steps(None, 0.001),
        quiet="the store has room",
    ),
)
ELSEWHERE: Final[tuple[Panel, ...]] = (
    lines(
        "Records for Kafka by outcome",
        "cps",
        "delivered is good; failed and unconfirmed records are tried again or refused.",
        (GATEWAY.rate("twinspan_kafka_records_total", "kind, outcome"), "{{kind}} {{outcome}}"),
        needs=KAFKA,
    ),
    lines(
        "Time to Kafka's outcome, p99",
        "s",
        "From handing a record over.",
        (GATEWAY.quantile(0.99, "twinspan_kafka_delivery_seconds", "kind"), "{{kind}}"),
        needs=KAFKA,
    ),
    lines(
        "Under way to and from Kafka",
        "short",
        "Records without an outcome, command records read, by outcome.",
        (GATEWAY.now("twinspan_kafka_queue_depth", "client"), "waiting {{client}}"),
        (GATEWAY.rate("twinspan_kafka_commands_total", "outcome"), "commands {{outcome}}"),
        needs=KAFKA,
    ),
    lines(
        "Requests of adapters elsewhere",
        "cps",
        "At Hono's internal services.",
        (
            GATEWAY.rate("twinspan_service_requests_total", "endpoint, status"),
            "{{endpoint}} {{status}}",
        ),
        (
            GATEWAY.rate("twinspan_service_uploads_total", "type, status"),
            "upload {{type}} {{status}}",
        ),
        needs=APART,
    ),
    lines(
        "Adapters elsewhere",
        "short",
        "Connected components, and devices there that listen for commands.",
        (GATEWAY.now("twinspan_service_connections"), "components"),
        (GATEWAY.now("twinspan_service_routes"), "devices that listen"),
    ),
    lines(
        "Remote Hono: reached",
        "short",
        "1 while the remote has let us in, and connections that ended a second.",
        (MESSAGING.now("twinspan_remote_up", "tenant", how="min"), "up {{tenant}}"),
        (
            MESSAGING.rate("twinspan_remote_connections_ended_total", "tenant, reason"),
            "ended {{tenant}} {{reason}}",
        ),
        needs=REMOTE,
    ),
    lines(
        "Remote Hono: messages",
        "cps",
        "By what became of them; lost ones will never get there.",
        (MESSAGING.rate("twinspan_remote_messages_total", "type, outcome"), "{{type}} {{outcome}}"),
        (MESSAGING.rate("twinspan_remote_loss_total", "type, cause"), "lost {{type}} {{cause}}"),
        (MESSAGING.rate("twinspan_remote_commands_total", "outcome"), "command {{outcome}}"),
        needs=REMOTE,
    ),
    lines(
        "Remote Hono: waiting",
        "short",
        "Messages on disk that the remote has not taken.",
        (MESSAGING.now("twinspan_remote_waiting_messages", "tenant, type"), "{{tenant}} {{type}}"),
        needs=REMOTE,
    ),
    lines(
        "Remote Hono: bytes that wait",
        "bytes",
        "Bytes on disk that the remote has not taken.",
        (MESSAGING.now("twinspan_remote_waiting_bytes", "tenant, type"), "{{tenant}} {{type}}"),
        needs=REMOTE,
    ),
    lines(
        "Remote Hono: time to acceptance, p99",
        "s",
        "From sending a message to the remote's accepting it.",
        (MESSAGING.quantile(0.99, "twinspan_remote_delivery_seconds", "type"), "{{type}}"),
        needs=REMOTE,
    ),
)

BOARD: Final = Board(
    "messaging",
    "Twinspan / Messaging",
    "Telemetry and events by tenant and adapter, connections of devices, applications, the event store.",
    (variables.INSTANCE, variables.TENANT, variables.ADAPTER),
    (
        Row("Tenants and adapters", TENANTS),
        Row("Uploads", UPLOADS),
        Row("Connections of devices", CONNECTIONS),
        Row("Applications", APPLICATIONS),
        Row("Event store", EVENTS),
        Row("Kafka, adapters elsewhere, a remote Hono", ELSEWHERE, is_collapsed=True),
    ),
)
