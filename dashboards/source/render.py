"""Grafana's JSON of a board, through grafana-foundation-sdk, without its nulls."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

from grafana_foundation_sdk.builders import (
    bargauge,
    common,
    dashboard,
    prometheus,
    stat,
    statetimeline,
    table,
    timeseries,
)
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.models import common as shapes
from grafana_foundation_sdk.models import dashboard as models
from grafana_foundation_sdk.models.prometheus import PromQueryFormat

from dashboards.source.panels import Board, Kind, Link, Panel, Row, Steps, Variable

TAG: Final = "twinspan"
SOURCE: Final = models.DataSourceRef(type_val="prometheus", uid="${datasource}")
BUILDERS: Final[Mapping[Kind, Callable[[], Any]]] = {
    "timeseries": timeseries.Panel,
    "stat": stat.Panel,
    "table": table.Panel,
    "bargauge": bargauge.Panel,
    "statetimeline": statetimeline.Panel,
}
ALL: Final = models.VariableOption(text="All", value="$__all")


def rendered(board: Board) -> str:
    """Return the file's text."""
    made = dashboard.Dashboard(board.title).uid(board.uid).description(board.about)
    made = made.tags([TAG]).editable().refresh("30s").time("now-1h", "now").timezone("browser")
    made = made.tooltip(models.DashboardCursorSync.CROSSHAIR).link(_to_the_others())
    made = made.with_variable(
        dashboard.DatasourceVariable("datasource").label("Prometheus").type("prometheus")
    )
    for variable in board.variables:
        made = made.with_variable(_variable(variable))
    for row in board.rows:
        _add(made, row)
    plain = json.loads(json.dumps(made.build(), cls=JSONEncoder))
    return json.dumps(_plain(plain), indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def _add(made: dashboard.Dashboard, row: Row) -> None:
    head = dashboard.Row(row.title).id(_number(row.title))
    if not row.is_collapsed:
        made.with_row(head)
        for panel in row.panels:
            made.with_panel(_panel(panel, row))
        return
    for panel in row.panels:
        head.with_panel(_panel(panel, row))
    made.with_row(head)


def _number(*words: str) -> int:
    """Return an id that stays when other panels come and go."""
    return zlib.crc32("/".join(words).encode()) % 1_000_000 + 1


def _panel(panel: Panel, row: Row) -> Any:
    made = BUILDERS[panel.kind]().id(_number(row.title, panel.title)).title(panel.title)
    made = made.description(_described(panel)).datasource(SOURCE).unit(panel.unit)
    made = made.span(panel.size[0]).height(panel.size[1])
    made = made.thresholds(_thresholds(panel.steps)).mappings(list(_mappings(panel.names)))
    for at, (expr, legend) in enumerate(panel.series):
        made = made.with_target(_target(panel, chr(ord("A") + at), expr, legend))
    if panel.links:
        made = made.data_links([_data_link(link) for link in panel.links])
    return STYLES[panel.kind](made, panel)


def _described(panel: Panel) -> str:
    parts = [panel.about]
    if panel.quiet:
        parts.append(f"Empty when healthy: {panel.quiet}.")
    if panel.needs:
        parts.append(f"Shows something only with {panel.needs}.")
    return " ".join(parts)


def _target(panel: Panel, ref: str, expr: str, legend: str) -> prometheus.Dataquery:
    query = prometheus.Dataquery().ref_id(ref).expr(expr).legend_format(legend).datasource(SOURCE)
    if panel.kind == "table":
        return query.instant().format(PromQueryFormat.TABLE)
    return query.range()


def _thresholds(steps: Steps | None) -> dashboard.ThresholdsConfig:
    made = dashboard.ThresholdsConfig().mode(models.ThresholdsMode.ABSOLUTE)
    return made.steps([models.Threshold(value=at, color=color) for at, color in _colors(steps)])


def _colors(steps: Steps | None) -> Iterator[tuple[float | None, str]]:
    if steps is None:
        yield None, "green"
        return
    low, high = ("red", "green") if steps.falling else ("green", "red")
    first, last = (steps.bad, steps.warn) if steps.falling else (steps.warn, steps.bad)
    yield None, low
    if steps.warn is not None:
        yield first, "orange"
    yield (last if last is not None else steps.bad), high


def _mappings(names: Mapping[int, str]) -> Iterator[models.ValueMapping]:
    if names:
        results = {
            str(value): models.ValueMappingResult(text=text, index=at)
            for at, (value, text) in enumerate(names.items())
        }
        yield models.ValueMap(options=results)


def _data_link(link: Link) -> dashboard.DashboardLink:
    query = "&".join(
        part for part in ("${__url_time_range}", "${datasource:queryparam}", link.query) if part
    )
    return dashboard.DashboardLink(link.title).url(f"/d/{link.uid}?{query}")


# --- per kind -------------------------------------------------------------------------------------


def _lines(made: timeseries.Panel, panel: Panel) -> timeseries.Panel:
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.TABLE)
    legend = (
        legend.placement(shapes.LegendPlacement.BOTTOM)
        .show_legend(True)
        .calcs(["lastNotNull", "max"])
    )
    tip = common.VizTooltipOptions().mode(shapes.TooltipDisplayMode.MULTI)
    made = made.legend(legend).tooltip(tip.sort(shapes.SortOrder.DESCENDING)).min(0)
    made = made.fill_opacity(10).show_points(shapes.VisibilityMode.AUTO)
    if panel.top is not None:
        made = made.max(panel.top)
    if panel.is_stacked:
        made = made.stacking(common.StackingConfig().mode(shapes.StackingMode.NORMAL).group("A"))
    if panel.steps is not None:
        style = common.GraphThresholdsStyleConfig().mode(shapes.GraphThresholdsStyleMode.DASHED)
        made = made.thresholds_style(style)
    return made


def _number_panel(made: stat.Panel, panel: Panel) -> stat.Panel:
    reduce = common.ReduceDataOptions().calcs(["lastNotNull"])
    made = made.reduce_options(reduce).graph_mode(shapes.BigValueGraphMode.AREA)
    mode = shapes.BigValueColorMode.BACKGROUND if panel.steps else shapes.BigValueColorMode.VALUE
    return made.color_mode(mode)


def _table(made: table.Panel, panel: Panel) -> table.Panel:
    made = made.filterable(True).show_header(True)
    if len(panel.series) > 1:
        made = made.with_transformation(models.DataTransformerConfig(id_val="merge", options={}))
    order = {name: at for at, name in enumerate(panel.columns)}
    options = {
        "renameByName": panel.columns,
        "indexByName": order,
        "includeByName": dict.fromkeys(order, True),
    }
    made = made.with_transformation(
        models.DataTransformerConfig(id_val="organize", options=options)
    )
    for column, unit in panel.units.items():
        made = made.override_by_name(column, [models.DynamicConfigValue(id_val="unit", value=unit)])
    return made


def _bars(made: bargauge.Panel, _panel: Panel) -> bargauge.Panel:
    made = made.reduce_options(common.ReduceDataOptions().calcs(["lastNotNull"])).min(0)
    return made.orientation(shapes.VizOrientation.HORIZONTAL)


def _states(made: statetimeline.Panel, _panel: Panel) -> statetimeline.Panel:
    legend = common.VizLegendOptions().display_mode(shapes.LegendDisplayMode.LIST)
    legend = legend.placement(shapes.LegendPlacement.BOTTOM).show_legend(False)
    by_value = dashboard.FieldColor().mode(models.FieldColorModeId.THRESHOLDS)
    return made.legend(legend).color_scheme(by_value).merge_values(True).row_height(0.8)


STYLES: Final[Mapping[Kind, Callable[[Any, Panel], Any]]] = {
    "timeseries": _lines,
    "stat": _number_panel,
    "table": _table,
    "bargauge": _bars,
    "statetimeline": _states,
}


# --- variables and links --------------------------------------------------------------------------


def _to_the_others() -> dashboard.DashboardLink:
    link = dashboard.DashboardLink("Twinspan").type(models.DashboardLinkType.DASHBOARDS).tags([TAG])
    return link.as_dropdown(True).include_vars(True).keep_time(True)


def _variable(variable: Variable) -> dashboard.QueryVariable:
    made = dashboard.QueryVariable(variable.name).label(variable.label).datasource(SOURCE)
    made = made.query({"query": variable.query, "refId": variable.name})
    made = made.multi(variable.is_multi).include_all(True).all_value(".*").current(ALL)
    return made.refresh(models.VariableRefresh.ON_TIME_RANGE_CHANGED).sort(
        models.VariableSort.ALPHABETICAL_ASC
    )


FOREIGN: Final = frozenset({"auto", "auto_min", "auto_count"})
"""What the SDK writes into every variable, and Grafana knows of intervals only."""


def _plain(value: Any) -> Any:
    """Return the same without what Grafana's own types do not know: nulls (a first threshold is one)."""
    if isinstance(value, dict):
        return {
            key: _plain(item)
            for key, item in value.items()
            if key not in FOREIGN and (item is not None or key == "value")
        }
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
