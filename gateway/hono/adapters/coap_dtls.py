"""The CoAP adapter's DTLS: whether it can be had, and how its socket is made."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from pathlib import Path

from gateway.config.hono import CoapAdapter as Settings
from gateway.errors import InvalidSetting
from gateway.hono.adapters.coap_exchanges import Peer
from gateway.hono.adapters.coap_keys import CoapKeys
from gateway.model.message import Principal
from gateway.observe.metrics import Metrics
from gateway.runtime import dtls_library
from gateway.runtime.dtls import DtlsSocket
from gateway.runtime.dtls_library import DtlsLibrary

AUTO, REQUIRED, OFF = "auto", "required", "off"


def why_not(tls: str) -> str | None:
    """Say in a line why there is no DTLS; None where there is. `tls` is the setting.

    Errors: InvalidSetting for a value that is none, or where DTLS is required and cannot be had.
    """
    if tls not in (AUTO, REQUIRED, OFF):
        raise InvalidSetting(f"hono.coap.tls: expected auto, required or off, got {tls!r}")
    if tls == OFF:
        return "hono.coap.tls is off"
    missing = dtls_library.missing()
    if missing is not None and tls == REQUIRED:
        raise InvalidSetting(f"hono.coap.tls: {missing}")
    return missing


class SecureSockets:
    """Makes the socket; `files` are certificate and key of the server, without them there are keys only."""

    def __init__(
        self, settings: Settings, keys: CoapKeys, metrics: Metrics, files: tuple[Path, Path] | None
    ) -> None:
        self._settings = settings
        self._keys = keys
        self._metrics = metrics
        self._files = files

    def __call__(
        self, received: Callable[[Peer, bytes], None], gone: Callable[[Hashable], None]
    ) -> DtlsSocket[Principal]:
        settings = self._settings
        return DtlsSocket(
            self._keys.doorman(takes_strangers=not settings.authentication_required),
            received,
            gone,
            lambda outcome: self._metrics.coap_handshakes.labels(outcome).inc(),
            make_library=lambda find_key: DtlsLibrary(find_key, self._files),
            max_sessions=settings.max_sessions,
            idle_seconds=settings.session_idle_timeout,
        )
