"""Who may connect to the edge's broker beyond loopback: a file of `user:bcrypt hash` lines.

Hashing runs in threads; what was right once is remembered, so that clients that come back after a cut cost
nothing.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from gateway.errors import InvalidSetting
from gateway.model.credentials_json import MAX_PASSWORD_BYTES
from gateway.runtime.passwords import HashPool, RightPasswords, matches_bcrypt

MAX_REMEMBERED = 1_000
MAX_WAITING = 200


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
    """Checks user names and passwords; `close` ends its threads."""

    def __init__(self, users: Mapping[str, bytes]) -> None:
        self._users = users
        self._pool = HashPool(max_queue=MAX_WAITING)
        self._right: RightPasswords[bool] = RightPasswords(
            capacity=MAX_REMEMBERED, now=time.monotonic
        )

    async def check(self, username: str | None, password: bytes | None) -> bool:
        """Return whether user name and password belong together.

        Errors: StoreUnavailable when too many wait to be checked.
        """
        digest = self._users.get(username or "")
        if digest is None or not password or len(password) > MAX_PASSWORD_BYTES:
            return False
        mark = self._right.mark(digest, password)
        if self._right.find(mark):
            return True
        work = partial(matches_bcrypt, password, digest)
        if not await asyncio.wrap_future(self._pool.submit(work)):
            return False
        self._right.keep(mark, True, math.inf)
        return True

    def close(self) -> None:
        self._pool.close()
