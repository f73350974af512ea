"""The span of handing a message to an application's receiver, for messages whose trace is sampled.

Named as Hono names it; the message carries this span's context, so what the application does hangs below it.
"""

from __future__ import annotations

from gateway.model.message import Kind, Message
from gateway.observe.tracing import Span, Tracer

NAMES = {Kind.TELEMETRY: "forward Telemetry data", Kind.EVENT: "forward Event"}


def forward_span(tracer: Tracer, message: Message) -> Span:
    """Begin the span below the message's own."""
    facts = {
        "tenant_id": message.tenant,
        "device_id": message.device,
        "message_bus.destination": f"{message.kind.value}/{message.tenant}",
    }
    return tracer.start(NAMES[message.kind], message.trace, "producer", facts)
