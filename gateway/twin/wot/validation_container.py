"""Attributes, properties or desired properties against the properties of a model.

A property stands in the container under its name, or below its category. Source: Ditto, WoT integration
(validation), `ditto:category`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from gateway.model.json import Json, JsonObject, Pointer
from gateway.twin.documents import MISSING, get
from gateway.twin.wot.model import ThingModel
from gateway.twin.wot.validation_faults import Fault
from gateway.twin.wot.validation_schema import Checker, Finding, subschema, texts_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Container:
    """One container of a thing, and what holds for it.

    Shape:  `base` is its path; `one` and `many` are how texts call what it holds; `is_closed`: nothing may be
            in it that the model does not have; `is_whole`: what is required has to be there.
    """

    model: ThingModel
    checker: Checker
    base: Pointer
    one: str
    many: str
    is_closed: bool
    is_whole: bool

    # --- writes -----------------------------------------------------------------------------------

    def whole(self, value: JsonObject) -> Iterator[Fault]:
        """The container got this value."""
        if self.model.properties:
            yield from self._all(value, self.model.properties)

    def written(self, path: Pointer, after: Json) -> Iterator[Fault]:
        """Something below the container was set; `after` is what the container holds now."""
        if not self.model.properties:
            return
        if len(path) == 1 and path[0] in self.model.categories.values():
            yield from self._category(path[0], get(after, path))
            return
        place = self._place_at(path)
        if place is not None:
            yield from self._member(place, path, after)
        elif self.is_closed:
            yield self._undefined([path])

    def _category(self, category: str, value: object) -> Iterator[Fault]:
        if not isinstance(value, dict):
            yield self._no_object(category)
            return
        yield from self._all({category: value}, self._names_in(category))

    def _member(self, place: Pointer, path: Pointer, after: Json) -> Iterator[Fault]:
        """A property, or a part of one: then only what is said about that part counts."""
        value = get(after, place)
        if value is MISSING:
            return
        is_part = len(path) > len(place)
        findings = self._findings(place, value, whole=self.is_whole and not is_part)
        if is_part:
            findings = [one for one in findings if _concerns(one, path[len(place) :])]
        if findings:
            yield self._unfit([(place, findings)])

    # --- deletions --------------------------------------------------------------------------------

    def deleted(self, path: Pointer) -> Iterator[Fault]:
        """Something was removed: the container itself at `()`, or what is below it."""
        if not self.is_whole:
            return
        if not path:
            if any(self._is_required(name) for name in self.model.properties):
                yield Fault(f"{self.many} cannot be deleted: some of them are not optional.")
            return
        if len(path) == 1 and path[0] in self.model.categories.values():
            if any(self._is_required(name) for name in self._names_in(path[0])):
                yield Fault(
                    f"The category <{path[0]}> of {self.many} cannot be deleted: not all in it is"
                    " optional."
                )
            return
        if self._must_stay(path):
            yield Fault(
                f"{self.one} <{'/'.join(path)}> cannot be deleted: the model does not say that it is"
                " optional."
            )

    def _must_stay(self, path: Pointer) -> bool:
        place = self._place_at(path)
        if place is None:
            return False
        below = path[len(place) :]
        if not below:
            return self._is_required(place[-1])
        parent = subschema(self.model.properties[place[-1]], below[:-1])
        required = parent.get("required") if parent is not None else None
        return isinstance(required, list) and below[-1] in required

    # --- all together -----------------------------------------------------------------------------

    def _all(self, value: JsonObject, names: Iterable[str]) -> Iterator[Fault]:
        places = {name: self._place(name) for name in names}
        if self.is_whole:
            missing = [
                place
                for name, place in places.items()
                if self._is_required(name) and get(value, place) is MISSING
            ]
            if missing:
                yield self._missing(missing)
        if self.is_closed:
            undefined = [*self._unknown(value)]
            if undefined:
                yield self._undefined(undefined)
        unfit = []
        for place in places.values():
            present = get(value, place)
            if present is MISSING:
                continue
            findings = self._findings(place, present, whole=self.is_whole)
            if findings:
                unfit.append((place, findings))
        if unfit:
            yield self._unfit(unfit)

    def _unknown(self, value: JsonObject) -> Iterator[Pointer]:
        categories = frozenset(self.model.categories.values())
        for key, below in value.items():
            if key in categories and isinstance(below, dict):
                for name in below:
                    if self.model.categories.get(name) != key:
                        yield (key, name)
            elif key not in self.model.properties or key in self.model.categories:
                yield (key,)

    def _place(self, name: str) -> Pointer:
        category = self.model.categories.get(name)
        return (name,) if category is None else (category, name)

    def _place_at(self, path: Pointer) -> Pointer | None:
        """Where the property stands that a path is in, None for what the model does not have."""
        if path[0] in self.model.properties and path[0] not in self.model.categories:
            return path[:1]
        if len(path) > 1 and self.model.categories.get(path[1]) == path[0]:
            return path[:2]
        return None

    def _names_in(self, category: str) -> list[str]:
        return [name for name, found in self.model.categories.items() if found == category]

    def _is_required(self, name: str) -> bool:
        return not self.model.is_optional("properties", name)

    def _findings(self, place: Pointer, value: Json, *, whole: bool) -> list[Finding]:
        name = place[-1]
        where = (self.model.url, f"/properties/{name}")
        return self.checker.findings(where, self.model.properties[name], value, whole=whole)

    # --- faults -----------------------------------------------------------------------------------

    def _missing(self, places: list[Pointer]) -> Fault:
        return Fault(
            f"Required JSON fields are missing from {self.many}.",
            tuple(
                (
                    (*self.base, *place),
                    (f"{self.one} <{place[-1]}> is not optional and has to be there.",),
                )
                for place in places
            ),
        )

    def _undefined(self, paths: list[Pointer]) -> Fault:
        names = ", ".join("/".join(path)[:100] for path in paths[:20])
        return Fault(
            f"{self.many} have JSON fields that the model does not define: [{names}]",
            tuple(((*self.base, *path), ("The model does not define it.",)) for path in paths),
        )

    def _unfit(self, found: list[tuple[Pointer, list[Finding]]]) -> Fault:
        return Fault(
            f"{self.many} have values that do not fit the model, see the validation details.",
            tuple(((*self.base, *place), tuple(texts_of(findings))) for place, findings in found),
        )

    def _no_object(self, category: str) -> Fault:
        return Fault(
            f"{self.many} have a category <{category}> that is no JSON object.",
            (((*self.base, category), ("It is a category of properties: a JSON object.",)),),
        )


def _concerns(finding: Finding, part: Pointer) -> bool:
    """True when a finding is in a part of the value, or about something that holds it."""
    depth = min(len(finding.at), len(part))
    return finding.at[:depth] == part[:depth]
