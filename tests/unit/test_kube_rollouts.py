"""How Deployments spread replicas: limits that hold whatever the Pods do, shares that are kept."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.parts import part
from gateway.wire.kube.rollouts import (
    DESIRED,
    MOST,
    Limits,
    Resize,
    emptied,
    first_size,
    is_scaled,
    limits_of,
    new_set_resize,
    old_set_resizes,
    scale_resizes,
)


def a_deployment(replicas: int, surge: Json = "25%", unavailable: Json = "25%") -> JsonObject:
    strategy: JsonObject = {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable},
    }
    return {"metadata": {"name": "web"}, "spec": {"replicas": replicas, "strategy": strategy}}


def a_set(name: str, size: int, available: int = 0, **notes: str) -> JsonObject:
    annotations: JsonObject = {
        {"desired": DESIRED, "most": MOST}[key]: value for key, value in notes.items()
    }
    return {
        "metadata": {"name": name, "creationTimestamp": name, "annotations": annotations},
        "spec": {"replicas": size},
        "status": {"availableReplicas": available, "replicas": size},
    }


@pytest.mark.parametrize(
    ("replicas", "surge", "unavailable", "expected"),
    [
        (10, "25%", "25%", Limits(10, 3, 2)),
        (1, "25%", "25%", Limits(1, 1, 0)),
        (3, "25%", "25%", Limits(3, 1, 0)),
        (2, 0, "1%", Limits(2, 0, 1)),  # nothing could ever move otherwise
        (2, "1%", 0, Limits(2, 1, 0)),
        (4, 10, 10, Limits(4, 10, 4)),
        (0, "25%", "25%", Limits(0, 0, 0)),
        (5, "100%", "0%", Limits(5, 5, 0)),
    ],
)
def test_shares_round_up_for_more_and_down_for_fewer(
    replicas: int, surge: Json, unavailable: Json, expected: Limits
) -> None:
    assert limits_of(a_deployment(replicas, surge, unavailable)) == expected


def test_recreate_allows_neither_more_nor_fewer() -> None:
    deployment: JsonObject = {"spec": {"replicas": 3, "strategy": {"type": "Recreate"}}}
    assert limits_of(deployment) == Limits(3, 0, 0)
    assert first_size(deployment, [a_set("old", 3)]) == 3
    assert emptied([a_set("a", 2), a_set("b", 0)]) == [Resize("a", 2, 0)]


def test_a_new_set_takes_the_room_that_there_is() -> None:
    deployment, old = a_deployment(10, 3, 2), a_set("a", 10, 10)
    assert first_size(deployment, [old]) == 3
    assert first_size(deployment, []) == 10
    assert first_size(deployment, [a_set("a", 20)]) == 0
    new = a_set("b", 3)
    assert new_set_resize(deployment, new, [a_set("a", 8)]) == [Resize("b", 3, 5)]
    late = a_set("a", 8)
    part(late, "status")["replicas"] = 10  # two are still to be deleted
    assert new_set_resize(deployment, new, [late]) == []
    assert first_size(deployment, [late]) == 3
    assert new_set_resize(deployment, a_set("b", 12), []) == [Resize("b", 12, 10)]
    assert new_set_resize(deployment, a_set("b", 10), []) == []


def test_what_does_not_serve_goes_before_what_does() -> None:
    deployment = a_deployment(10, 3, 2)
    broken, good = a_set("a", 3, 0), a_set("b", 8, 8)
    steps = old_set_resizes(deployment, a_set("c", 0), [broken, good])
    assert steps == [Resize("a", 3, 0)]
    assert [step.text for step in steps] == ["Scaled down replica set a from 3 to 0"]


def test_new_pods_that_do_not_serve_hold_the_old_ones() -> None:
    deployment = a_deployment(10, 3, 2)
    assert old_set_resizes(deployment, a_set("b", 5, 0), [a_set("a", 8, 8)]) == []
    assert old_set_resizes(deployment, a_set("b", 5, 0), [a_set("a", 8, 7)]) == []
    assert old_set_resizes(deployment, a_set("b", 5, 2), [a_set("a", 8, 8)]) == [Resize("a", 8, 6)]


def test_a_scale_in_the_middle_keeps_the_shares() -> None:
    deployment = a_deployment(15, 3, 2)
    old, new = (
        a_set("a", 8, 8, desired="10", most="13"),
        a_set("b", 5, 0, desired="10", most="13"),
    )
    assert is_scaled(deployment, [old, new])
    assert scale_resizes(deployment, new, [old]) == [Resize("a", 8, 11), Resize("b", 5, 7)]
    assert scale_resizes(a_deployment(0), new, [old]) == [Resize("a", 8, 0), Resize("b", 5, 0)]


def test_a_set_alone_takes_it_all_and_renews_what_it_notes() -> None:
    deployment = a_deployment(5)
    assert scale_resizes(deployment, a_set("b", 3), []) == [Resize("b", 3, 5)]
    assert scale_resizes(deployment, None, [a_set("a", 3), a_set("b", 0)]) == [Resize("a", 3, 5)]
    assert scale_resizes(deployment, None, [a_set("a", 0), a_set("b", 0)]) == [Resize("b", 0, 5)]
    assert scale_resizes(deployment, a_set("b", 5), []) == [Resize("b", 5, 5)]
    assert scale_resizes(deployment, None, []) == []


def test_old_sets_go_when_the_new_one_serves_for_all() -> None:
    deployment = a_deployment(3)
    new = a_set("b", 3, 3, desired="3", most="4")
    assert scale_resizes(deployment, new, [a_set("a", 2)]) == [Resize("a", 2, 0)]


def test_notes_that_somebody_spoiled_count_as_none() -> None:
    assert not is_scaled(a_deployment(3), [a_set("a", 3, desired="many")])
    assert not is_scaled(a_deployment(3), [a_set("a", 0, desired="4")])
    assert is_scaled(a_deployment(3), [a_set("a", 3, desired="4")])


def test_nothing_is_spared_on_the_word_of_an_old_status() -> None:
    deployment = a_deployment(6, 3, 2)
    shrunk, new = a_set("a", 5, 11), a_set("b", 4)
    assert old_set_resizes(deployment, new, [shrunk]) == [Resize("a", 5, 4)]
    part(shrunk, "metadata")["generation"] = 2
    part(shrunk, "status")["observedGeneration"] = 1
    assert old_set_resizes(deployment, new, [shrunk]) == []
    part(shrunk, "status")["observedGeneration"] = 2
    assert old_set_resizes(deployment, new, [shrunk]) == [Resize("a", 5, 4)]


# --- whatever happens -----------------------------------------------------------------------------


@dataclass
class World:
    """A Deployment, its sets, and how many Pods of each serve; what a set says of it may be late."""

    deployment: JsonObject
    sizes: dict[str, int]
    serving: dict[str, int]
    said: dict[str, tuple[int, int]] = field(default_factory=dict)
    """How many served when a set last said it, and of which generation that was."""
    generations: dict[str, int] = field(default_factory=dict)

    def item(self, name: str) -> JsonObject:
        available, seen = self.said.get(name, (0, 0))
        item = a_set(name, self.sizes[name], available)
        part(item, "metadata")["generation"] = self.generations.get(name, 0)
        part(item, "status")["observedGeneration"] = seen
        return item

    def known(self) -> int:
        """How many serve by what the sets said; Pods that came up since may go as if they had not."""
        return sum(min(self.said.get(name, (0, 0))[0], size) for name, size in self.sizes.items())

    def say(self, name: str) -> None:
        self.said[name] = self.serving[name], self.generations.get(name, 0)

    @property
    def olds(self) -> list[JsonObject]:
        return [self.item(name) for name in self.sizes if name != self.newest]

    @property
    def newest(self) -> str:
        return max(self.sizes)

    def apply(self, steps: list[Resize]) -> bool:
        for step in steps:
            assert self.sizes[step.name] == step.before
            self.sizes[step.name] = step.after
            self.serving[step.name] = min(self.serving[step.name], step.after)
            self.generations[step.name] = self.generations.get(step.name, 0) + 1
        return bool(steps)

    def roll(self) -> bool:
        """One run; those that do not serve go first when a set shrinks."""
        new = self.item(self.newest)
        if self.apply(new_set_resize(self.deployment, new, self.olds)):
            return True
        return self.apply(old_set_resizes(self.deployment, self.item(self.newest), self.olds))


shares = st.one_of(st.integers(0, 6), st.integers(0, 100).map(lambda share: f"{share}%"))


@settings(max_examples=100, deadline=None)
@given(st.data(), st.integers(0, 30), shares, shares)
def test_no_rollout_ever_breaks_its_limits(
    data: st.DataObject, replicas: int, surge: Json, unavailable: Json
) -> None:
    """Pods come up, and sets say so, when they like; new templates come in the middle."""
    deployment = a_deployment(replicas, surge, unavailable)
    limits = limits_of(deployment)
    world = World(deployment, {"a": replicas}, {"a": replicas})
    for _ in range(data.draw(st.integers(1, 12))):
        if data.draw(st.integers(0, 5)) == 0 and len(world.sizes) < 5:
            name = f"{chr(ord(world.newest) + 1)}"
            size = first_size(deployment, [world.item(held) for held in world.sizes])
            world.sizes[name], world.serving[name] = size, 0
        for name, size in world.sizes.items():
            if data.draw(st.booleans()):
                world.serving[name] = data.draw(st.integers(world.serving[name], size))
            if data.draw(st.booleans()):
                world.say(name)
        before = min(sum(world.serving.values()), world.known())
        world.roll()
        assert sum(world.sizes.values()) <= limits.most
        assert sum(world.serving.values()) >= min(before, limits.least)
        assert all(size >= 0 for size in world.sizes.values())


@settings(deadline=None)
@given(st.integers(0, 30), shares, shares, st.integers(1, 4))
def test_every_rollout_ends_when_pods_serve(
    replicas: int, surge: Json, unavailable: Json, before: int
) -> None:
    deployment = a_deployment(replicas, surge, unavailable)
    names = "abcde"[: before + 1]
    sizes = dict.fromkeys(names, 0) | {names[0]: replicas}
    world = World(deployment, sizes, dict(sizes))
    for _ in range(10 * replicas + 10):
        for name in names:
            world.serving[name] = world.sizes[name]
            world.say(name)
        if not world.roll():
            break
    expected = dict.fromkeys(names, 0) | {names[-1]: replicas}
    assert world.sizes == expected


@given(
    st.lists(st.integers(1, 40), min_size=2, max_size=5),
    st.integers(0, 60),
    st.integers(0, 10),
)
def test_a_scale_in_proportion_comes_to_what_is_allowed(
    held: list[int], replicas: int, surge: int
) -> None:
    deployment, most = a_deployment(replicas, surge, 1), str(sum(held))
    sets = [a_set(f"s{at}", size, 0, most=most, desired="1") for at, size in enumerate(held)]
    steps = scale_resizes(deployment, sets[-1], sets[:-1])
    allowed = limits_of(deployment).most if replicas else 0
    assert sorted(step.name for step in steps) == [f"s{at}" for at in range(len(held))]
    grows = allowed > sum(held)
    assert all(step.after >= step.before if grows else step.after <= step.before for step in steps)
    total = sum(step.after for step in steps)
    assert total == allowed or (total > allowed and steps[0].after == 0)
