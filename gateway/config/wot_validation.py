"""Settings of validation against Thing Models."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.twin.wot.validation_rules import FeatureRules, ThingRules


@dataclass(frozen=True, slots=True, kw_only=True)
class WotValidationSection:
    """Switches that hold for some commands and messages only: those that every kind of pattern fits."""

    scope_id: str = "ditto:static"
    """What the section is called where the configuration is shown."""
    ditto_headers_patterns: tuple[dict[str, str], ...] = ()
    """Header name to regular expression; all of one mapping match whole values, one mapping is enough."""
    thing_definition_patterns: tuple[str, ...] = ()
    """Regular expressions of whole thing definitions, one is enough; empty takes all."""
    feature_definition_patterns: tuple[str, ...] = ()
    """The same of feature definitions; what concerns no single feature does not match."""
    config_overrides: dict[str, Any] = field(default_factory=dict)
    """Switches as in `ditto.wot.validation`, e.g. `{"thing": {"enforce": {"attributes": false}}}`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WotValidation:
    """Validation of things and messages against their Thing Models."""

    enabled: bool = True
    """False accepts what no model allows."""
    log_warning_instead_of_failing_api_calls: bool = False
    """True logs what does not fit, and accepts it."""
    thing: ThingRules = field(default_factory=ThingRules)
    feature: FeatureRules = field(default_factory=FeatureRules)
    dynamic_configuration: tuple[WotValidationSection, ...] = ()
    """Exceptions; later ones win. More can be put at `/devops/wot/config/dynamicConfigs`."""
