"""Who may use the internal services, and for what: Hono's permissions file, read and asked.

A right is a claim as Hono's tokens carry it: `r:telemetry/*` -> letters of `R`, `W`, `E` for a resource,
`o:registration/*:assert` -> `E` for an operation; `*` stands for any tenant, operation or activity.
Source: Hono, Authentication API; permissions file of the authentication server.
"""

from __future__ import annotations

import hmac
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from gateway.errors import BadRequest, InvalidSetting
from gateway.hono.certificates import canonical_dn
from gateway.model.json import Json

READ, WRITE, EXECUTE, ANY = "R", "W", "E", "*"
PLAIN, EXTERNAL = "PLAIN", "EXTERNAL"
MAX_FILE_BYTES = 1_048_576
_LETTERS = {"READ": READ, "WRITE": WRITE, "EXECUTE": EXECUTE, ANY: ANY}


@dataclass(frozen=True, slots=True)
class Authorities:
    """What somebody may do."""

    claims: Mapping[str, str]

    def may(self, activity: str, address: str) -> bool:
        """True when a link to `{endpoint}[/{tenant}[/...]]` may be used that way."""
        return any(_covers(self.claims.get(f"r:{name}"), activity) for name in _resources(address))

    def may_execute(self, operation: str, address: str) -> bool:
        """True when an operation may be asked for at `{endpoint}[/{tenant}]`."""
        return any(
            _covers(self.claims.get(f"o:{name}:{wanted}"), EXECUTE)
            for name in _resources(address)
            for wanted in (operation, ANY)
        )

    def addresses(self) -> dict[object, object]:
        """Return what a message router is told: address pattern -> `recv`, `send` or both."""
        found: dict[object, object] = {}
        for claim, letters in self.claims.items():
            kind, _, pattern = claim.partition(":")
            words = [
                word
                for letter, word in ((READ, "recv"), (WRITE, "send"))
                if _covers(letters, letter)
            ]
            if kind == "r" and words:
                found[pattern] = ",".join(words)
        return found


def _covers(letters: str | None, activity: str) -> bool:
    return letters is not None and (activity in letters or ANY in letters)


def _resources(address: str) -> Iterator[str]:
    """Yield the names under which a right to `E/T/X` may be written, the closest first."""
    parts = address.split("/", 2)
    for count in range(len(parts), 1, -1):
        yield "/".join(parts[:count])
    yield f"{parts[0]}/*"
    yield parts[0]
    yield ANY


EVERYTHING = Authorities({"r:*": "RWE", "o:*:*": EXECUTE})


@dataclass(frozen=True, slots=True)
class ServiceUser:
    """A component that logs in; EXTERNAL ones are named by their certificate's subject."""

    name: str
    mechanism: str
    authorities: Authorities
    password: str = field(default="", repr=False)

    def has_password(self, password: bytes) -> bool:
        return (
            self.mechanism == PLAIN
            and bool(password)
            and hmac.compare_digest(self.password.encode(), password)
        )


Users = Mapping[str, ServiceUser]


def read_permissions(path: str, setting: str) -> Users:
    """Read Hono's permissions file.

    Errors: InvalidSetting, naming the setting and what was wrong.
    """
    try:
        data = Path(path).read_bytes()[: MAX_FILE_BYTES + 1]
    except OSError as error:
        raise InvalidSetting(f"{setting}: {path} cannot be read: {error.strerror}") from error
    if len(data) > MAX_FILE_BYTES:
        raise InvalidSetting(f"{setting}: {path}: expected at most {MAX_FILE_BYTES} bytes")
    try:
        return parse_permissions(msgspec.json.decode(data))
    except (ValueError, RecursionError, BadRequest) as error:
        raise InvalidSetting(f"{setting}: {path}: {error}") from error


def parse_permissions(document: Json) -> Users:
    """Read roles and users.

    Shape:  `{"roles": {name: [right]}, "users": {name: {mechanism, password, authorities: [role]}}}`; a
            right is `{resource | operation, activities}`.
    Errors: BadRequest.
    """
    top = _object(document, "permissions")
    roles = {
        name: _claims(rights, f"roles.{name}")
        for name, rights in _object(top.get("roles", {}), "roles").items()
    }
    found: dict[str, ServiceUser] = {}
    for name, value in _object(top.get("users", {}), "users").items():
        user = _user(name, _object(value, f"users.{name}"), roles)
        found[user.name] = user
    return found


def _object(value: Json, path: str) -> dict[str, Json]:
    if not isinstance(value, dict):
        raise BadRequest(f"{path}: expected an object")
    return value


def _claims(rights: Json, path: str) -> dict[str, str]:
    if not isinstance(rights, list):
        raise BadRequest(f"{path}: expected an array")
    claims: dict[str, str] = {}
    for at, value in enumerate(rights):
        name, letters = _right(_object(value, f"{path}[{at}]"), f"{path}[{at}]")
        claims[name] = _joined(claims.get(name, ""), letters)
    return claims


def _right(right: Mapping[str, Json], path: str) -> tuple[str, str]:
    resource, operation = right.get("resource"), right.get("operation")
    letters = _activities(right.get("activities"), path)
    if isinstance(resource, str) and operation is None:
        return f"r:{resource}", letters
    if isinstance(operation, str) and resource is None and ":" in operation:
        return f"o:{operation}", letters
    raise BadRequest(f"{path}: expected either a resource or an operation <resource>:<name>")


def _activities(value: Json, path: str) -> str:
    if not isinstance(value, list) or not value:
        raise BadRequest(f"{path}.activities: expected some of {', '.join(_LETTERS)}")
    letters = [_LETTERS.get(item) if isinstance(item, str) else None for item in value]
    if None in letters:
        raise BadRequest(f"{path}.activities: expected some of {', '.join(_LETTERS)}")
    return "".join(letter for letter in letters if letter)


def _joined(some: str, more: str) -> str:
    return "".join(letter for letter in _LETTERS.values() if letter in some + more)


def _user(
    name: str, value: Mapping[str, Json], roles: Mapping[str, Mapping[str, str]]
) -> ServiceUser:
    path = f"users.{name}"
    mechanism, password = value.get("mechanism"), value.get("password", "")
    if mechanism not in (PLAIN, EXTERNAL):
        raise BadRequest(f"{path}.mechanism: expected {PLAIN} or {EXTERNAL}")
    if not isinstance(password, str) or (mechanism == PLAIN and not password):
        raise BadRequest(f"{path}.password: expected a text")
    claims: dict[str, str] = {}
    for role in _roles(value, path, roles):
        for claim, letters in roles[role].items():
            claims[claim] = _joined(claims.get(claim, ""), letters)
    known_as = canonical_dn(name, path) if mechanism == EXTERNAL else name
    return ServiceUser(known_as, str(mechanism), Authorities(claims), password)


def _roles(
    value: Mapping[str, Json], path: str, roles: Mapping[str, Mapping[str, str]]
) -> Iterator[str]:
    names = value.get("authorities", [])
    if not isinstance(names, list):
        raise BadRequest(f"{path}.authorities: expected an array of roles")
    for name in names:
        if not isinstance(name, str) or name not in roles:
            raise BadRequest(f"{path}.authorities: no role {name!s:.64}")
        yield name
