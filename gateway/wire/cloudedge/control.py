"""Messages about the connection itself; KubeEdge's edges send none, but whoever does gets an answer.

Source: KubeEdge `viaduct`, control messages.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.wire.cloudedge.envelope import Envelope, Route, Stamp, answer_to
from gateway.wire.cloudedge.names import Operation

CONTROL = frozenset({Operation.CONFIG, Operation.PING, Operation.PONG})
ACK = "ack"


@dataclass(frozen=True, slots=True)
class ControlAsked:
    """`config`, `ping` or `pong`: to be answered with `answer_control` at once."""


def answer_control(asked: Envelope, stamp: Stamp) -> Envelope:
    """Build the answer: content `"ack"`, source and resource as they came."""
    route = Route(
        source=asked.route.source, operation=Operation.RESPONSE, resource=asked.route.resource
    )
    return answer_to(asked, stamp, route, ACK)
