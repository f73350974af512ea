"""Callers by bearer tokens of an operator's file: `token,user,uid,"group1,group2"`, one a line.

Source: Kubernetes "Static token file".
"""

from __future__ import annotations

import csv
from pathlib import Path

from gateway.errors import InvalidSetting
from gateway.kube.auth import User

SETTING = "kube.token_file"
MAX_FILE = 4_194_304


def read_tokens(name: str) -> dict[str, User]:
    """Return the users of a file by their tokens.

    Errors: InvalidSetting, naming the line, for a file that cannot be read or a line with less than a token,
            a user and a uid.
    """
    path = Path(name).expanduser()
    try:
        text = path.read_bytes()[: MAX_FILE + 1].decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidSetting(f"{SETTING}: cannot read {path}: {error}") from error
    if len(text) > MAX_FILE:
        raise InvalidSetting(f"{SETTING}: {path} is larger than {MAX_FILE} bytes")
    users: dict[str, User] = {}
    try:
        for at, row in enumerate(csv.reader(text.splitlines(), skipinitialspace=True), 1):
            if row and not row[0].startswith("#"):
                token, user = _user(row, path, at)
                users[token] = user
    except csv.Error as error:
        raise InvalidSetting(f"{SETTING}: {path}: {error}") from error
    return users


def _user(row: list[str], path: Path, at: int) -> tuple[str, User]:
    fields = [field.strip() for field in row]
    if len(fields) < 3 or not fields[0] or not fields[1]:
        raise InvalidSetting(
            f'{SETTING}: {path}:{at}: expected token,user,uid[,"group1,group2"], got {len(row)} fields'
        )
    groups = fields[3].split(",") if len(fields) > 3 else []
    held = tuple(group.strip() for group in groups if group.strip())
    return fields[0], User(fields[1], held, fields[2])
