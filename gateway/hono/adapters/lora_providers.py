"""All kinds of LoRaWAN network servers whose messages are understood, by the paths that they post to."""

from __future__ import annotations

from collections.abc import Mapping

from gateway.hono.adapters.lora_operators import OPERATORS
from gateway.hono.adapters.lora_provider import Provider
from gateway.hono.adapters.lora_servers import SERVERS

PROVIDERS = (*OPERATORS, *SERVERS)

_EXACT: Mapping[str, Provider] = {
    path: provider for provider in PROVIDERS for path in provider.paths if path[-1] != "*"
}
_BELOW: tuple[tuple[str, Provider], ...] = tuple(
    (path[:-2], provider) for provider in PROVIDERS for path in provider.paths if path[-1] == "*"
)


def provider_of(path: str) -> Provider | None:
    """Return the kind of network server that posts to a path; None where nobody does."""
    exact = path.rstrip("/")
    found = _EXACT.get(exact)
    if found is not None:
        return found
    return next(
        (p for prefix, p in _BELOW if exact == prefix or path.startswith(f"{prefix}/")), None
    )
