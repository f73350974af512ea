"""What a failed command tells: exit code and lines."""

from __future__ import annotations

import logging
from collections.abc import Iterator

from gateway.errors import GatewayError, InvalidSetting

OK, FAILED, USAGE, NOT_FOUND, DENIED, UNREACHABLE = range(6)

_BY_STATUS = {401: DENIED, 403: DENIED, 404: NOT_FOUND}


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Yield the errors inside a group, or the error itself."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


def exit_code_of(error: BaseException) -> int:
    """Return the exit code for the first error that counts."""
    first = next(leaves(error))
    if isinstance(first, InvalidSetting):
        return USAGE
    if isinstance(first, ConnectionError | TimeoutError):
        return UNREACHABLE
    return _BY_STATUS.get(getattr(first, "status", 0), FAILED)


def explain(error: BaseException) -> Iterator[str]:
    """Yield one line an error; a bug is logged with its traceback as well."""
    for leaf in leaves(error):
        if isinstance(leaf, GatewayError):
            yield f"Error: {leaf.message}"
            if leaf.description:
                yield f"       {leaf.description}"
        elif isinstance(leaf, OSError):
            yield f"Error: {leaf.strerror or leaf}"
        else:
            logging.getLogger(__name__).error("unexpected error", exc_info=leaf)
            yield f"Error: {type(leaf).__name__}: {leaf}"
