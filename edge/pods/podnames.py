"""Names that become folders and files of this machine. Pure.

The API judges names when an object is made; a cloud in error, or in others' hands, must not lead out of the
folders that are meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Final

from gateway.wire.kube.names import label_fault, subdomain_fault

_UID: Final = re.compile(r"[0-9A-Za-z][0-9A-Za-z_-]{0,127}")
_MAX_SHOWN: Final = 100


def is_uid(uid: str) -> bool:
    """True for a uid that may be a folder's name."""
    return _UID.fullmatch(uid) is not None


def misnamed(uid: str, namespace: str, name: str, containers: Iterable[str]) -> Iterator[str]:
    """Yield what of a Pod's names is none; its own may be left open."""
    if uid and not is_uid(uid):
        yield f"metadata.uid: not a uid: {uid[:_MAX_SHOWN]!r}"
    judged = (
        ("metadata.namespace", namespace, namespace and label_fault(namespace)),
        ("metadata.name", name, name and subdomain_fault(name)),
        *(("a container's name", each, label_fault(each)) for each in containers),
    )
    for field, value, fault in judged:
        if fault:
            yield f"{field}: {value[:_MAX_SHOWN]!r}: {fault}"
