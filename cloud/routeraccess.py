"""Who may use the router's REST entry: users by password, or who holds the token."""

from __future__ import annotations

import base64
import binascii
import hmac
from pathlib import Path

from gateway.config.cloud_services import Router
from gateway.ditto.auth import read_users
from gateway.ditto.passwords import PasswordChecks
from gateway.errors import InvalidSetting, Unauthenticated

MAX_TOKEN = 4_096


class RouterAccess:
    """Judges an `Authorization` header. Without users and token everybody on this machine may pass.

    Errors: InvalidSetting for files that cannot be read.
    """

    def __init__(self, settings: Router) -> None:
        self._users = read_users(Path(settings.users_file)) if settings.users_file else {}
        self._token = _read_token(settings.token_file) if settings.token_file else b""
        self._checks = PasswordChecks()

    @property
    def is_open(self) -> bool:
        """True when nothing is asked of callers."""
        return not self._users and not self._token

    async def check(self, authorization: str) -> None:
        """Let the request pass. Errors: Unauthenticated; Undeliverable when too many passwords wait."""
        if self.is_open:
            return
        scheme, _, given = authorization.partition(" ")
        if scheme.lower() == "bearer" and self._token:
            if hmac.compare_digest(given.strip().encode(), self._token):
                return
        elif scheme.lower() == "basic" and self._users and await self._is_user(given.strip()):
            return
        raise Unauthenticated("the router wants a user and password, or its token")

    async def _is_user(self, given: str) -> bool:
        try:
            name, _, password = base64.b64decode(given, validate=True).decode().partition(":")
        except (binascii.Error, ValueError):
            return False
        return await self._checks.verify(name, password.encode(), self._users.get(name))

    def close(self) -> None:
        """End the threads of password checks."""
        self._checks.close()


def _read_token(file: str) -> bytes:
    try:
        token = Path(file).read_bytes().strip()
    except OSError as error:
        raise InvalidSetting(
            f"cloud.router.token_file: {file}: cannot be read: {error.strerror}"
        ) from error
    if not 16 <= len(token) <= MAX_TOKEN:
        raise InvalidSetting(f"cloud.router.token_file: expected 16 to {MAX_TOKEN} bytes")
    return token
