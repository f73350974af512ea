"""Every dashboard, in the order in which Grafana lists them."""

from __future__ import annotations

from typing import Final

from dashboards.source.boards import (
    commands,
    devices,
    fleet,
    kubernetes,
    messaging,
    node,
    overview,
    runtime,
    twins,
)
from dashboards.source.panels import Board

BOARDS: Final[tuple[Board, ...]] = (
    overview.BOARD,
    messaging.BOARD,
    commands.BOARD,
    twins.BOARD,
    fleet.BOARD,
    node.BOARD,
    devices.BOARD,
    kubernetes.BOARD,
    runtime.BOARD,
)
