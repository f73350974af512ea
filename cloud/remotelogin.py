"""How CloudCore logs in at a remote Ditto: settings checked at the start, secrets read from files.

Files are looked at again while running: a token that somebody renews is taken without a restart.
Errors: InvalidSetting throughout, naming the setting.
"""

from __future__ import annotations

import base64
import ipaddress
import logging
import ssl
import time
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from gateway.config.remote_things import RemoteThings
from gateway.errors import InvalidSetting

log = logging.getLogger(__name__)

HERE: Final = "ditto.remote"
MODES: Final = ("embedded", "remote")
MAX_SECRET: Final = 16_384
LOOK_SECONDS: Final = 1.0
"""How long a file's content is taken for current."""


def is_remote(mode: str) -> bool:
    """Read `ditto.mode`."""
    if mode not in MODES:
        raise InvalidSetting(f"ditto.mode: expected {' or '.join(MODES)}, got {mode!r}")
    return mode == "remote"


def base_url(settings: RemoteThings) -> str:
    """Return the address without a slash at its end."""
    url = urlsplit(settings.url)
    try:
        port = url.port
    except ValueError:
        port = -1
    is_bare = not (url.path.strip("/") or url.query or url.fragment or url.username)
    if url.scheme not in ("http", "https") or not url.hostname or port == -1 or not is_bare:
        raise InvalidSetting(
            f"{HERE}.url: expected https://host[:port] or http://host[:port], got {settings.url!r}"
        )
    if url.scheme == "http" and not _is_loopback(url.hostname):
        log.warning("credentials go to the remote in plain text", extra={"remote": settings.url})
    return settings.url.rstrip("/")


def tls(settings: RemoteThings) -> ssl.SSLContext:
    """Return what the remote's certificate is judged by."""
    try:
        context = ssl.create_default_context(cafile=settings.ca or None)
    except (OSError, ssl.SSLError) as error:
        raise InvalidSetting(f"{HERE}.ca: cannot load {settings.ca}: {error}") from error
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    return context


class Login:
    """The `Authorization` header."""

    def __init__(self, settings: RemoteThings) -> None:
        _check(settings)
        self._username = settings.username
        self._file = Path(settings.token_file or settings.password_file)
        self._setting = "token_file" if settings.token_file else "password_file"
        self._is_token = bool(settings.token_file)
        self._secret = self._read()
        self._looked = time.monotonic()

    @property
    def header(self) -> str:
        """Return the header's value, with the secret that the file has now."""
        self._look()
        if self._is_token:
            return f"Bearer {self._secret}"
        pair = f"{self._username}:{self._secret}".encode()
        return f"Basic {base64.b64encode(pair).decode()}"

    @property
    def token(self) -> str:
        """Return the bearer token, empty where a password is used."""
        self._look()
        return self._secret if self._is_token else ""

    def _look(self) -> None:
        if time.monotonic() - self._looked < LOOK_SECONDS:
            return
        self._looked = time.monotonic()
        try:
            self._secret = self._read()
        except InvalidSetting as error:  # being replaced, perhaps: the old one goes on
            log.warning("secret not read again", extra={"cause": error.message})

    def _read(self) -> str:
        where = f"{HERE}.{self._setting}"
        try:
            with self._file.open(encoding="utf-8") as file:
                text = file.read(MAX_SECRET + 1)
        except (OSError, ValueError) as error:
            raise InvalidSetting(f"{where}: cannot be read: {error}") from error
        secret = text.rstrip("\r\n")
        if not secret or len(text) > MAX_SECRET or not secret.isprintable():
            raise InvalidSetting(f"{where}: expected one line of 1 to {MAX_SECRET} characters")
        return secret


def _check(settings: RemoteThings) -> None:
    if bool(settings.token_file) == bool(settings.username):
        raise InvalidSetting(f"{HERE}: expected either username and password_file, or token_file")
    if settings.username and not settings.password_file:
        raise InvalidSetting(f"{HERE}.password_file: expected one for {settings.username}")
    if ":" in settings.username:
        raise InvalidSetting(f"{HERE}.username: a name for Basic authentication has no ':'")
    if settings.max_rate <= 0:
        raise InvalidSetting(f"{HERE}.max_rate: expected more than 0")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
