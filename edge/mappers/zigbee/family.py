"""Makes the family of Zigbee devices; its library is imported only then."""

from __future__ import annotations

from edge.mappers.family import Family, Surroundings
from gateway.errors import InvalidSetting


def make_zigbee(surroundings: Surroundings) -> Family:
    """Return the family of Zigbee devices. Errors: InvalidSetting."""
    try:
        from edge.mappers.zigbee.network import ZigbeeFamily
    except ModuleNotFoundError as error:
        if (error.name or "").startswith(("edge", "gateway")):
            raise
        raise InvalidSetting(
            f"Zigbee devices need {error.name}: pip install 'twinspan[zigbee]'"
        ) from error
    return ZigbeeFamily(surroundings)
