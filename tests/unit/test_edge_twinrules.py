"""DeviceTwin's rules as tables: local report, cloud sync, Device object."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.twinrules import (
    Bound,
    Twins,
    Wanted,
    alive,
    bind,
    changes_of,
    deltas,
    report,
    sync,
)
from edge.twinvalues import check_value, same
from gateway.errors import BadRequest
from gateway.wire.cloudedge.twins import DELETED, Twin, TwinValue, TwinVersion, ValueMetadata
from gateway.wire.cloudedge.values import PropertyType, ValueRule

NOW = 1_795_377_600_000


def value(text: str, at: int = NOW) -> TwinValue:
    return TwinValue(value=text, metadata=ValueMetadata(timestamp=at))


def a_twin(
    *,
    actual: str | None = None,
    expected: str | None = None,
    kind: str = "int",
    optional: bool = True,
    actual_version: tuple[int, int] | None = None,
    expected_version: tuple[int, int] | None = None,
) -> Twin:
    return Twin(
        actual=None if actual is None else value(actual, 1),
        expected=None if expected is None else value(expected, 1),
        metadata={"type": kind},
        optional=optional,
        actual_version=TwinVersion(*actual_version) if actual_version else None,
        expected_version=TwinVersion(*expected_version) if expected_version else None,
    )


def asks(*, actual: str | None = None, expected: str | None = None) -> Twin:
    return Twin(
        actual=None if actual is None else TwinValue(value=actual),
        expected=None if expected is None else TwinValue(value=expected),
    )


# --- 15.1 local update ---------------------------------------------------------------------------


def test_an_unknown_property_is_inserted_as_text_with_version_one() -> None:
    change = report({}, {"temp": asks(actual="20")}, NOW)
    after = change.changed["temp"]
    assert after.actual == value("20")
    assert after.metadata == {"type": "string"}
    assert after.optional is True
    assert after.actual_version == TwinVersion(0, 1)
    assert after.expected_version is None
    assert change.sync == {"temp": after}


def test_an_inserted_property_keeps_the_type_and_optional_that_the_client_says() -> None:
    ask = Twin(actual=TwinValue(value="20"), metadata={"type": "int", "unit": "C"}, optional=False)
    after = report({}, {"temp": ask}, NOW).changed["temp"]
    assert after.metadata == {"type": "int", "unit": "C"}
    assert after.optional is False


def test_an_unknown_property_without_values_is_ignored() -> None:
    change = report({}, {"temp": Twin(metadata={"type": "int"}), "hum": None}, NOW)
    assert not change.changed
    assert not change.result


def test_the_same_value_again_is_still_a_change() -> None:
    stored = {"temp": a_twin(actual="20", actual_version=(0, 3))}
    change = report(stored, {"temp": asks(actual="20")}, NOW)
    assert change.changed["temp"].actual_version == TwinVersion(0, 4)
    assert change.before["temp"] == stored["temp"]


def test_the_clients_timestamp_is_replaced_by_the_edges_clock() -> None:
    ask = Twin(actual=TwinValue(value="20", metadata=ValueMetadata(timestamp=7)))
    assert report({}, {"temp": ask}, NOW).changed["temp"].actual == value("20", NOW)


def test_a_mappers_value_keeps_its_sources_time_and_quality() -> None:
    said = ValueMetadata(timestamp=7, quality="uncertain")
    ask = Twin(
        expected=TwinValue(value="21", metadata=said), actual=TwinValue(value="20", metadata=said)
    )
    after = report({}, {"temp": ask}, NOW, is_sourced=True).changed["temp"]
    assert after.actual == TwinValue(value="20", metadata=said)
    assert after.expected == value("21", NOW)


def test_a_mappers_value_without_a_time_gets_the_edges() -> None:
    after = report({}, {"temp": asks(actual="20")}, NOW, is_sourced=True).changed["temp"]
    assert after.actual == value("20", NOW)


def test_a_local_client_may_set_the_expected_side() -> None:
    stored = {"temp": a_twin(expected="25", expected_version=(2, 0))}
    after = report(stored, {"temp": asks(expected="26")}, NOW).changed["temp"]
    assert after.expected == value("26")
    assert after.expected_version == TwinVersion(2, 1)


def test_null_deletes_an_optional_property() -> None:
    stored = {"temp": a_twin(actual="20", actual_version=(0, 3), expected_version=(1, 0))}
    change = report(stored, {"temp": None}, NOW)
    after = change.changed["temp"]
    assert after.actual is None
    assert after.metadata == {"type": DELETED}
    assert (after.expected_version, after.actual_version) == (TwinVersion(1, 1), TwinVersion(0, 4))
    assert change.result == {"temp": None}
    assert change.sync == {"temp": after}
    assert changes_of(change)["temp"].current is None


def test_null_leaves_a_property_that_is_not_optional() -> None:
    assert not report({"temp": a_twin(actual="1", optional=False)}, {"temp": None}, NOW).changed


def test_one_bad_value_refuses_the_whole_request() -> None:
    stored = {"a": a_twin(actual="1"), "b": a_twin(actual="1")}
    with pytest.raises(BadRequest, match=r"twin\.b\.actual: expected a value of type int"):
        report(stored, {"a": asks(actual="2"), "b": asks(actual="warm")}, NOW)


def test_other_metadata_is_merged_and_the_type_stays() -> None:
    stored = {"temp": a_twin(actual="20")}
    ask = Twin(actual=TwinValue(value="21"), metadata={"type": "string", "unit": "C"})
    assert report(stored, {"temp": ask}, NOW).changed["temp"].metadata == {
        "type": "int",
        "unit": "C",
    }


def test_optional_goes_from_true_to_false_and_never_back() -> None:
    loose, firm = a_twin(actual="1"), a_twin(actual="1", optional=False)
    change = report(
        {"a": loose, "b": firm}, {"a": Twin(optional=False), "b": Twin(optional=True)}, NOW
    )
    assert change.changed["a"].optional is False
    assert "b" not in change.changed


@pytest.mark.parametrize(
    ("said", "expected"), [("int", "int"), (None, "string"), (DELETED, "string")]
)
def test_a_deleted_property_comes_back_with_the_type_that_the_client_says(
    said: str | None, expected: str
) -> None:
    stored = {"temp": Twin(metadata={"type": DELETED}, actual_version=TwinVersion(0, 4))}
    ask = Twin(actual=TwinValue(value="20"), metadata={"type": said} if said else None)
    after = report(stored, {"temp": ask}, NOW).changed["temp"]
    assert after.metadata == {"type": expected}
    assert after.actual_version == TwinVersion(0, 5)


@pytest.mark.parametrize("request_", [{}, None])
def test_an_empty_twin_is_refused(request_: dict[str, Twin | None] | None) -> None:
    with pytest.raises(BadRequest):
        report({}, request_ or {}, NOW)


@pytest.mark.parametrize("name", ["", "a b", "x" * 129, "ä"])
def test_a_bad_property_name_is_refused(name: str) -> None:
    with pytest.raises(BadRequest, match="property name"):
        report({}, {name: asks(actual="1")}, NOW)


def test_a_device_holds_a_bounded_number_of_properties() -> None:
    stored = {f"p{at}": a_twin(actual="1") for at in range(1_000)}
    with pytest.raises(BadRequest, match="at most 1000"):
        report(stored, {"one-more": asks(actual="1")}, NOW)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        ("int", ["0", "-5", "9223372036854775807"], ["", "1.0", "9223372036854775808", "x"]),
        ("integer", ["7"], ["7a"]),
        ("float", ["1", "1.5", "-2e10", ".5"], ["", "nan", "1,5", "--1"]),
        ("boolean", ["true", "false"], ["True", "1", ""]),
        ("string", ["a", "a-b_c.d,e:f/g@h#i"], ["", "a b", "ä", "x" * 513]),
    ],
)
def test_values_are_checked_against_their_type(kind: str, good: list[str], bad: list[str]) -> None:
    for text in good:
        check_value("temp", kind, text)
    for text in bad:
        with pytest.raises(BadRequest):
            check_value("temp", kind, text)


@pytest.mark.parametrize(
    ("kind", "good", "bad"),
    [
        (PropertyType.STRING, "any text, really", "x" * 513),
        (PropertyType.BYTES, "aGk+/w==", "a b"),
        (PropertyType.FLOAT, "1e3", "nan"),
        (PropertyType.INT, "5", "5.5"),
    ],
)
def test_the_models_rule_goes_before_the_twins_type(
    kind: PropertyType, good: str, bad: str
) -> None:
    stored = {"p": a_twin(actual="1", kind="string")}
    rules = {"p": ValueRule(type=kind)}
    assert report(stored, {"p": asks(actual=good)}, NOW, rules).changed["p"].actual == value(good)
    with pytest.raises(BadRequest, match=r"twin\.p\.actual"):
        report(stored, {"p": asks(actual=bad)}, NOW, rules)


def test_an_unknown_type_is_refused() -> None:
    with pytest.raises(BadRequest, match="type 'colour'"):
        report({}, {"x": Twin(actual=TwinValue(value="1"), metadata={"type": "colour"})}, NOW)


# --- delta ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("twin", "delta"),
    [
        (a_twin(expected="25", actual="20"), "25"),
        (a_twin(expected="25"), "25"),
        (a_twin(expected="25", actual="25"), None),
        (a_twin(expected="25", actual="25.0", kind="float"), None),
        (a_twin(expected="25", actual="025"), None),
        (a_twin(expected="", actual="20"), None),
        (a_twin(actual="20"), None),
        (a_twin(expected="25", kind=DELETED), None),
    ],
)
def test_delta_is_the_wanted_value_that_the_device_does_not_have(
    twin: Twin, delta: str | None
) -> None:
    assert deltas({"p": twin}) == ({} if delta is None else {"p": delta})


def test_texts_are_compared_by_meaning() -> None:
    assert same("int", "7", "+7")
    assert not same("string", "7", "+7")
    assert not same("int", "x", "7")


# --- 15.2 cloud sync -----------------------------------------------------------------------------


def from_cloud(text: str, version: tuple[int, int] | None = (1, 0)) -> Twin:
    return Twin(
        expected=TwinValue(value=text),
        expected_version=TwinVersion(*version) if version else None,
        metadata={"type": "int"},
    )


@pytest.mark.parametrize(
    ("mine", "theirs", "taken"),
    [
        (None, (1, 0), True),
        ((1, 0), (2, 0), True),
        ((1, 1), (1, 1), True),
        ((2, 0), (1, 0), False),
        ((1, 3), (2, 2), False),
        ((1, 0), None, False),
    ],
)
def test_a_side_from_the_cloud_is_taken_unless_the_edge_is_newer(
    mine: tuple[int, int] | None, theirs: tuple[int, int] | None, taken: bool
) -> None:
    stored = {"temp": a_twin(expected="20", expected_version=mine)}
    change = sync(stored, {"temp": from_cloud("25", version=theirs)}, NOW)
    if taken:
        assert theirs is not None
        assert change.changed["temp"].expected == value("25")
        assert change.changed["temp"].expected_version == TwinVersion(*theirs)
        assert not change.sync
    else:
        assert not change.changed
        assert change.rejected == ["temp.expected"]
        assert change.sync == {"temp": stored["temp"]}


def test_a_conflict_on_one_side_does_not_stop_the_other() -> None:
    stored = {
        "temp": a_twin(expected="20", actual="1", expected_version=(0, 5), actual_version=(0, 1))
    }
    ask = Twin(
        expected=TwinValue(value="25"),
        actual=TwinValue(value="2"),
        expected_version=TwinVersion(1, 0),
        actual_version=TwinVersion(1, 1),
        metadata={"type": "int"},
    )
    change = sync(stored, {"temp": ask}, NOW)
    assert change.rejected == ["temp.expected"]
    assert change.changed["temp"].actual == value("2")
    back = change.sync["temp"]
    assert back is not None
    assert back.expected == stored["temp"].expected


def test_a_delete_from_the_cloud_passes_without_versions() -> None:
    stored = {"temp": a_twin(actual="20", actual_version=(0, 3))}
    change = sync(stored, {"temp": Twin(metadata={"type": DELETED})}, NOW)
    assert change.changed["temp"].metadata == {"type": DELETED}


def test_a_delete_older_than_the_edge_is_a_conflict() -> None:
    stored = {"temp": a_twin(actual="20", actual_version=(0, 3))}
    ask = Twin(metadata={"type": DELETED}, actual_version=TwinVersion(0, 2))
    change = sync(stored, {"temp": ask}, NOW)
    assert change.rejected == ["temp.actual"]
    assert not change.changed


def test_a_property_without_metadata_is_skipped() -> None:
    ask = Twin(expected=TwinValue(value="1"), expected_version=TwinVersion(1, 0))
    assert not sync({}, {"temp": ask, "hum": None}, NOW).changed


# --- 15.3 the Device object ------------------------------------------------------------------------


def test_a_device_makes_its_twins_with_desired_as_expected() -> None:
    change = bind(
        {}, {"temp": Wanted("25", "int"), "name": Wanted(None, "string")}, frozenset(), NOW
    )
    assert change.changed["temp"].expected == value("25")
    assert change.changed["temp"].expected_version == TwinVersion(1, 0)
    assert change.changed["name"].expected is None
    assert change.changed["name"].metadata == {"type": "string"}
    assert not change.sync


def test_a_desired_value_that_the_model_forbids_leaves_the_last_good_one() -> None:
    first = bind({}, {"temp": Wanted("25", "int")}, frozenset(), NOW).changed
    bad = {"temp": Wanted("wide", "int", is_usable=False)}
    assert not bind(first, bad, frozenset(), NOW + 1).changed
    fresh = bind({}, bad, frozenset(), NOW).changed["temp"]
    assert (fresh.expected, fresh.metadata) == (None, {"type": "int"})


def test_the_same_device_again_changes_nothing() -> None:
    wanted = {"temp": Wanted("25", "int")}
    first = bind({}, wanted, frozenset(), NOW).changed
    assert not bind(first, wanted, frozenset(), NOW + 1).changed


def test_an_equal_desired_value_in_another_text_changes_nothing() -> None:
    first = bind({}, {"t": Wanted("25", "float")}, frozenset(), NOW).changed
    assert not bind(first, {"t": Wanted("25.0", "float")}, frozenset(), NOW).changed


DEVICE = {"temp": Wanted("2", "int")}
WISHED = {"temp": a_twin(expected="4", expected_version=(1, 1))}


def bound_as(text: str | None, uid: str = "u") -> dict[str, Bound]:
    return {"temp": Bound(uid, text)}


def test_a_desired_value_that_was_taken_over_leaves_a_later_wish_alone() -> None:
    first = bind({}, DEVICE, frozenset(), NOW, uid="u")
    assert first.bound == bound_as("2")
    again = bind(WISHED, DEVICE, frozenset(), NOW, uid="u", bound=bound_as("2"))
    assert (again.changed, again.bound) == ({}, {})


@pytest.mark.parametrize("bound", [{}, bound_as("1"), bound_as(None), bound_as("2", "before")])
def test_a_desired_value_that_is_new_wins_over_a_wish(bound: dict[str, Bound]) -> None:
    change = bind(WISHED, DEVICE, frozenset(), NOW, uid="u", bound=bound)
    assert change.changed["temp"].expected == value("2")
    assert change.bound == bound_as("2")


def test_a_device_that_goes_on_wanting_nothing_leaves_a_wish_alone() -> None:
    nothing = {"temp": Wanted(None, "int")}
    change = bind(WISHED, nothing, frozenset(), NOW, uid="u", bound=bound_as(None))
    assert not change.changed
    change = bind(WISHED, nothing, frozenset(), NOW, uid="u", bound=bound_as("2"))
    assert change.changed["temp"].expected is None


def test_a_desired_value_that_equals_the_wish_is_remembered() -> None:
    same = {"temp": Wanted("4", "int")}
    change = bind(WISHED, same, frozenset(), NOW, uid="u", bound=bound_as("2"))
    assert (change.changed, change.bound) == ({}, bound_as("4"))


def test_a_desired_value_that_the_model_forbids_is_not_remembered() -> None:
    bad = {"temp": Wanted("9", "int", is_usable=False)}
    assert not bind(WISHED, bad, frozenset(), NOW, uid="u", bound=bound_as("2")).bound
    good = {"temp": Wanted("9", "int")}
    change = bind(WISHED, good, frozenset(), NOW, uid="u", bound=bound_as("2"))
    assert change.changed["temp"].expected == value("9")


@pytest.mark.parametrize(("kind", "expected"), [("float", "4"), ("boolean", "true")])
def test_a_wish_stays_under_another_type_if_it_is_one_of_it(kind: str, expected: str) -> None:
    wanted = {"temp": Wanted("true", kind)}
    change = bind(WISHED, wanted, frozenset(), NOW, uid="u", bound=bound_as("true"))
    assert change.changed["temp"].metadata == {"type": kind}
    assert change.changed["temp"].expected is not None
    assert change.changed["temp"].expected.value == expected


def test_what_was_taken_over_is_forgotten_with_its_property() -> None:
    change = bind(WISHED, {}, frozenset({"temp"}), NOW, uid="u", bound=bound_as("2"))
    assert change.bound == {"temp": None}
    deleted = {"temp": Twin(metadata={"type": DELETED})}
    change = bind(deleted, DEVICE, frozenset(), NOW, uid="u", bound=bound_as("2"))
    assert change.changed["temp"].expected == value("2")


def test_a_new_desired_value_keeps_what_the_device_reported() -> None:
    stored = {"temp": a_twin(expected="25", actual="20", expected_version=(1, 0))}
    after = bind(stored, {"temp": Wanted("30", "int")}, frozenset(), NOW).changed["temp"]
    assert after.expected == value("30")
    assert after.actual == stored["temp"].actual
    assert after.expected_version == TwinVersion(2, 0)


def test_a_property_that_left_the_device_is_deleted() -> None:
    stored = {"temp": a_twin(actual="1"), "mine": a_twin(actual="1")}
    change = bind(stored, {}, frozenset({"temp"}), NOW)
    assert list(change.changed) == ["temp"]
    assert alive({**stored, **change.changed}).keys() == {"mine"}


def test_a_deleted_twin_comes_back_with_its_device() -> None:
    stored = {"temp": Twin(metadata={"type": DELETED}, optional=True)}
    change = bind(stored, {"temp": Wanted("25", "int")}, frozenset(), NOW)
    assert change.changed["temp"].metadata == {"type": "int"}


# --- properties over many steps ----------------------------------------------------------------------

_STEPS = {"actual": asks(actual="1"), "expected": asks(expected="1"), "null": None}
_steps = st.lists(
    st.tuples(st.sampled_from(["a", "b"]), st.sampled_from(sorted(_STEPS))),
    max_size=30,
)


@given(_steps)
def test_edge_versions_never_go_back(steps: list[tuple[str, str]]) -> None:
    twins: Twins = {}
    for name, what in steps:
        ask = _STEPS[what]
        change = report(twins, {name: ask}, NOW)
        for key, after in change.changed.items():
            before = change.before[key]
            for side in ("actual_version", "expected_version"):
                old = getattr(before, side, None) or TwinVersion()
                new = getattr(after, side) or TwinVersion()
                assert new.edge >= old.edge
        twins = {**twins, **change.changed}
