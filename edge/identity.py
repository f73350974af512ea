"""Who this node is: its settings from joining, its certificate and the cloud's CA, in one folder.

`edge/` under the data directory holds `rootCA.crt`, `server.crt`, `server.key` (0600) and `node.json`, which
is written last: a folder without it has not joined.
"""

from __future__ import annotations

import os
import ssl
from pathlib import Path

import msgspec
from msgspec import Struct

from gateway.errors import InvalidSetting
from gateway.wire.cloudedge.names import DEFAULT_PROJECT

FOLDER = "edge"


class NodeSettings(Struct, frozen=True):
    """What joining settled; servers are `host:port`."""

    node: str
    server: str
    https_server: str
    project: str = DEFAULT_PROJECT


_decoder = msgspec.json.Decoder(NodeSettings)


class Identity:
    """The folder of one node's identity."""

    def __init__(self, data_dir: Path) -> None:
        self.folder = data_dir / FOLDER
        self.ca = self.folder / "rootCA.crt"
        self.certificate = self.folder / "server.crt"
        self.key = self.folder / "server.key"
        self.settings = self.folder / "node.json"

    @property
    def has_joined(self) -> bool:
        return self.settings.is_file()

    def load(self) -> NodeSettings:
        """Read what joining settled.

        Errors: InvalidSetting when this folder has not joined or the file is damaged.
        """
        try:
            return _decoder.decode(self.settings.read_bytes())
        except FileNotFoundError:
            raise InvalidSetting(
                f"{self.folder} has no node.json: this node has not joined a cloud",
                description="Run: twinspan edge join https://HOST:10002 --token TOKEN",
            ) from None
        except (OSError, msgspec.DecodeError) as error:
            raise InvalidSetting(f"{self.settings}: {error}") from error

    def save(self, settings: NodeSettings, *, ca: bytes, certificate: bytes, key: bytes) -> None:
        """Write certificates and settings (PEM), each whole or not at all, settings last."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        _write(self.ca, ca, 0o644)
        _write(self.certificate, certificate, 0o644)
        _write(self.key, key, 0o600)
        _write(self.settings, msgspec.json.encode(settings), 0o600)

    def client_context(self) -> ssl.SSLContext:
        """TLS towards the cloud: its CA alone is trusted, our certificate is shown.

        Errors: InvalidSetting when a file is missing or damaged.
        """
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        try:
            context.load_verify_locations(cafile=self.ca)
            context.load_cert_chain(self.certificate, self.key)
        except OSError as error:
            raise InvalidSetting(f"{self.folder}: certificates cannot be read: {error}") from error
        return context


def _write(path: Path, data: bytes, mode: int) -> None:
    draft = path.with_name(path.name + ".new")
    handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with os.fdopen(handle, "wb") as file:
        os.fchmod(file.fileno(), mode)
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)
