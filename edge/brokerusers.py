"""Who may connect to the edge's broker beyond loopback: a file of `user:bcrypt hash` lines.

Hashing runs in a thread; what was right once is remembered under a random key, so that clients that come back
after a cut cost nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import os
from collections.abc import Mapping
from pathlib import Path

from gateway.errors import InvalidSetting

MAX_REMEMBERED = 1_000
MAX_PASSWORD = 1_024


def read_users(file: Path) -> Mapping[str, bytes]:
    """Read user name -> bcrypt hash.

    Errors: InvalidSetting, naming file and line.
    """
    try:
        lines = file.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"edge.mqtt.users_file: {file}: {error}") from error
    users = {}
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        name, _, digest = line.strip().partition(":")
        if not name or not digest.startswith("$2") or len(digest) != 60:
            raise InvalidSetting(
                f"edge.mqtt.users_file: {file}:{number}: expected user:bcrypt hash"
            )
        users[name] = digest.encode()
    return users


class Users:
    """Checks user names and passwords."""

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self._users = users
        self._key = os.urandom(32)
        self._known: dict[bytes, None] = {}

    async def check(self, username: str | None, password: bytes | None) -> bool:
        """Return whether user name and password belong together."""
        digest = self._users.get(username or "")
        if digest is None or not password or len(password) > MAX_PASSWORD:
            return False
        mark = hmac.digest(self._key, digest + b"\0" + password, hashlib.sha256)
        if mark in self._known:
            return True
        if not await asyncio.to_thread(_matches, password, digest):
            return False
        if len(self._known) >= MAX_REMEMBERED:
            self._known.clear()
        self._known[mark] = None
        return True


def _matches(password: bytes, digest: bytes) -> bool:
    import bcrypt  # only those who have users pay for it

    try:
        return bcrypt.checkpw(password, digest)
    except ValueError:  # longer than bcrypt looks at, or a broken hash
        return False
