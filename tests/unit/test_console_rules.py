"""Rules of the console: sessions and guessing, feeds, indexes, short forms, rates and quantiles."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import promql_parser
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.config.console import Console
from gateway.console.changes import MAX_WAITING, Feed, News, framed_news
from gateway.console.fleet import (
    NO_STATUS,
    Device,
    Status,
    location,
    node_row,
    pod_row,
    seconds,
)
from gateway.console.mirrors import DeviceIndex
from gateway.console.plots import PLOTS, Kind
from gateway.console.series import MAX_SERIES, OTHER, POINTS, Ring, growth, quantile, shown
from gateway.console.sessions import MAX_PER_USER, Sessions
from gateway.console.static import Page, read_assets
from gateway.console.workloads import workload_row
from gateway.ditto.throttle import (
    FREE_TRIES,
    FREE_TRIES_OF_ADDRESS,
    MAX_TRIES,
    Throttle,
    network_of,
)
from gateway.errors import QuotaExceeded
from gateway.model.json import JsonObject
from tests.cloud_samples import a_device


class Clock:
    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now


# --- sessions --------------------------------------------------------------------------------------


def sessions(clock: Clock, **settings: Any) -> Sessions:
    return Sessions(Console(**settings), now=clock, epoch=clock)


def test_a_session_ends_idle_or_old() -> None:
    clock = Clock()
    known = sessions(clock, idle_seconds=10, session_seconds=25)
    cookie = known.open("ditto", is_operator=False)
    for step in (9, 9):
        clock.now += step
        assert known.find(cookie)
    clock.now += 9
    assert known.find(cookie) is None
    idle = known.open("ditto", is_operator=False)
    clock.now += 11
    assert known.find(idle) is None
    assert len(known) == 0


def test_a_second_identity_keeps_the_first_ones_end() -> None:
    clock = Clock()
    known = sessions(clock, session_seconds=100, idle_seconds=1_000)
    first = known.find(known.open("ditto", is_operator=False))
    clock.now += 50
    cookie = known.open("devops", is_operator=True, before=first)
    both = known.find(cookie)
    assert both is not None
    assert (both.ditto, both.operator, both.user) == ("ditto", "devops", "devops")
    clock.now += 51
    assert known.find(cookie) is None


def test_cookies_are_long_and_never_the_same() -> None:
    known = sessions(Clock())
    cookies = {known.open("ditto", is_operator=False) for _ in range(20)}
    assert len(cookies) == 20
    assert all(len(cookie) >= 43 for cookie in cookies)


def test_a_user_pushes_out_own_sessions_before_those_of_others() -> None:
    known = sessions(Clock(), max_sessions=MAX_PER_USER + 1)
    operator = known.open("devops", is_operator=True)
    mine = [known.open("ditto", is_operator=False) for _ in range(MAX_PER_USER + 20)]
    assert known.find(operator) is not None
    assert known.find(mine[0]) is None
    assert known.find(mine[-1]) is not None
    assert len(known) == MAX_PER_USER + 1


def test_all_sessions_are_bounded() -> None:
    known = sessions(Clock(), max_sessions=3)
    first = known.open("u0", is_operator=False)
    for number in range(1, 4):
        known.open(f"u{number}", is_operator=False)
    assert known.find(first) is None
    assert len(known) == 3


@pytest.mark.parametrize(
    "cookie",
    [None, "", "x", "\u00e4", "a" * 10_000],
    ids=["none", "empty", "short", "letters", "long"],
)
def test_what_is_no_cookie_is_no_session(cookie: str | None) -> None:
    assert sessions(Clock()).find(cookie) is None


def test_guessing_waits_longer_each_time_and_success_forgives() -> None:
    clock = Clock()
    throttle = Throttle(clock)
    for _ in range(FREE_TRIES):
        throttle.begin("ditto", "1.2.3.4")
    waits = []
    for _ in range(3):
        with pytest.raises(QuotaExceeded) as error:
            throttle.begin("ditto", "1.2.3.4")
        headers = error.value.details["headers"]
        assert isinstance(headers, dict)
        waits.append(int(headers["Retry-After"]))
        clock.now += waits[-1]
        throttle.begin("ditto", "1.2.3.4")
    assert waits == sorted(set(waits))
    throttle.begin("ditto", "5.6.7.8")
    throttle.succeeded("ditto", "1.2.3.4")
    throttle.begin("ditto", "1.2.3.4")


def test_an_address_that_tries_many_names_is_slowed_down_and_memory_is_bounded() -> None:
    throttle = Throttle(Clock())
    for number in range(FREE_TRIES_OF_ADDRESS):
        throttle.begin(f"user-{number}", "1.2.3.4")
    with pytest.raises(QuotaExceeded):
        throttle.begin("one-more", "1.2.3.4")
    for number in range(MAX_TRIES):
        throttle.begin("ditto", f"address-{number}")
    assert len(throttle._tries) <= MAX_TRIES


def test_refused_tries_push_nobody_s_failures_out() -> None:
    throttle = Throttle(Clock())
    for address in ("1.1.1.1", "2.2.2.2"):
        for number in range(FREE_TRIES_OF_ADDRESS):
            throttle.begin(f"user-{number}", address)
    for number in range(MAX_TRIES):
        with pytest.raises(QuotaExceeded):
            throttle.begin(f"flood-{number}", "2.2.2.2")
    with pytest.raises(QuotaExceeded):
        throttle.begin("one-more", "1.1.1.1")


def test_the_addresses_of_one_network_guess_together() -> None:
    throttle = Throttle(Clock())
    for number in range(FREE_TRIES):
        throttle.begin("ditto", f"2001:db8::{number:x}")
    for same in ("2001:db8::ffff:1", "2001:db8:0:0:1::"):
        with pytest.raises(QuotaExceeded):
            throttle.begin("ditto", same)
    throttle.begin("ditto", "2001:db8:0:1::1")


def test_guesses_at_the_sign_in_and_with_requests_count_together() -> None:
    throttle = Throttle(Clock())
    for _ in range(FREE_TRIES - 1):
        throttle.begin("ditto", "1.2.3.4")
    throttle.begin_request("ditto", "1.2.3.4")
    with pytest.raises(QuotaExceeded):
        throttle.begin("ditto", "1.2.3.4")
    with pytest.raises(QuotaExceeded):
        throttle.begin_request("ditto", "1.2.3.4")
    throttle.begin_request("ditto", "5.6.7.8")


def test_failed_requests_of_an_address_shut_nobody_out_of_the_sign_in() -> None:
    throttle = Throttle(Clock())
    for number in range(FREE_TRIES_OF_ADDRESS):
        throttle.begin_request(f"user-{number}", "1.2.3.4")
    throttle.begin_request("many at once are no failure", "1.2.3.4")
    for _ in range(FREE_TRIES_OF_ADDRESS):
        throttle.failed_request("1.2.3.4")
    with pytest.raises(QuotaExceeded):
        throttle.begin_request("one-more", "1.2.3.4")
    throttle.begin("one-more", "1.2.3.4")


@pytest.mark.parametrize(
    ("address", "network"),
    [
        ("127.0.0.1", "127.0.0.1"),
        ("::ffff:10.0.0.1", "10.0.0.1"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
    ids=["four", "mapped", "with-zone", "none", "socket"],
)
def test_odd_addresses_have_a_network_too(address: str, network: str) -> None:
    assert network_of(address) == network


# --- feeds -----------------------------------------------------------------------------------------


def test_a_reader_is_told_the_newest_state_once() -> None:
    feed = Feed()
    with feed.read(frozenset({"nodes"})) as reader:
        for number in range(3):
            feed.tell("nodes", "changed", "", "n", lambda number=number: {"v": number})  # type: ignore[misc]
        feed.tell("pods", "changed", "", "p", dict)
        assert b"".join(framed_news(reader.taken())) == (
            b'event: change\ndata: {"kind":"nodes","type":"changed","object":{"v":2}}\n\n'
        )
        assert not reader.taken()


def test_what_is_new_stays_new_until_it_is_told_and_gone_wins() -> None:
    feed = Feed()
    with feed.read(frozenset({"pods"})) as reader:
        feed.tell("pods", "added", "a", "p", dict)
        feed.tell("pods", "changed", "a", "p", dict)
        assert [news.type for news in reader.taken()] == ["added"]
        feed.tell("pods", "added", "a", "p", dict)
        feed.tell("pods", "gone", "a", "p", dict)
        assert [news.type for news in reader.taken()] == ["gone"]


def test_a_reader_that_is_too_far_behind_starts_over_and_holds_nothing() -> None:
    feed = Feed()
    with feed.read(frozenset({"pods"})) as reader:
        for number in range(MAX_WAITING + 10):
            feed.tell("pods", "added", "a", f"p{number}", dict)
        assert reader.is_behind
        assert not reader.waiting


def test_news_is_made_once_for_all_readers() -> None:
    made = []
    news = News("pods", "added", lambda: made.append(1) or {})  # type: ignore[func-returns-value]
    assert news.data is news.data
    assert made == [1]


# --- index and short forms -------------------------------------------------------------------------


def device(name: str, node: str = "edge-1") -> Device:
    return Device.read(a_device(name, node))


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.sampled_from(["n1", "n2", None]))))
def test_the_index_is_what_the_devices_are(steps: list[tuple[str, str | None]]) -> None:
    index, known = DeviceIndex(), dict[str, str]()
    for name, node in steps:
        index.put(("default", name), device(name, node) if node else None)
        known.pop(name, None) if node is None else known.update({name: node})
    assert index.order == [(name, "default") for name in sorted(known)]
    for node in ("n1", "n2"):
        mine = sorted(name for name, where in known.items() if where == node)
        assert index.of_node(node) == [(name, "default") for name in mine]


def test_devices_are_picked_by_their_state_those_without_one_are_unknown() -> None:
    index = DeviceIndex()
    for name in ("on", "off", "silent", "earlier"):
        index.put(("d", name), Device("d", name, "1", "n", "m", "p", 0, "", "1", ""))
    index.statuses["d", "on"] = Status(("1",), "online")
    index.statuses["d", "off"] = Status((), "offline")
    index.statuses["d", "earlier"] = Status(("0",), "online")
    picked = {
        state: [name for name, _ in index.in_state(index.order, lambda told: told == state)]  # noqa: B023
        for state in ("online", "offline", "unknown")
    }
    assert picked == {"online": ["on"], "offline": ["off"], "unknown": ["earlier", "silent"]}


def test_the_status_of_an_earlier_device_of_the_name_does_not_count() -> None:
    owner: JsonObject = {"kind": "Device", "uid": "other"}
    status = Status.read({"metadata": {"ownerReferences": [owner]}, "status": {"state": "online"}})
    assert status.of(device("lamp")) is NO_STATUS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("48.14,11.58", [48.14, 11.58]),
        (" -33.9 , 151.2 ", [-33.9, 151.2]),
        ("91,0", None),
        ("0,181", None),
        ("nan,0", None),
        ("1e3,0", None),
        ("1,2,3", None),
        ("<script>", None),
        ("", None),
    ],
)
def test_a_place_is_one_on_earth_or_none(text: str, expected: list[float] | None) -> None:
    assert location({"twinspan.io/location": text}) == expected


_NAMES = [
    *("metadata", "spec", "status", "conditions", "name", "labels", "nodeInfo", "template"),
    *("ownerReferences", "containerStatuses", "containers", "state", "uid", "replicas"),
]
odd = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(_NAMES), inner, max_size=5)
    ),
    max_leaves=25,
)


@given(st.dictionaries(st.sampled_from(["metadata", "spec", "status"]), odd))
def test_odd_objects_have_short_forms_too(item: Any) -> None:
    node_row(item)
    pod_row(item)
    Device.read(item)
    Status.read(item)
    for kind in ("Deployment", "DaemonSet", "Job", "CronJob", "EdgeApplication", "NodeGroup"):
        workload_row(kind, item)


@pytest.mark.parametrize("value", ["", "x" * 30, "2026-13-01T00:00:00Z", None, 7, []])
def test_what_is_no_time_is_none(value: Any) -> None:
    assert seconds(value) is None


@pytest.mark.parametrize(
    ("spec", "status", "state"),
    [
        ({"replicas": 2}, {"readyReplicas": 2, "updatedReplicas": 2}, "ok"),
        ({"replicas": 2}, {"readyReplicas": 1, "updatedReplicas": 2}, "progressing"),
        ({"replicas": 2}, {"readyReplicas": 2, "updatedReplicas": 1}, "progressing"),
        ({"replicas": 2, "paused": True}, {}, "paused"),
        ({}, {"conditions": [{"type": "Progressing", "status": "False"}]}, "degraded"),
        ({"replicas": 0}, {}, "ok"),
    ],
)
def test_a_deployment_says_how_it_goes(spec: Any, status: Any, state: str) -> None:
    row = workload_row("Deployment", {"metadata": {}, "spec": spec, "status": status})
    assert row["state"] == state


# --- plots -----------------------------------------------------------------------------------------


def test_a_counter_that_went_back_has_begun_anew() -> None:
    assert [growth(5, 3), growth(2, 3), growth(4, None)] == [2, 2, 4]


def test_quantiles_are_reckoned_as_prometheus_does() -> None:
    buckets = {0.1: 50.0, 1.0: 100.0, math.inf: 100.0}
    assert quantile(0.5, buckets) == pytest.approx(0.1)
    assert quantile(0.75, buckets) == pytest.approx(0.55)
    assert quantile(0.99, {0.1: 0.0, math.inf: 10.0}) == 0.1
    assert quantile(0.99, {0.1: 0.0, math.inf: 0.0}) is None
    assert quantile(0.99, {}) is None


def test_a_ring_keeps_its_bound_of_series_and_points() -> None:
    ring = Ring()
    for turn in range(POINTS + 5):
        found: dict[tuple[str, ...], float | None] = {}
        for number in range(100):
            key = ring.key((f"tenant-{number}",))
            found[key] = (found.get(key) or 0.0) + 1.0
        ring.put(found)
        assert len(ring.series) <= MAX_SERIES, turn
    assert ring.series[OTHER,][0] == 100 - (MAX_SERIES - 1)
    times = [float(n) for n in range(POINTS)]
    rows = shown(ring, ("tenant",), times, 10_000)
    assert {len(row["points"]) for row in rows} == {POINTS}  # type: ignore[arg-type]


def test_series_that_are_silent_make_room() -> None:
    ring = Ring()
    ring.put({ring.key(("old",)): 1.0})
    for _ in range(2 * POINTS):
        ring.put({ring.key(("new",)): 1.0})
    assert set(ring.series) == {("new",)}


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_every_expression_is_one_that_prometheus_reads(plot: Any) -> None:
    promql_parser.parse(plot.expression(60))


@pytest.mark.parametrize("plot", PLOTS, ids=lambda plot: plot.id)
def test_every_plot_is_of_a_metric_that_there_is(plot: Any) -> None:
    from gateway.observe.metrics import Metrics

    name = f"{plot.sample}_bucket" if plot.kind is Kind.QUANTILE else plot.sample
    assert Metrics().registry.collector(name) is not None


# --- files -----------------------------------------------------------------------------------------


def test_files_are_what_the_build_holds_and_nothing_else(tmp_path: Path) -> None:
    (tmp_path / "assets").mkdir()
    (tmp_path / "index.html").write_text("<!doctype html>")
    (tmp_path / "assets" / "app-AB12CD34.js").write_text("1")
    (tmp_path / "assets" / "app-AB12CD34.js.br").write_bytes(b"br")
    (tmp_path / "assets" / "app-AB12CD34.js.map").write_text("{}")
    (tmp_path / "web-manifest.json").write_text("{}")
    found = read_assets(tmp_path)
    assert set(found) == {"index.html", "assets/app-AB12CD34.js", "web-manifest.json"}
    script = found["assets/app-AB12CD34.js"]
    assert (script.is_hashed, script.variants) == (True, {"br": b"br"})
    assert not found["index.html"].is_hashed
    assert not found["web-manifest.json"].is_hashed
    assert Page(found).assets is found
