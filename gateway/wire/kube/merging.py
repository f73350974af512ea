"""Laying an applied configuration over a live document. Source: structured-merge-diff 6."""

from __future__ import annotations

from typing import cast

from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject
from gateway.wire.kube.fieldsets import (
    ABSENT,
    child_of,
    describe_path,
    element_step,
    is_list,
    is_map,
)
from gateway.wire.kube.schema import ANYTHING, Schema


def merge(schema: Schema, live: JsonObject, config: JsonObject) -> JsonObject:
    """Lay `config` over `live`: maps, keyed lists and sets merge, everything else is replaced.

    Errors: BadRequest for a configuration that repeats a key, or has an element without one.
    """
    merged = _merge(schema, live, config)
    return merged if isinstance(merged, dict) else {}


def _merge(schema: Schema, live: Json, config: Json) -> Json:
    if config is ABSENT:
        return live
    if is_map(schema, config) and schema.map_type != "atomic":
        old, new = _table(live), _table(config)
        if old or new:
            return _merge_maps(schema, old, new)
    elif is_list(schema, config) and schema.list_type != "atomic":
        items, others = _items(live), _items(config)
        if items or others:
            return _merge_lists(schema, items, others)
    return config


def _table(value: Json) -> JsonObject:
    return value if isinstance(value, dict) else {}


def _items(value: Json) -> list[Json]:
    return value if isinstance(value, list) else []


def _merge_maps(schema: Schema, live: JsonObject, config: JsonObject) -> JsonObject:
    out = dict(live)
    for name, item in config.items():
        out[name] = _merge(child_of(schema, name), live.get(name, ABSENT), item)
    return out


def steps_of(schema: Schema, items: list[Json]) -> dict[str, Json]:
    """The elements of an applied list under their steps. Errors: BadRequest for a repeated key."""
    found: dict[str, Json] = {}
    for item in items:
        step = element_step(schema, item)
        if step in found:
            shown = describe_path((step,))
            raise BadRequest(f"duplicate entries for key {shown}")
        found[step] = item
    return found


def _merge_lists(schema: Schema, live: list[Json], config: list[Json]) -> list[Json]:
    """Merge elements; the configuration's order wins, live elements stay beside their neighbours."""
    wanted = steps_of(schema, config)
    named = [(element_step(schema, item), item) for item in live]
    return [
        _merge_element(schema, named, wanted, step, item)
        for step, item in _interleaved(named, list(wanted))
    ]


def _merge_element(
    schema: Schema, named: list[tuple[str, Json]], wanted: dict[str, Json], step: str, item: Json
) -> Json:
    if step not in wanted:
        return item
    held = [other for own, other in named if own == step]
    before = held[0] if len(held) == 1 else ABSENT  # a repeated element merges with nothing
    return _merge(schema.items or ANYTHING, before, wanted[step])


def _interleaved(live: list[tuple[str, Json]], wanted: list[str]) -> list[tuple[str, Json]]:
    """The order of the merged list: each step of either list, wanted ones once."""
    known = {step for step, _ in live}
    named = set(wanted)
    shared = [step for step in wanted if step in known]
    out: list[tuple[str, Json]] = []
    done: set[str] = set()
    at_live = at_wanted = at_shared = 0
    while at_live < len(live) or at_wanted < len(wanted):
        if at_live < len(live):
            step, item = live[at_live]
            if at_wanted < len(wanted):
                due = shared[at_shared] if at_shared < len(shared) else None
                if step == wanted[at_wanted]:
                    out.append((step, item))
                    done.add(step)
                    at_live, at_wanted, at_shared = at_live + 1, at_wanted + 1, at_shared + 1
                    continue
                if step in named and due is not None and step != due:
                    at_live += 1
                    continue
            if step not in named:
                out.append((step, item))
                at_live += 1
                continue
            if step in done:
                at_live += 1
        if at_wanted < len(wanted):
            step = wanted[at_wanted]
            out.append((step, cast("Json", None)))
            done.add(step)
            if at_shared < len(shared) and shared[at_shared] == step:
                at_shared += 1
            at_wanted += 1
    return out
