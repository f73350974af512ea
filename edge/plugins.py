"""Mappers and modules of other packages: entry points, loaded only when settings name them.

- `twinspan.mappers`: the name is the protocol that it serves, the object a `DriverFactory`.
- `twinspan.modules`: the object is a `edge.pluginport.ModuleFactory`.

What they load runs inside EdgeCore with all its rights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from edge.mappers.driver import DriverFactory
from edge.pluginport import ModuleFactory
from gateway.config.edge_services import Plugins
from gateway.errors import InvalidSetting

MAPPERS, MODULES = "twinspan.mappers", "twinspan.modules"


def load_mappers(settings: Plugins) -> dict[str, DriverFactory]:
    """Return the drivers that the settings name. Errors: InvalidSetting, naming what is not there."""
    return _load(MAPPERS, "edge.plugins.mappers", settings.mappers, "driver factory")


def load_modules(settings: Plugins) -> dict[str, ModuleFactory]:
    """Return the factories that the settings name. Errors: InvalidSetting, naming what is not there."""
    return _load(MODULES, "edge.plugins.modules", settings.modules, "module factory")


def _load(group: str, setting: str, names: Sequence[str], kind: str) -> dict[str, Any]:
    if not names:
        return {}
    from importlib.metadata import entry_points  # costs memory and time: only if used

    found = {point.name: point for point in entry_points(group=group)}
    missing = [name for name in names if name not in found]
    if missing:
        raise InvalidSetting(f"{setting}: no entry point {missing[0]!r} in {group}")
    loaded = {}
    for name in names:
        try:
            factory = found[name].load()
        except (ImportError, AttributeError) as error:
            raise InvalidSetting(f"{setting}: {name}: {error}") from error
        if not callable(factory):
            raise InvalidSetting(f"{setting}: {name} is no {kind}")
        loaded[name] = factory
    return loaded
