"""Mappers of other packages: entry points of `twinspan.mappers`, loaded only when settings name them.

An entry point's name is the protocol that it serves; its object is a `DriverFactory`. What it loads runs
inside EdgeCore with all its rights.
"""

from __future__ import annotations

from edge.mappers.driver import DriverFactory
from gateway.config.edge_services import Plugins
from gateway.errors import InvalidSetting

GROUP = "twinspan.mappers"


def load_mappers(settings: Plugins) -> dict[str, DriverFactory]:
    """Return the drivers that the settings name. Errors: InvalidSetting, naming what is not there."""
    if settings.modules:
        raise InvalidSetting("edge.plugins.modules: modules of other packages are not built")
    if not settings.mappers:
        return {}
    from importlib.metadata import entry_points  # costs memory and time: only if used

    found = {point.name: point for point in entry_points(group=GROUP)}
    missing = [name for name in settings.mappers if name not in found]
    if missing:
        raise InvalidSetting(f"edge.plugins.mappers: no entry point {missing[0]!r} in {GROUP}")
    drivers: dict[str, DriverFactory] = {}
    for name in settings.mappers:
        try:
            factory = found[name].load()
        except (ImportError, AttributeError) as error:
            raise InvalidSetting(f"edge.plugins.mappers: {name}: {error}") from error
        if not callable(factory):
            raise InvalidSetting(f"edge.plugins.mappers: {name} is no driver factory")
        drivers[name] = factory
    return drivers
