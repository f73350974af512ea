"""fieldRef and resourceFieldRef: every field, keys in brackets, divisors, what stands for no limit."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.podfields import field_value, go_quoted, resource_value
from edge.pods.podspec import FieldRef, Pod, ResourceFieldRef, read_pod
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject

NODE = {"cpu": "4", "memory": "8Gi", "ephemeral-storage": "100Gi"}


def a_pod(**spec: Json) -> Pod:
    item: dict[str, JsonObject] = {
        "metadata": {
            "name": "web",
            "namespace": "shop",
            "uid": "11-22",
            "labels": {"b": "2", "a": 'say "hi"\n'},
            "annotations": {"Example.com/Note": "x"},
        },
        "spec": {
            "nodeName": "edge-1",
            "serviceAccountName": "runner",
            "containers": [
                {
                    "name": "main",
                    "resources": {
                        "limits": {"cpu": "1500m", "memory": "64Mi", "hugepages-2Mi": "4Mi"},
                        "requests": {"cpu": "250m", "memory": "1000001"},
                    },
                },
                {"name": "free"},
            ],
            "initContainers": [{"name": "first", "resources": {"limits": {"cpu": "3"}}}],
        },
    }
    item["spec"] |= spec
    return read_pod({**item})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "web"),
        ("metadata.namespace", "shop"),
        ("metadata.uid", "11-22"),
        ("metadata.labels", 'a="say \\"hi\\"\\n"\nb="2"'),
        ("metadata.annotations", 'Example.com/Note="x"'),
        ("metadata.labels['b']", "2"),
        ("metadata.labels['absent']", ""),
        ("metadata.annotations['Example.com/Note']", "x"),
        ("spec.nodeName", "edge-1"),
        ("spec.host", "edge-1"),
        ("spec.serviceAccountName", "runner"),
        ("status.podIP", "10.0.0.2"),
        ("status.podIPs", "10.0.0.2,fd00::2"),
        ("status.hostIP", "192.168.1.9"),
        ("status.hostIPs", "192.168.1.9"),
    ],
)
def test_a_field_is_told_as_text(path: str, value: str) -> None:
    ref = FieldRef(api_version="v1", field_path=path)
    assert field_value(a_pod(), ref, ("10.0.0.2", "fd00::2"), ("192.168.1.9",)) == value


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (FieldRef(field_path="spec.dnsPolicy"), "field label not supported: spec.dnsPolicy"),
        (FieldRef(api_version="v2", field_path="metadata.name"), "unsupported pod version: v2"),
        (FieldRef(field_path="spec.nodeName['x']"), "does not support subscript"),
        (
            FieldRef(field_path="metadata.labels['']"),
            "invalid key subscript in metadata.labels['']",
        ),
        (FieldRef(field_path="metadata.labels['a b']"), "invalid key subscript"),
        (FieldRef(field_path="metadata.labels['b"), "field label not supported"),
    ],
)
def test_a_field_that_cannot_be_asked_for_is_refused(ref: FieldRef, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        field_value(a_pod(), ref)
    assert words in refused.value.message


@pytest.mark.parametrize(
    ("resource", "divisor", "value"),
    [
        ("limits.cpu", None, "2"),
        ("limits.cpu", "0", "2"),
        ("limits.cpu", "1m", "1500"),
        ("limits.memory", None, str(64 << 20)),
        ("limits.memory", "1Mi", "64"),
        ("limits.hugepages-2Mi", "1Mi", "4"),
        ("requests.cpu", None, "1"),
        ("requests.memory", "1M", "2"),
        ("requests.ephemeral-storage", None, "0"),
        ("limits.ephemeral-storage", "1Gi", "100"),
    ],
)
def test_an_amount_is_told_in_units_of_its_divisor_rounded_up(
    resource: str, divisor: str | None, value: str
) -> None:
    pod = a_pod()
    ref = ResourceFieldRef(resource=resource, divisor=divisor)
    assert resource_value(pod, pod.spec.containers[0], ref, NODE) == value


def test_without_a_limit_the_pods_own_is_told_before_the_nodes() -> None:
    pod = a_pod(resources={"limits": {"cpu": "2"}})
    free = pod.spec.containers[1]
    assert resource_value(pod, free, ResourceFieldRef(resource="limits.cpu"), NODE) == "2"
    memory = ResourceFieldRef(resource="limits.memory", divisor="1Gi")
    assert resource_value(pod, free, memory, NODE) == "8"


def test_another_container_is_read_by_name() -> None:
    ref = ResourceFieldRef(container_name="first", resource="limits.cpu")
    assert resource_value(a_pod(), None, ref, NODE) == "3"


@pytest.mark.parametrize(
    ("ref", "words"),
    [
        (ResourceFieldRef(resource="limits.gpu"), "unsupported container resource : limits.gpu"),
        (ResourceFieldRef(resource="cpu"), "unsupported container resource : cpu"),
        (ResourceFieldRef(container_name="no", resource="limits.cpu"), "container no not found"),
    ],
)
def test_an_unknown_amount_is_refused(ref: ResourceFieldRef, words: str) -> None:
    pod = a_pod()
    with pytest.raises(BadRequest) as refused:
        resource_value(pod, pod.spec.containers[0], ref, NODE)
    assert refused.value.message == words


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        ("plain", '"plain"'),
        ('a"b\\', '"a\\"b\\\\"'),
        ("\x00\x7f\x1b", '"\\x00\\x7f\\x1b"'),
        ("\u0085\u00a0\u2028", '"\\u0085\\u00a0\\u2028"'),
        ("é€😀", '"é€😀"'),
        ("\U000e0001", '"\\U000e0001"'),
    ],
)
def test_texts_are_escaped_as_go_writes_them(text: str, quoted: str) -> None:
    assert go_quoted(text) == quoted


@given(st.text())
def test_an_escaped_text_is_one_line(text: str) -> None:
    assert len(go_quoted(text).splitlines()) == 1
