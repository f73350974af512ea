"""Who may do more than read at this node's kubelet API, and where it is: shared by it and by EdgeStream.

Source: KubeEdge's edged has no authentication at all; ours wants a token for what runs commands.
"""

from __future__ import annotations

import hmac
import os
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gateway.runtime.listener import Endpoints

ENDPOINT = "edge.kubelet"
TOKEN_FILE = "kubelet.token"  # noqa: S105  a name, not a secret
FOREIGN = "127.0.0.1:10350"
"""Where a kubelet is asked for when this process serves none."""


@dataclass(frozen=True, slots=True)
class Kubelet:
    """A kubelet API: `host:port`, and the token that it wants, empty for a foreign one."""

    address: str
    token: str = ""


class KubeletToken:
    """The token in `<data-dir>/edge/kubelet.token`; its owner alone can read it."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / TOKEN_FILE

    def make(self) -> None:
        """Make it where there is none, and keep it from others. Errors: OSError."""
        if self.read():
            self._file.chmod(0o600)  # a copy that was brought back may be open to all
            return
        self._file.unlink(missing_ok=True)
        descriptor = os.open(self._file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(descriptor, "w", encoding="ascii") as file:
            file.write(secrets.token_urlsafe(32) + "\n")

    def read(self) -> str:
        """Return it, "" where there is none."""
        try:
            return self._file.read_text("ascii").strip()
        except (OSError, UnicodeError):
            return ""

    def is_shown(self, authorization: str) -> bool:
        """Judge an Authorization header."""
        scheme, _, shown = authorization.partition(" ")
        known = self.read()
        return (
            bool(known)
            and scheme.lower() == "bearer"
            and hmac.compare_digest(known.encode(), shown.strip().encode("utf-8", "replace"))
        )


def kubelet_of(setting: str, endpoints: Endpoints, token: KubeletToken) -> Callable[[], Kubelet]:
    """Return where requests through the stream tunnel go, asked at each: `setting`, else our own.

    Our token goes to our own listener and to no other.
    """

    def kubelet() -> Kubelet:
        ours = endpoints.get(ENDPOINT) if ENDPOINT in endpoints else ""
        address = setting or ours or FOREIGN
        return Kubelet(address, token.read() if address == ours else "")

    return kubelet
