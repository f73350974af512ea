"""Who this node is: its settings from joining, its certificate and the cloud's CA, in one folder.

`edge/` under the data directory holds `rootCA.crt`, `server.crt`, `server.key` (0600) and `node.json`, which
is written last: a folder without it has not joined. A renewed certificate stands with its key in one file,
`node.pem`, which takes the place of both: a crash between two files must not leave a pair that does not fit.
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
        self._joined = (self.folder / "server.crt", self.folder / "server.key")
        self._renewed = self.folder / "node.pem"
        self.settings = self.folder / "node.json"

    @property
    def certificate(self) -> Path:
        """The file that starts with the certificate in use."""
        return self._renewed if self._renewed.is_file() else self._joined[0]

    @property
    def key(self) -> Path:
        """The file that holds its key."""
        return self._renewed if self._renewed.is_file() else self._joined[1]

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
        self._renewed.unlink(missing_ok=True)
        _write(self.ca, ca, 0o644)
        _write(self._joined[0], certificate, 0o644)
        _write(self._joined[1], key, 0o600)
        _write(self.settings, msgspec.json.encode(settings), 0o600)

    def renew(self, certificate: bytes, key: bytes) -> None:
        """Keep a new certificate and its key (PEM) in place of the old ones, both or neither."""
        _write(self._renewed, certificate + key, 0o600)

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
