"""Settings of the Web of Things: where Thing Models come from, and what is made of them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gateway.config.wot_validation import WotValidation


@dataclass(frozen=True, slots=True, kw_only=True)
class WotModels:
    """Fetching Thing Models."""

    local: str = ""
    """Folder with models that are not fetched: `<folder>/<host>/<path>`, or as its `models.yaml` says."""
    local_only: bool = False
    """True asks nobody: what the folder does not have does not exist."""
    max_bytes: int = 262_144
    """Bytes of one document."""
    max_redirects: int = 5
    """Redirects that are followed, each judged like the first address."""
    fetch_seconds: float = 5.0
    """Seconds for one document, redirects included."""
    resolve_seconds: float = 12.0
    """Seconds that a command waits for its models, all documents together."""
    cache_seconds: float = 86_400.0
    """Seconds after which a document is asked for again; the old one serves until the answer is there."""
    failure_seconds: float = 30.0
    """Seconds that a failure is remembered."""
    cache_entries: int = 1_000
    """Documents kept in memory, and models made of them."""
    cache_bytes: int = 33_554_432
    """Bytes of documents kept in memory, and of models made of them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WotSkeleton:
    """What a new thing or feature gets from its model."""

    enabled: bool = True
    """False makes no skeletons."""
    optional_properties: bool = False
    """True fills in optional properties too."""
    throw_on_errors: bool = True
    """False makes the thing or feature without a skeleton when its model cannot be had or is not valid."""


def _template() -> dict[str, Any]:
    return {
        "securityDefinitions": {"basic_sc": {"scheme": "basic", "in": "header"}},
        "security": "basic_sc",
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class WotDescription:
    """Thing Descriptions."""

    base_url: str = ""
    """How addresses in descriptions begin, e.g. `https://iot.acme.org`; empty takes what was called."""
    template: dict[str, Any] = field(default_factory=_template)
    """Members added to each description, e.g. `securityDefinitions`, `security`, `support`."""
    placeholders: dict[str, Any] = field(default_factory=dict)
    """Values for placeholders of models that a thing has none for."""
    created: bool = True
    """True tells when the thing was created."""
    modified: bool = False
    """True tells when the thing was changed last."""
    uri_variables: bool = True
    """False leaves query parameters out of forms."""
    filtered: bool = True
    """False tells every reader of a thing about all of it, also what its policy keeps from them."""
    directory_authentication: bool = False
    """True answers `/.well-known/wot` to authenticated callers only."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wot:
    """Web of Things."""

    enabled: bool = True
    """False ignores models: no skeletons, no descriptions."""
    allowed_addresses: tuple[str, ...] = ()
    """Networks or host names, perhaps with `:port`, that models may come from though not public."""
    models: WotModels = field(default_factory=WotModels)
    skeleton: WotSkeleton = field(default_factory=WotSkeleton)
    description: WotDescription = field(default_factory=WotDescription)
    validation: WotValidation = field(default_factory=WotValidation)
