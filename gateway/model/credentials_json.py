"""Credentials from and to the management representation, and the merge of secrets by id.

A PUT brings drafts: secrets that may lack an id (new), or have one and no confidential members (keep what is
stored). `merge` joins drafts with what is stored; `credential_json` writes without, `stored_json` with the
confidential members.
Source: Hono device registry API v1, schema TypedCredentials.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.model.members import Members, format_instant, json_name
from gateway.model.registry import (
    AUTH_ID,
    CREDENTIAL_TYPE,
    HASHED_PASSWORD,
    PSK,
    RPK,
    X509,
    Credential,
    Secret,
)
from gateway.model.registry_json import check_order

PLAIN = "pwd-plain"
HASH = "pwd-hash"
FUNCTION = "hash-function"
SALT = "salt"
KEY = "key"
ALGORITHM = "algorithm"

SHA_256 = "sha-256"
SHA_512 = "sha-512"
BCRYPT = "bcrypt"
_DIGEST_BYTES = {SHA_256: 32, SHA_512: 64}
_BCRYPT = re.compile(r"\$2a\$(\d\d)\$[./A-Za-z0-9]{53}")

MAX_PASSWORD_BYTES = 72
"""bcrypt looks at no more; a longer new password would only seem to be stronger."""
MAX_KEY_BYTES = 256
"""The longest pre-shared key that DTLS libraries take."""
MAX_SECRETS = 100

_CONFIDENTIAL: Mapping[str, tuple[str, ...]] = {
    HASHED_PASSWORD: (PLAIN, HASH, FUNCTION, SALT),
    PSK: (KEY,),
    X509: (),
    RPK: (KEY, ALGORITHM),
}
_SHOWN: Mapping[str, tuple[str, ...]] = {RPK: (KEY, ALGORITHM)}
_ANY_MEMBERS = (PLAIN, HASH, FUNCTION, SALT, KEY, ALGORITHM)


def parse_credentials(value: Json, max_bcrypt_cost: int = 10) -> tuple[Credential, ...]:
    """Read the full set of a device's credentials as drafts.

    Errors: BadRequest, naming the member.
    """
    if not isinstance(value, list):
        raise BadRequest(f"body: expected array, got {json_name(value)}")
    found: dict[tuple[str, str], Credential] = {}
    for at, item in enumerate(value):
        credential = _credential(Members(item, f"[{at}]"), max_bcrypt_cost)
        key = (credential.type, credential.auth_id)
        if key in found:
            raise BadRequest(
                f"[{at}]: expected each (type, auth-id) once, got"
                f" ({credential.type}, {credential.auth_id[:64]}) twice"
            )
        found[key] = credential
    return tuple(found.values())


def _credential(members: Members, max_bcrypt_cost: int) -> Credential:
    kind = members.required_text("type", CREDENTIAL_TYPE)
    auth_id = members.required_text("auth-id", AUTH_ID if kind == HASHED_PASSWORD else None)
    if len(auth_id) > 1_024:
        raise members.fail("auth-id", "at most 1024 characters")
    credential = Credential(
        type=kind,
        auth_id=auth_id,
        enabled=members.flag("enabled", True),
        comment=members.text("comment"),
        ext=members.object("ext"),
        secrets=tuple(_secret(s, kind, max_bcrypt_cost) for s in members.each("secrets")),
    )
    members.end()
    _check_secrets(members, credential)
    return credential


def _check_secrets(members: Members, credential: Credential) -> None:
    count = len(credential.secrets)
    if not 1 <= count <= MAX_SECRETS:
        raise members.fail("secrets", f"1..{MAX_SECRETS} entries, got {count}")
    if credential.type == X509 and count != 1:
        raise members.fail("secrets", f"exactly one entry for {X509}, got {count}")
    ids = [s.secret_id for s in credential.secrets if s.secret_id is not None]
    if len(ids) != len(set(ids)):
        raise members.fail("secrets", "each secret id once")


def _secret(members: Members, kind: str, max_bcrypt_cost: int) -> Secret:
    names = _CONFIDENTIAL.get(kind, _ANY_MEMBERS)
    data = {name: text for name in names if (text := members.text(name)) is not None}
    secret = Secret(
        secret_id=members.text("id") or None,
        enabled=members.flag("enabled", True),
        not_before=members.instant("not-before"),
        not_after=members.instant("not-after"),
        comment=members.text("comment"),
        data=data,
    )
    members.end()
    check_order(members, secret.not_before, secret.not_after)
    checked = _CHECKS.get(kind, _as_it_is)(members, data, max_bcrypt_cost)
    if not checked and secret.secret_id is None and kind in (HASHED_PASSWORD, PSK, RPK):
        raise members.fail(_NEEDED[kind], "a value, a new secret needs it")
    return replace(secret, data=checked)


_NEEDED = {HASHED_PASSWORD: PLAIN, PSK: KEY, RPK: KEY}


def _password(members: Members, data: dict[str, str], max_bcrypt_cost: int) -> dict[str, str]:
    plain = data.get(PLAIN)
    if plain is not None:
        if not 1 <= len(plain.encode()) <= MAX_PASSWORD_BYTES:
            raise members.fail(PLAIN, f"1..{MAX_PASSWORD_BYTES} bytes, got {len(plain.encode())}")
        return {PLAIN: plain}
    if HASH not in data:
        if data:
            raise members.fail(HASH, f"a value beside {', '.join(sorted(data))}")
        return {}
    function = data.setdefault(FUNCTION, SHA_256)
    if function == BCRYPT:
        _check_bcrypt(members, data[HASH], max_bcrypt_cost)
    elif function in _DIGEST_BYTES:
        _check_base64(members, HASH, data[HASH], _DIGEST_BYTES[function])
        _check_base64(members, SALT, data.get(SALT, ""))
    else:
        raise members.fail(
            FUNCTION, f"one of {SHA_256}, {SHA_512}, {BCRYPT}, got {function[:64]!r}"
        )
    return data


def _check_bcrypt(members: Members, text: str, max_bcrypt_cost: int) -> None:
    match = _BCRYPT.fullmatch(text)
    if match is None:
        raise members.fail(HASH, "a bcrypt hash of version $2a$")
    if not 4 <= int(match[1]) <= max_bcrypt_cost:
        raise members.fail(HASH, f"a bcrypt cost of 4..{max_bcrypt_cost}, got {int(match[1])}")


def _check_base64(members: Members, name: str, text: str, size: int | None = None) -> None:
    try:
        raw = base64.b64decode(text, validate=True)
    except ValueError:  # also of text that is no ASCII
        raise members.fail(name, "base64") from None
    if size is not None and len(raw) != size:
        raise members.fail(name, f"base64 of {size} bytes, got {len(raw)}")


def _psk(members: Members, data: dict[str, str], _max_bcrypt_cost: int) -> dict[str, str]:
    if KEY in data:
        _check_base64(members, KEY, data[KEY])
        size = len(base64.b64decode(data[KEY]))
        if not 1 <= size <= MAX_KEY_BYTES:
            raise members.fail(KEY, f"base64 of 1..{MAX_KEY_BYTES} bytes, got {size}")
    return data


def _rpk(members: Members, data: dict[str, str], _max_bcrypt_cost: int) -> dict[str, str]:
    if not data:
        return data
    if data.get(ALGORITHM) not in ("RSA", "EC"):
        raise members.fail(ALGORITHM, "one of RSA, EC")
    _check_base64(members, KEY, data.get(KEY, ""))
    if not data.get(KEY):
        raise members.fail(KEY, f"a value beside {ALGORITHM}")
    return data


def _as_it_is(_members: Members, data: dict[str, str], _max_bcrypt_cost: int) -> dict[str, str]:
    return data


_CHECKS: Mapping[str, Callable[[Members, dict[str, str], int], dict[str, str]]] = {
    HASHED_PASSWORD: _password,
    PSK: _psk,
    RPK: _rpk,
}


# --- merging ---------------------------------------------------------------------------------------


def merge(
    drafts: Sequence[Credential], stored: Sequence[Credential], new_id: Callable[[], str]
) -> tuple[Credential, ...]:
    """Return what is to be stored: drafts with ids, and with kept confidential members.

    Errors: BadRequest for a secret id that the stored credential does not have.
    """
    before = {(c.type, c.auth_id): c for c in stored}
    return tuple(
        _merged(draft, before.get((draft.type, draft.auth_id)), new_id) for draft in drafts
    )


def _merged(draft: Credential, old: Credential | None, new_id: Callable[[], str]) -> Credential:
    known = {s.secret_id: s for s in old.secrets} if old is not None else {}
    return replace(draft, secrets=tuple(_merged_secret(s, known, new_id) for s in draft.secrets))


def _merged_secret(
    draft: Secret, known: Mapping[str | None, Secret], new_id: Callable[[], str]
) -> Secret:
    if draft.secret_id is None:
        return replace(draft, secret_id=new_id())
    old = known.get(draft.secret_id)
    if old is None:
        raise BadRequest(f"secrets: no secret with id {draft.secret_id[:64]!r} is stored")
    return draft if draft.data else replace(draft, data=old.data)


# --- writing ---------------------------------------------------------------------------------------


def credential_json(credential: Credential) -> JsonObject:
    """Return what GET shows: no confidential member."""
    return _written(credential, _SHOWN.get(credential.type, ()))


def stored_json(credential: Credential) -> JsonObject:
    """Return what is stored; `pwd-plain` never is."""
    return _written(credential, tuple(name for name in _ANY_MEMBERS if name != PLAIN))


def parse_stored(value: JsonObject) -> Credential:
    """Read what `stored_json` wrote."""
    return _credential(Members(value), max_bcrypt_cost=31)


def _written(credential: Credential, names: Sequence[str]) -> JsonObject:
    document: JsonObject = {
        "type": credential.type,
        "auth-id": credential.auth_id,
        "enabled": credential.enabled,
    }
    if credential.comment is not None:
        document["comment"] = credential.comment
    if credential.ext is not None:
        document["ext"] = dict(credential.ext)
    document["secrets"] = [_written_secret(s, names) for s in credential.secrets]
    return document


def _written_secret(secret: Secret, names: Sequence[str]) -> Json:
    document: JsonObject = {"id": secret.secret_id, "enabled": secret.enabled}
    for name, at in (("not-before", secret.not_before), ("not-after", secret.not_after)):
        if at is not None:
            document[name] = format_instant(at)
    if secret.comment is not None:
        document["comment"] = secret.comment
    document.update({name: secret.data[name] for name in names if name in secret.data})
    return document
