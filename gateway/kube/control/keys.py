"""What only the API's own loops have: the authority of certificates, and who signs accounts' tokens."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from gateway.model.json import JsonObject
from gateway.runtime.certificates import Pair


@dataclass(frozen=True, slots=True)
class Keys:
    """Shape: `account_token` makes the lasting token of a ServiceAccount for a Secret: (account, Secret)."""

    authority: Pair
    account_token: Callable[[JsonObject, JsonObject], str]


def no_keys() -> Keys | None:
    """Somebody else's API: its keys are not ours."""
    return None
