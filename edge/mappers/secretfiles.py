"""Passwords and tokens that Devices name.

They are files in the family's own folder, so that whoever writes a Device cannot have others read.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final

from edge.mappers.configdata import ConfigData
from gateway.errors import Rejected

FOLDER: Final = "secrets"
MAX_SECRET: Final = 16_384
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def read_secret(folder: Path, config: ConfigData, key: str) -> str:
    """Return the text of the file `secrets/<name>` that `key` names, "" without the key.

    Errors: Rejected for another name than a plain one, or a file that cannot be read.
    """
    name = config.text(key)
    if not name:
        return ""
    if not _NAME.fullmatch(name):
        raise Rejected(f"{config.where}.{key}: expected the name of a file in {FOLDER}/, no path")
    path = folder / FOLDER / name
    try:
        with path.open("rb") as file:
            text = file.read(MAX_SECRET + 1)
        if len(text) > MAX_SECRET:
            raise Rejected(f"{config.where}.{key}: {path} is over {MAX_SECRET} bytes")
        return text.decode().strip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise Rejected(f"{config.where}.{key}: {path} cannot be read") from error
