"""Readiness: a module that is up may say that it is not well, and why."""

from __future__ import annotations

from collections.abc import Callable

from gateway.runtime.module import Described, Readiness


class Relay:
    """A module that knows of a peer."""

    name = "relay"
    is_well = True

    async def run(self, ready: Callable[[], None]) -> None:
        """Not run here."""

    def facts(self) -> dict[str, str | int | bool]:
        return {"connected": self.is_well}


def test_a_module_that_is_not_well_is_up_and_not_ready() -> None:
    module, readiness = Relay(), Readiness(("relay", "other"))
    assert isinstance(module, Described)
    readiness.describe("relay", module)
    assert readiness.facts("relay") == {}, "it does not run yet"
    readiness.mark("relay", True)
    readiness.mark("other", True)
    assert readiness.states == {"relay": True, "other": True}
    module.is_well = False
    assert readiness.states == {"relay": False, "other": True}
    assert readiness.facts("relay") == {"connected": False}
    assert readiness.facts("other") == {}
    assert readiness.all_ready, "all modules are up"
