"""Our histogram gives the samples that the client library's own gives, created times apart."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics

from gateway.observe.histograms import LoopHistogram

BOUNDS = (0.5, 1.0, 64)
ABOUT = ("a_seconds", "How long it took.", ("tenant", "status"))


def lines(registry: CollectorRegistry, *, openmetrics: bool) -> list[str]:
    raw = generate_openmetrics(registry) if openmetrics else generate_latest(registry)  # type: ignore[no-untyped-call]  # the library has no types there
    return [line for line in raw.decode().splitlines() if "_created" not in line]


@pytest.mark.parametrize("openmetrics", [False, True])
@given(
    values=st.lists(
        st.tuples(
            st.sampled_from(["t1", 't"2']),
            st.sampled_from([0.0, 0.5, 0.75, 1.0, 64.0, 64.5, 1e6]),
        )
    )
)
def test_samples_are_those_of_the_library(
    openmetrics: bool, values: list[tuple[str, float]]
) -> None:
    ours, theirs = CollectorRegistry(auto_describe=True), CollectorRegistry(auto_describe=True)
    histogram = LoopHistogram(*ABOUT, buckets=BOUNDS, registry=ours)
    reference = Histogram(*ABOUT, buckets=BOUNDS, registry=theirs)
    for tenant, value in values:
        histogram.labels(tenant, "forwarded").observe(value)
        reference.labels(tenant, "forwarded").observe(value)
    assert lines(ours, openmetrics=openmetrics) == lines(theirs, openmetrics=openmetrics)


def test_a_kept_tally_goes_on_counting_for_its_labels() -> None:
    registry = CollectorRegistry(auto_describe=True)
    histogram = LoopHistogram(*ABOUT, buckets=BOUNDS, registry=registry)
    tally = histogram.labels("t", "forwarded")
    tally.observe(0.7)
    histogram.labels("t", "forwarded").observe(2)
    assert histogram.labels("t", "forwarded") is tally
    labels = {"tenant": "t", "status": "forwarded"}
    assert registry.get_sample_value("a_seconds_sum", labels) == pytest.approx(2.7)
    assert registry.get_sample_value("a_seconds_bucket", labels | {"le": "1.0"}) == 1


def test_the_number_of_label_values_is_checked() -> None:
    histogram = LoopHistogram(*ABOUT, buckets=BOUNDS, registry=CollectorRegistry())
    with pytest.raises(ValueError, match="a_seconds: expected"):
        histogram.labels("t")


def test_a_name_is_taken_once() -> None:
    registry = CollectorRegistry(auto_describe=True)
    LoopHistogram(*ABOUT, buckets=BOUNDS, registry=registry)
    with pytest.raises(ValueError, match="Duplicated"):
        LoopHistogram(*ABOUT, buckets=BOUNDS, registry=registry)


def test_a_sampled_value_is_an_exemplar_of_its_bucket_in_openmetrics_alone() -> None:
    registry = CollectorRegistry(auto_describe=True)
    tally = LoopHistogram(*ABOUT, buckets=BOUNDS, registry=registry).labels("t", "forwarded")
    for value, trace in ((0.7, "a" * 32), (0.8, "b" * 32), (99, "c" * 32)):
        tally.observe(value)
        tally.mark(value, trace)
    told = [line for line in lines(registry, openmetrics=True) if " # {" in line]
    assert [line.partition(" # ")[2].split()[:2] for line in told] == [
        [f'{{trace_id="{"b" * 32}"}}', "0.8"],
        [f'{{trace_id="{"c" * 32}"}}', "99.0"],
    ]
    assert 'le="1.0"' in told[0]
    assert not any(" # {" in line for line in lines(registry, openmetrics=False))
