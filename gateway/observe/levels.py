"""Changing what is logged while the process runs.

Levels carry the names that operators of Ditto know; `ROOT` is the root logger, and `org.eclipse.ditto` what
this package logs.
"""

from __future__ import annotations

import logging
import re
from typing import Final

from gateway.errors import BadRequest

ROOT: Final = "ROOT"
_ALIASES: Final = {ROOT: "", "org.eclipse.ditto": "gateway"}
_OFF: Final = logging.CRITICAL + 10
_TRACE: Final = 5
LEVELS: Final = {
    "off": _OFF,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": _TRACE,
    "all": 1,
}
_NAME = re.compile(r"[A-Za-z_]\w{0,99}(\.[A-Za-z_]\w{0,99}){0,15}")


def level_of(name: str = ROOT) -> str:
    """The level in force of a logger."""
    return _name_of(logging.getLogger(_ALIASES.get(name, name)).getEffectiveLevel())


def loggers(*, with_silent: bool = False) -> list[tuple[str, str]]:
    """Logger and level: those with a level of their own, or all, the root first."""
    found = [(ROOT, level_of())]
    for name, logger in sorted(logging.Logger.manager.loggerDict.items()):
        if isinstance(logger, logging.Logger) and (with_silent or logger.level != logging.NOTSET):
            found.append((name, _name_of(logger.getEffectiveLevel())))
    return found


def set_level(name: str, level: str) -> None:
    """Change the level of a logger that is there, and so of those below it without one of their own.

    Errors: BadRequest for an unknown level or logger.
    """
    wanted = LEVELS.get(level.lower())
    if wanted is None:
        raise BadRequest(
            f"'{level[:100]}' is no log level.", description=f"Levels: {', '.join(LEVELS)}."
        )
    logging.getLogger(_known(name)).setLevel(wanted)


def _known(name: str) -> str:
    """The name as Python knows it; names that nobody logs under are refused, they would pile up."""
    if name in _ALIASES:
        return _ALIASES[name]
    if _NAME.fullmatch(name) is not None and name in logging.Logger.manager.loggerDict:
        return name
    raise BadRequest(
        f"There is no logger '{name[:200]}'.",
        description="GET /devops/logging?includeDisabledLoggers=true lists them.",
    )


def _name_of(level: int) -> str:
    for name, least in LEVELS.items():
        if level >= least:
            return name
    return "all"
