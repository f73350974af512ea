"""What devices are told of errors: their own faults in full, of ours only what Hono's clients know.

Source: Hono, texts for external clients; details of other server errors stay inside.
"""

from __future__ import annotations

from typing import Final

from gateway.errors import (
    ConsumerFull,
    ConsumerTimeout,
    GatewayError,
    NoConsumer,
    NotBuilt,
    NotProcessed,
)

SHOWN: Final = (NoConsumer, ConsumerTimeout, NotProcessed, ConsumerFull, NotBuilt)
"""Errors of the service's side whose text is part of the contract."""
INTERNAL: Final = "Internal server error"
UNAVAILABLE: Final = "Temporarily unavailable"


def text_for_device(error: GatewayError, unavailable: str = UNAVAILABLE) -> str:
    """Return an error's text; `unavailable` is what a protocol says for what is not shown."""
    if error.status < 500 or isinstance(error, SHOWN):
        return error.message
    return INTERNAL if error.status == 500 else unavailable
