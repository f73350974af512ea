"""Who may log in to this installation's services: sample users with `--demo`, random ones otherwise.

`<data-dir>/credentials.json` keeps the random ones (mode 0600; made and shown once at the first start);
`<data-dir>/users.json` holds those in force now, for the command line on the same machine.
"""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from gateway.errors import InvalidSetting

CREDENTIALS = "credentials.json"
USERS = "users.json"


@dataclass(frozen=True, slots=True)
class Users:
    """User name -> password, by service."""

    ditto: dict[str, str]
    devops: dict[str, str]
    registry: dict[str, str]
    northbound: dict[str, str]


DEMO = Users(
    ditto={"ditto": "ditto"},
    devops={"devops": "foobar", "status": "status"},
    registry={"hono-client": "secret"},
    northbound={"consumer@HONO": "verysecret"},
)


def load_or_create(data_dir: Path, *, demo: bool, file: Path | None = None) -> tuple[Users, bool]:
    """Return the users in force, and whether they were made just now (then they are to be shown).

    Shape:  `file` holds users that somebody else keeps, in the form of `credentials.json`.
    Errors: InvalidSetting when the file is there and cannot be read as users, or `file` is not there.
    """
    if demo:
        users, is_new = DEMO, False
    elif file is not None:
        users, is_new = _parse(file), False
    else:
        users, is_new = _kept(data_dir / CREDENTIALS)
    if is_new:
        write_private(data_dir / CREDENTIALS, json.dumps(asdict(users), indent=2))
    write_private(data_dir / USERS, json.dumps(asdict(users), indent=2))
    return users, is_new


def read(data_dir: Path) -> Users:
    """Return the users in force for the command line.

    Errors: InvalidSetting when Twinspan was never started on this data directory, or the file is not ours.
    """
    return _parse(data_dir / USERS)


def _kept(file: Path) -> tuple[Users, bool]:
    if file.exists():
        return _parse(file), False
    return Users(
        **{s: {n: secrets.token_urlsafe(18) for n in u} for s, u in asdict(DEMO).items()}
    ), True


def _parse(file: Path) -> Users:
    try:
        return Users(**json.loads(file.read_text("utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSetting(f"{file}: expected the users of this installation: {error}") from error


def write_private(file: Path, text: str) -> None:
    """Replace a file in one step, readable by its owner alone."""
    temporary = file.with_suffix(f".{os.getpid()}.tmp")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        temporary.replace(file)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
