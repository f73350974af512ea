"""All piggyback commands of the Ditto side."""

from __future__ import annotations

from gateway.ditto.devops_http import DevopsRoutes
from gateway.ditto.piggyback import Piggybacks
from gateway.ditto.piggyback_entities import PolicyPiggybacks, ThingPiggybacks
from gateway.ditto.piggyback_operations import OperationPiggybacks
from gateway.ditto.service import PoliciesService, ThingsService
from gateway.ditto.upkeep import Upkeep
from gateway.model.json import Json
from gateway.observe.metrics import Metrics


def piggybacks(
    things: ThingsService,
    policies: PoliciesService,
    upkeep: Upkeep,
    settings: Json,
    metrics: Metrics,
) -> Piggybacks:
    """The commands on things, policies and the service itself.

    Shape:  `settings` as plain data.
    """
    return Piggybacks(
        ThingPiggybacks(things).table(),
        PolicyPiggybacks(policies).table(),
        OperationPiggybacks(things, policies, upkeep, DevopsRoutes(settings).config_at).table(),
        metrics=metrics,
    )
