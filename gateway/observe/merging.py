"""One scrape for several processes: what worker processes count is added to what this one counts.

Counters and buckets are added up, also those of processes that have ended, so that they never go back; of
gauges only what is there now. The largest of maxima counts, the smallest of yes and no. What is about the
machine, or about this process alone, stays as it is here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final

from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

OWN: Final = (
    "process_start_time",
    "process_max_fds",
    "jvm_memory_max",
    "jvm_gc",
    "system_cpu",
    "twinspan_build",
    "twinspan_certificate",
    "twinspan_disk",
)
LEAST: Final = frozenset({"twinspan_module_ready"})
GROWING: Final = frozenset({"counter", "histogram", "summary"})

_Key = tuple[str, tuple[tuple[str, str], ...]]
Families = dict[str, Metric]


def read_families(text: str) -> Families:
    """Read a scrape of another process.

    Errors: ValueError for what is none.
    """
    from prometheus_client.parser import (
        text_string_to_metric_families,  # only who has workers reads
    )

    return {
        family.name: family
        for family in text_string_to_metric_families(text)
        if not family.name.startswith(OWN) and not family.name.endswith("_created")
    }


def lasting(families: Families) -> Families:
    """Return what stays counted when the process has ended."""
    return {name: family for name, family in families.items() if family.type in GROWING}


def merged(first: Metric, others: Iterable[Metric]) -> Metric:
    """Return one family from those of several processes."""
    found: dict[_Key, Sample] = {_key(sample): sample for sample in first.samples}
    for other in others:
        for sample in other.samples:
            key = _key(sample)
            before = found.get(key)
            found[key] = sample if before is None else _joined(before, sample)
    family = Metric(first.name, first.documentation, first.type, first.unit)
    family.samples = list(found.values())
    return family


def _key(sample: Sample) -> _Key:
    return sample.name, tuple(sorted(sample.labels.items()))


def _joined(one: Sample, other: Sample) -> Sample:
    if one.name.endswith("_max"):
        value = max(one.value, other.value)
    elif one.name in LEAST:
        value = min(one.value, other.value)
    elif one.name.endswith("_created"):
        return one
    else:
        value = one.value + other.value
    return one._replace(value=value)


class MergingRegistry(CollectorRegistry):
    """A registry whose scrapes hold those of other processes too; `elsewhere` returns theirs."""

    elsewhere: Callable[[], Iterable[Families]] = staticmethod(tuple)

    def collector(self, name: str) -> Collector | None:
        """Return what a family of this process comes from, for who looks at one alone."""
        return self._names_to_collectors.get(name)

    def collect(self) -> Iterator[Metric]:
        others = tuple(self.elsewhere())
        if not others:
            yield from super().collect()
            return
        seen = set()
        for family in super().collect():
            seen.add(family.name)
            yield merged(family, [other[family.name] for other in others if family.name in other])
        for name in dict.fromkeys(name for other in others for name in other):
            if name not in seen:
                first, *rest = [other[name] for other in others if name in other]
                yield merged(first, rest)
