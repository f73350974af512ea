"""What a dashboard is made of, as plain values; `render` makes Grafana's JSON of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "table", "bargauge", "statetimeline"]
Series = tuple[str, str]
"""An expression and the legend of what it gives."""


@dataclass(frozen=True, slots=True)
class Steps:
    """Colours by value: green below `warn`, orange from there, red from `bad`.

    Shape:  `falling` turns it round: red below `bad`, orange below `warn`, green from there.
    """

    warn: float | None
    bad: float
    falling: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """Where a click on a value leads: a dashboard and its variables."""

    title: str
    uid: str
    query: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One panel.

    Shape:  `unit` as Grafana names it; `size` is width (of 24) and height; `names` says by which text a
            value is shown (`{0: "down"}`); `columns` renames a table's columns, and leaves out all others.
            `quiet` says why the panel is empty while nothing is wrong, `needs` what must be in use for it to
            show anything: a panel with neither has data as soon as there is traffic.
    """

    title: str
    unit: str
    about: str
    series: tuple[Series, ...]
    kind: Kind = "timeseries"
    size: tuple[int, int] = (8, 8)
    steps: Steps | None = None
    names: dict[int, str] = field(default_factory=dict)
    columns: dict[str, str] = field(default_factory=dict)
    units: dict[str, str] = field(default_factory=dict)
    links: tuple[Link, ...] = ()
    is_stacked: bool = False
    top: float | None = None
    quiet: str = ""
    needs: str = ""


@dataclass(frozen=True, slots=True)
class Row:
    """A heading and the panels below it."""

    title: str
    panels: tuple[Panel, ...]
    is_collapsed: bool = False


@dataclass(frozen=True, slots=True)
class Variable:
    """A choice at the top of a dashboard, from the values of a label of series."""

    name: str
    label: str
    query: str
    is_multi: bool = True


@dataclass(frozen=True, slots=True)
class Board:
    """A dashboard."""

    name: str
    title: str
    about: str
    variables: tuple[Variable, ...]
    rows: tuple[Row, ...]

    @property
    def uid(self) -> str:
        return f"twinspan-{self.name}"

    @property
    def panels(self) -> tuple[Panel, ...]:
        return tuple(panel for row in self.rows for panel in row.panels)


def lines(title: str, unit: str, about: str, *series: Series, **more: object) -> Panel:
    """Return a panel with curves over time."""
    return Panel(title, unit, about, series, **more)  # type: ignore[arg-type]


def number(title: str, unit: str, about: str, *series: Series, **more: object) -> Panel:
    """Return a panel with the last value, large."""
    chosen = {"size": (4, 4), **more}
    return Panel(title, unit, about, series, kind="stat", **chosen)  # type: ignore[arg-type]


def table(title: str, about: str, *series: Series, **more: object) -> Panel:
    """Return a table; each series of queries is a column, joined by the labels that they share."""
    chosen = {"size": (12, 8), **more}
    return Panel(title, "short", about, series, kind="table", **chosen)  # type: ignore[arg-type]


def states(title: str, about: str, *series: Series, **more: object) -> Panel:
    """Return a panel with a band of states over time for each series."""
    chosen = {"names": {0: "down", 1: "up"}, "steps": Steps(None, 1, falling=True), **more}
    return Panel(title, "short", about, series, kind="statetimeline", **chosen)  # type: ignore[arg-type]
