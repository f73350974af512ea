"""Topic filters: grammar, matching, and the tree against the plain rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.errors import MalformedTopic
from gateway.wire.mqtt.filters import MAX_LEVELS, FilterTree, TopicFilter, check_topic


@pytest.mark.parametrize(
    ("text", "topic", "does"),
    [
        ("a/b", "a/b", True),
        ("a/b", "a/b/c", False),
        ("a/b", "a", False),
        ("a/+", "a/b", True),
        ("a/+", "a/", True),
        ("a/+", "a", False),
        ("a/+", "a/b/c", False),
        ("a/#", "a", True),
        ("a/#", "a/b/c", True),
        ("a/#", "ab", False),
        ("#", "a/b", True),
        ("#", "/", True),
        ("+", "a", True),
        ("+/+", "/a", True),
        ("/+", "/a", True),
        ("+", "/a", False),
        ("#", "$SYS/x", False),
        ("+/x", "$SYS/x", False),
        ("$SYS/#", "$SYS/x", True),
        ("$SYS/+", "$SYS/x", True),
        ("a/$x/+", "a/$x/y", True),
        ("a/+", "a/$x", True),
        ("command///req/#", "command///req//set", True),
        ("command/+/+/req/#", "command///req/1/set", True),
    ],
)
def test_a_filter_matches_as_the_standard_says(text: str, topic: str, does: bool) -> None:
    topic_filter = TopicFilter.parse(text)
    assert topic_filter.matches(topic) is does
    tree: FilterTree[str, int] = FilterTree()
    tree.add(topic_filter, "k", 1)
    assert tree.match(topic) == ((("k", 1),) if does else ())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "at least one character"),
        ("a/#/b", "'#' may only be the last level, not level 2"),
        ("a#", "must fill level 1"),
        ("a/b+", "must fill level 2"),
        ("a/+b/c", "must fill level 2"),
        ("a\0", "U+0000"),
        ("x" * 65_536, "longer than 65535 bytes"),
        ("ü" * 40_000, "longer than 65535 bytes"),
        ("/" * MAX_LEVELS, "more than 128 levels"),
        ("$share/g", "at least one character"),
        ("$share//a", "expected $share/name/filter"),
        ("$share/+/a", "expected $share/name/filter"),
    ],
)
def test_a_bad_filter_names_its_level(text: str, told: str) -> None:
    with pytest.raises(MalformedTopic) as caught:
        TopicFilter.parse(text)
    assert told in caught.value.message


@pytest.mark.parametrize("topic", ["", "a/+", "#", "a\0b", "x" * 65_536])
def test_a_bad_topic_name_is_refused(topic: str) -> None:
    with pytest.raises(MalformedTopic):
        check_topic(topic)


def test_a_shared_filter_has_a_group() -> None:
    shared = TopicFilter.parse("$share/workers/a/+")
    assert (shared.group, shared.text, shared.has_wildcard) == ("workers", "a/+", True)
    assert TopicFilter.parse("$share").group is None


LEVEL = st.sampled_from(["a", "b", "", "$x"])
NAMES = st.lists(LEVEL, min_size=1, max_size=4).map("/".join).filter(bool)
FILTERS = st.tuples(
    st.lists(st.sampled_from(["a", "b", "", "$x", "+"]), max_size=4), st.sampled_from([[], ["#"]])
).map(lambda pair: "/".join([*pair[0], *pair[1]]))


@given(st.lists(FILTERS.filter(bool), max_size=12), st.lists(NAMES, max_size=6), st.data())
def test_the_tree_agrees_with_the_rule_after_any_changes(
    texts: list[str], names: list[str], data: st.DataObject
) -> None:
    tree: FilterTree[int, None] = FilterTree(remember=2)
    held = {}
    for key, text in enumerate(texts):
        held[key] = TopicFilter.parse(text)
        assert tree.add(held[key], key, None) is True
        assert tree.add(held[key], key, None) is False
    for name in names:
        assert sorted(tree.match(name)) == [(k, None) for k, f in held.items() if f.matches(name)]
        if held:
            key = data.draw(st.sampled_from(sorted(held)))
            assert tree.remove(held[key], key) is True
            assert tree.remove(held.pop(key), key) is False


def test_an_emptied_tree_keeps_nothing() -> None:
    tree: FilterTree[str, int] = FilterTree()
    for text in ("a/b/c/#", "a/+/c", "a/b", "#"):
        tree.add(TopicFilter.parse(text), "k", 1)
    for text in ("a/b/c/#", "a/+/c", "a/b", "#"):
        assert tree.remove(TopicFilter.parse(text), "k")
    assert tree._root.is_empty
    assert not tree._exact
    assert tree.remove(TopicFilter.parse("x/+/y"), "k") is False
