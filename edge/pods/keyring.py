"""Credentials for registries, from Secrets and files in Docker's form: which of them fit an image.

Source: Kubernetes, "Pull an Image from a Private Registry" (which entries match); kubelet 1.36 keyring.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatchcase

import msgspec

from edge.pods.imagenames import DEFAULT_DOMAIN, OTHER_DEFAULT
from edge.pods.runtime import Auth
from gateway.errors import BadRequest
from gateway.model.json import JsonObject

DOCKER_CONFIG, DOCKER_CFG = ".dockerconfigjson", ".dockercfg"
TYPES = {
    "kubernetes.io/dockerconfigjson": DOCKER_CONFIG,
    "kubernetes.io/dockercfg": DOCKER_CFG,
}
MAX_ENTRIES = 1_000


class _Login(msgspec.Struct, frozen=True):
    username: str = ""
    password: str = ""
    auth: str = ""
    identitytoken: str = ""
    registrytoken: str = ""


class _File(msgspec.Struct, frozen=True):
    auths: dict[str, _Login] = {}


@dataclass(frozen=True, slots=True)
class Entry:
    """Credentials and the place they are for: host, port and path, `*` in parts of the host."""

    host: str
    path: str
    auth: Auth

    @property
    def key(self) -> str:
        return f"{self.host}{self.path}"

    def fits(self, host: str, path: str) -> bool:
        own, own_port = _host_port(self.host)
        their, their_port = _host_port(host)
        parts, theirs = own.split("."), their.split(".")
        return (
            own_port == their_port
            and path.startswith(self.path)
            and len(parts) == len(theirs)
            and all(map(fnmatchcase, theirs, parts))
        )


class Keyring:
    """Credentials, those of the more special place first."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = sorted(entries, key=lambda each: each.key, reverse=True)

    def lookup(self, repository: str) -> list[Auth]:
        """Return what fits a repository (`docker.io/library/busybox`), to be tried in this order."""
        host, slash, path = repository.partition("/")
        found = [each.auth for each in self._entries if each.fits(host, f"{slash}{path}")]
        if found or host not in (DEFAULT_DOMAIN, OTHER_DEFAULT):
            return found
        return [each.auth for each in self._entries if each.key == OTHER_DEFAULT]


def entries_of_secret(secret: JsonObject) -> list[Entry]:
    """Return a pull secret's entries; none for a Secret of another type. Errors: BadRequest."""
    key = TYPES.get(str(secret.get("type", "")), "")
    data = secret.get("data")
    value = data.get(key) if isinstance(data, dict) else None
    if not isinstance(value, str) or not value:
        return []
    try:
        text = base64.b64decode(value, validate=True)
    except ValueError as error:
        raise BadRequest(f"{key}: not base64") from error
    return entries_of_file(text, bare=key == DOCKER_CFG)


def entries_of_file(text: bytes, *, bare: bool = False) -> list[Entry]:
    """Return the entries of a `config.json` (`bare`: of a `.dockercfg`). Errors: BadRequest."""
    try:
        if bare:
            auths = msgspec.json.decode(text, type=dict[str, _Login])
        else:
            auths = msgspec.json.decode(text, type=_File).auths
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise BadRequest(f"credentials of registries: {error}") from error
    if len(auths) > MAX_ENTRIES:
        raise BadRequest(f"credentials of registries: more than {MAX_ENTRIES}")
    return [_entry(place, login) for place, login in auths.items()]


def _entry(place: str, login: _Login) -> Entry:
    bare = place.removeprefix("https://").removeprefix("http://")
    host, slash, path = bare.partition("/")
    whole = f"{slash}{path}"
    if whole.startswith(("/v1/", "/v2/")):
        whole = whole[3:]
    return Entry(host, "" if whole == "/" else whole, _auth(login))


def _auth(login: _Login) -> Auth:
    username, password = _unpack(login.auth) if login.auth else (login.username, login.password)
    return Auth(
        username=username,
        password=password,
        identity_token=login.identitytoken,
        registry_token=login.registrytoken,
    )


def _unpack(packed: str) -> tuple[str, str]:
    bare = packed.strip()
    try:
        text = base64.b64decode(bare + "=" * (-len(bare) % 4), validate=True).decode()
    except ValueError as error:
        raise BadRequest("credentials of registries: auth is not base64(user:password)") from error
    username, colon, password = text.partition(":")
    if not colon:
        raise BadRequest("credentials of registries: auth is not base64(user:password)")
    return username, password


def _host_port(host: str) -> tuple[str, str]:
    name, colon, port = host.rpartition(":")
    return (name, port) if colon and port.isdigit() else (host, "")
