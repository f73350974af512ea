"""Overriders of EdgeApplications: cases by hand, and what holds for all of them."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cloud.imagenames import ImageName
from cloud.overriders import WORKLOADS, overridden, pod_spec
from gateway.errors import BadRequest
from gateway.model.json import JsonObject

DIGEST = "sha256:" + "ab" * 32


def changed_by(manifest: JsonObject, overriders: Any) -> JsonObject:
    return overridden(manifest, overriders)


def a_deployment(*images: str, **container: Any) -> JsonObject:
    containers: Any = [
        {"name": f"c{at}", "image": image, **container}
        for at, image in enumerate(images or ("registry.example:5000/team/app:1",))
    ]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": "web"},
        "spec": {"replicas": 1, "template": {"spec": {"containers": containers}}},
    }


def containers_of(manifest: JsonObject) -> list[dict[str, Any]]:
    found = pod_spec(manifest)["containers"]
    assert isinstance(found, list)
    return [each for each in found if isinstance(each, dict)]


def image_after(image: str, component: str, operator: str, value: str = "") -> str:
    rule = {"component": component, "operator": operator, "value": value}
    changed = changed_by(a_deployment(image), {"imageOverriders": [rule]})
    return str(containers_of(changed)[0]["image"])


@pytest.mark.parametrize(
    ("image", "component", "operator", "value", "expected"),
    [
        ("app", "Registry", "add", "r.example", "r.example/app"),
        ("r.example/app:1", "Registry", "add", ":5000", "r.example:5000/app:1"),
        ("r.example/app:1", "Registry", "replace", "localhost", "localhost/app:1"),
        ("r.example:5000/team/app:1", "Registry", "remove", "", "team/app:1"),
        ("team/app:1", "Registry", "remove", "", "team/app:1"),
        ("r.example/team/app:1", "Repository", "add", "-arm", "r.example/team/app-arm:1"),
        ("r.example/team/app:1", "Repository", "replace", "other", "r.example/other:1"),
        ("app", "Tag", "add", "1", "app:1"),
        ("app:1", "Tag", "add", "-alpine", "app:1-alpine"),
        ("app:1", "Tag", "replace", "2", "app:2"),
        ("app:1", "Tag", "replace", DIGEST, f"app@{DIGEST}"),
        ("app:1", "Tag", "replace", f"@{DIGEST}", f"app@{DIGEST}"),
        (f"app@{DIGEST}", "Tag", "replace", "2", "app:2"),
        (f"app:1@{DIGEST}", "Tag", "replace", "2", "app:2"),
        (f"app:1@{DIGEST}", "Tag", "remove", "", "app"),
        ("localhost/app:1", "Tag", "remove", "ignored", "localhost/app"),
    ],
)
def test_an_image_is_changed_by_its_parts(
    image: str, component: str, operator: str, value: str, expected: str
) -> None:
    assert image_after(image, component, operator, value) == expected


@pytest.mark.parametrize(
    ("image", "component", "operator", "value", "said"),
    [
        ("app:1", "Repository", "remove", "", "no repository"),
        ("app:1", "Repository", "replace", "Big", "'Big' is no repository"),
        ("app:1", "Tag", "replace", "-x", "'-x' is no tag"),
        ("app:1", "Tag", "replace", "", "must not be empty"),
        (f"app@{DIGEST}", "Tag", "add", "x", "added to a digest"),
        ("app:1", "Registry", "add", "no_host", "is no registry"),
        ("app:1", "Name", "add", "x", "component"),
        ("app:1", "Tag", "swap", "x", "operator"),
        ("app:", "Tag", "replace", "1", "after the colon"),
        ("a@", "Tag", "replace", "1", "after @"),
        ("a" * 2_000, "Tag", "replace", "1", "characters"),
    ],
)
def test_an_image_that_cannot_be_is_refused_by_name(
    image: str, component: str, operator: str, value: str, said: str
) -> None:
    with pytest.raises(BadRequest, match=said) as caught:
        image_after(image, component, operator, value)
    assert caught.value.message.startswith("imageOverriders[0]")


def test_a_rule_for_images_is_for_all_containers_unless_it_says_where() -> None:
    rule: dict[str, Any] = {"component": "Tag", "operator": "replace", "value": "2"}
    changed = changed_by(a_deployment("a:1", "b:1"), {"imageOverriders": [rule]})
    assert [each["image"] for each in containers_of(changed)] == ["a:2", "b:2"]
    rule["predicate"] = {"path": "/spec/template/spec/containers/1/image"}
    changed = changed_by(a_deployment("a:1", "b:1"), {"imageOverriders": [rule]})
    assert [each["image"] for each in containers_of(changed)] == ["a:1", "b:2"]


@pytest.mark.parametrize(
    "path",
    ["", "/", "/spec/template/spec/containers/2/image", "/spec/replicas", "/spec/x/y", "/spec/-1"],
)
def test_a_path_that_leads_to_no_image_is_refused(path: str) -> None:
    rule = {"component": "Tag", "operator": "remove", "predicate": {"path": path}}
    with pytest.raises(BadRequest, match=r"imageOverriders\[0\].predicate.path"):
        changed_by(a_deployment("a:1", "b:1"), {"imageOverriders": [rule]})


def test_a_path_has_the_escapes_of_json_pointers() -> None:
    pod = a_deployment("a:1")
    pod["metadata"] = {"name": "web", "annotations": {"example/image~1": "b:1"}}
    rule = {
        "component": "Tag",
        "operator": "replace",
        "value": "2",
        "predicate": {"path": "/metadata/annotations/example~1image~01"},
    }
    changed = changed_by(pod, {"imageOverriders": [rule]})
    assert changed["metadata"]["annotations"] == {"example/image~1": "b:2"}  # type: ignore[index,call-overload]
    assert containers_of(changed)[0]["image"] == "a:1"


OLD = [{"name": "A", "value": "1"}, {"name": "B", "valueFrom": {"fieldRef": {"fieldPath": "x"}}}]


@pytest.mark.parametrize(
    ("operator", "value", "expected"),
    [
        ("add", [{"name": "C", "value": "3"}], [*OLD, {"name": "C", "value": "3"}]),
        ("add", [{"name": "A", "value": "9"}], [OLD[1], {"name": "A", "value": "9"}]),
        ("remove", [{"name": "A"}, {"name": "Z"}], [OLD[1]]),
        ("replace", [{"name": "A", "value": "9"}], [{"name": "A", "value": "9"}, OLD[1]]),
        ("replace", [{"name": "C", "value": "3"}], [*OLD, {"name": "C", "value": "3"}]),
    ],
)
def test_variables_are_added_removed_and_replaced_by_name(
    operator: str, value: list[JsonObject], expected: list[JsonObject]
) -> None:
    rule = {"containerName": "c0", "operator": operator, "value": value}
    changed = changed_by(a_deployment("a", "b", env=OLD), {"envOverriders": [rule]})
    first, second = containers_of(changed)
    assert first["env"] == expected
    assert second["env"] == OLD


@pytest.mark.parametrize(
    ("rules", "field"), [("commandOverriders", "command"), ("argsOverriders", "args")]
)
def test_words_are_added_and_removed(rules: str, field: str) -> None:
    old = ["run", "-v", "-v"]
    add = {"containerName": "c0", "operator": "add", "value": ["-x", "1"]}
    remove = {"containerName": "c0", "operator": "remove", "value": ["-v"]}
    manifest = a_deployment("a", **{field: old})
    assert containers_of(changed_by(manifest, {rules: [add]}))[0][field] == [*old, "-x", "1"]
    assert containers_of(changed_by(manifest, {rules: [remove]}))[0][field] == ["run"]
    both = containers_of(changed_by(manifest, {rules: [add, remove]}))[0]
    assert both[field] == ["run", "-x", "1"]
    bare = containers_of(changed_by(a_deployment("a"), {rules: [remove]}))[0]
    assert field not in bare
    with pytest.raises(BadRequest, match="add or remove"):
        changed_by(manifest, {rules: [{**add, "operator": "replace"}]})


def test_resources_are_taken_whole() -> None:
    manifest = a_deployment("a", "b", resources={"limits": {"cpu": "1", "memory": "1Gi"}})
    rule = {"containerName": "c1", "value": {"limits": {"cpu": "2"}}}
    first, second = containers_of(changed_by(manifest, {"resourcesOverriders": [rule]}))
    assert first["resources"] == {"limits": {"cpu": "1", "memory": "1Gi"}}
    assert second["resources"] == {"limits": {"cpu": "2"}}


def test_replicas_are_for_what_has_them() -> None:
    assert changed_by(a_deployment(), {"replicas": 0})["spec"]["replicas"] == 0  # type: ignore[index,call-overload]
    pod: JsonObject = {"apiVersion": "v1", "kind": "Pod", "spec": {"containers": []}}
    assert changed_by(pod, {"replicas": 3}) == pod
    for odd in (-1, True, "2"):
        with pytest.raises(BadRequest, match="replicas"):
            changed_by(a_deployment(), {"replicas": odd})


def test_what_runs_nothing_stays_as_it_is() -> None:
    service: JsonObject = {"apiVersion": "v1", "kind": "Service", "spec": {"replicas": 1}}
    rule = {"component": "Tag", "operator": "swap"}
    assert changed_by(service, {"replicas": 5, "imageOverriders": [rule]}) == service


@pytest.mark.parametrize(
    "overriders",
    [
        {"imageOverriders": {"component": "Tag"}},
        {"imageOverriders": ["x"]},
        {"envOverriders": [{"containerName": "c0", "operator": "add", "value": "x"}]},
        {"envOverriders": [{"containerName": "c0", "operator": "take", "value": []}]},
        {"argsOverriders": [{"containerName": "c0", "operator": "add", "value": [1]}]},
        {"commandOverriders": [{"containerName": "c0", "operator": "add", "value": "ls"}]},
    ],
)
def test_rules_of_another_form_are_refused(overriders: JsonObject) -> None:
    with pytest.raises(BadRequest, match="Overriders"):
        changed_by(a_deployment("a"), overriders)


@pytest.mark.parametrize(("group", "kind"), sorted(WORKLOADS))
def test_every_workload_is_changed_where_its_pods_are_described(group: str, kind: str) -> None:
    api = f"{group}/v1" if group else "v1"
    manifest: JsonObject = {"apiVersion": api, "kind": kind}
    pod_spec(manifest)["containers"] = [{"name": "c", "image": "a:1"}]
    rule = {"component": "Tag", "operator": "replace", "value": "2"}
    changed = changed_by(manifest, {"imageOverriders": [rule]})
    assert containers_of(changed)[0]["image"] == "a:2"


# --- what holds for all ------------------------------------------------------------------------------

tags = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,9}", fullmatch=True)
words = st.from_regex(r"[a-z0-9]{1,5}([-_.][a-z0-9]{1,5}){0,2}", fullmatch=True)
registries = st.from_regex(r"[a-z0-9]{1,5}(\.[a-z0-9]{1,5}){1,2}(:[0-9]{1,5})?", fullmatch=True)
images = st.builds(
    ImageName,
    registry=st.one_of(st.just(""), registries),
    repository=st.lists(words, min_size=1, max_size=3).map("/".join),
    tag=st.one_of(st.just(""), tags),
    digest=st.sampled_from(["", DIGEST]),
).filter(lambda image: "." not in image.repository.split("/")[0])
names = st.sampled_from(["A", "B", "C", "D"])
variables = st.lists(
    st.fixed_dictionaries({"name": names, "value": st.text(max_size=3)}),
    unique_by=lambda entry: entry["name"],
    max_size=4,
)


@given(images)
def test_a_name_that_is_read_is_written_as_it_was(image: ImageName) -> None:
    assert ImageName.parse(str(image)) == image


@given(images, tags)
def test_a_tag_that_is_replaced_is_the_tag_and_nothing_else_changes(
    image: ImageName, tag: str
) -> None:
    after = ImageName.parse(image_after(str(image), "Tag", "replace", tag))
    assert after == ImageName(image.registry, image.repository, tag)


@given(images, registries)
def test_a_registry_put_on_and_taken_away_leaves_the_rest(image: ImageName, host: str) -> None:
    put = image_after(str(image), "Registry", "replace", host)
    assert ImageName.parse(put).registry == host
    bare = ImageName.parse(image_after(put, "Registry", "remove"))
    assert (bare.repository, bare.tag) == (image.repository, image.tag)


@given(variables, variables, st.sampled_from(["add", "remove", "replace"]))
def test_variables_hold_each_name_once_and_the_newest_value(
    old: list[JsonObject], new: list[JsonObject], operator: str
) -> None:
    rule = {"containerName": "c0", "operator": operator, "value": new}
    after = containers_of(changed_by(a_deployment("a", env=old), {"envOverriders": [rule]}))[0]
    found = {entry["name"]: entry["value"] for entry in after["env"]}
    before = {str(entry["name"]): entry["value"] for entry in old}
    given = {str(entry["name"]): entry["value"] for entry in new}
    assert len(found) == len(after["env"])
    if operator == "remove":
        assert found == {name: value for name, value in before.items() if name not in given}
    else:
        assert found == {**before, **given}


@given(
    st.lists(
        st.sampled_from(
            [
                ("replicas", 3),
                ("imageOverriders", [{"component": "Tag", "operator": "add", "value": "x"}]),
                ("envOverriders", [{"containerName": "c0", "operator": "add", "value": OLD}]),
                ("argsOverriders", [{"containerName": "c0", "operator": "add", "value": ["y"]}]),
                ("commandOverriders", [{"containerName": "c9", "operator": "add", "value": ["y"]}]),
                ("resourcesOverriders", [{"containerName": "c0", "value": {}}]),
            ]
        ),
        unique_by=lambda pair: str(pair[0]),
    )
)
def test_the_template_is_never_changed_and_the_order_of_fields_does_not_matter(
    pairs: list[tuple[str, Any]],
) -> None:
    manifest = a_deployment("a:1", "b:1", env=OLD, args=["z"])
    before = copy.deepcopy(manifest)
    one, other = changed_by(manifest, dict(pairs)), changed_by(manifest, dict(reversed(pairs)))
    assert manifest == before
    assert one == other
