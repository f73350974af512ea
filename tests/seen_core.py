"""`twinspan` with one protocol alone, whose family sees made-up devices: `python -m tests.seen_core ...`."""

from __future__ import annotations

from typing import cast

import edge.devicefaults
import edge.devicerooms
import edge.discoverynews
import edge.mappers.process
from edge.mappers.family import FAMILIES
from gateway.cli.main import main


def prepare(maker: str = "tests.seen_family:make_seen") -> None:
    """Leave `modbus` alone, made by a maker of tests; what is told is told at once."""
    edge.discoverynews.GATHER_SECONDS = 0.05
    edge.devicefaults.SETTLE_SECONDS = 0.1
    known = cast(dict[str, str], FAMILIES)
    known.clear()
    known["modbus"] = maker
    for module in (edge.devicerooms, edge.mappers.process):
        setattr(module, "family_name", lambda _maker: "modbus")  # noqa: B010


if __name__ == "__main__":
    prepare()
    main()
