"""Static Pods: what a file becomes, what is wrong with it, and what a folder holds."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from edge.pods.manifests import MAX_BYTES, hash_of, mirror_of, read_manifest
from edge.pods.podspec import Pod
from edge.pods.staticpods import look, read_all
from gateway.errors import BadRequest
from gateway.wire.kube.podrefs import pod_references

SEEN = "2027-01-15T08:00:00.000000Z"
PLAIN = """
apiVersion: v1
kind: Pod
metadata:
  name: web
spec:
  containers:
  - name: c
    image: busybox:1
    resources: {limits: {cpu: 100m}}
"""


def read(text: str | bytes, *, node: str = "edge-1", source: str = "/m/web.yaml") -> Pod:
    data = text.encode() if isinstance(text, str) else text
    return read_manifest(data, node, source, SEEN)


def a_manifest(**spec: Any) -> str:
    item = yaml.safe_load(PLAIN)
    item["spec"] |= spec
    return json.dumps(item)


def test_a_file_becomes_a_pod_of_this_node_with_all_defaults() -> None:
    pod = read(PLAIN)
    assert pod.key == ("default", "web-edge-1")
    assert pod.meta.annotations == {
        "kubernetes.io/config.hash": pod.uid,
        "kubernetes.io/config.seen": SEEN,
        "kubernetes.io/config.source": "file",
    }
    assert (pod.is_static, pod.is_mirror, len(pod.uid)) == (True, False, 32)
    assert pod.spec.node_name == "edge-1"
    assert [(t.operator, t.effect, t.key) for t in pod.spec.tolerations] == [
        ("Exists", "NoExecute", "")
    ]
    (container,) = pod.spec.containers
    assert container.image_pull_policy == "IfNotPresent"
    assert container.resources.requests == {"cpu": "100m"}
    assert pod.spec.service_account_name == ""
    status: Any = pod.raw["status"]
    assert (status["phase"], status["qosClass"]) == ("Pending", "Burstable")


def test_the_same_file_is_the_same_pod_and_a_changed_one_another() -> None:
    assert read(PLAIN).uid == read(PLAIN + "\n# a word").uid
    uids = {
        read(PLAIN).uid,
        read(PLAIN.replace("busybox:1", "busybox:2")).uid,
        read(PLAIN, source="/m/other.yaml").uid,
        read(PLAIN, node="edge-2").uid,
    }
    assert len(uids) == 4


def test_a_uid_of_the_file_s_own_stays() -> None:
    assert read(PLAIN.replace("name: web", "name: web\n  uid: mine")).uid == "mine"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "expected one object"),
        ("a: [", "couldn't parse as pod"),
        ("[1, 2]", "expected one object"),
        (f"{PLAIN}\n---\n{PLAIN}", "expected one object"),
        ("a: &a {b: c}\nd: *a", "aliases are not taken"),
        ("? [a]\n: b", "couldn't parse as pod"),
        ("x" * (MAX_BYTES + 1), "more than"),
        (json.dumps({"a": 1})[:-1] + ', "b": ' + "[" * 70 + "]" * 70 + "}", "deeper than"),
        (PLAIN.replace("kind: Pod", "kind: Deployment"), "expected a Pod of v1, got Deployment"),
        (PLAIN.replace("name: web", "labels: {}"), "name is needed for the pod"),
        (PLAIN.replace("name: web", "name: We_b"), "metadata.name"),
        (PLAIN.replace("name: c", "name: C_"), "spec.containers[0].name"),
        (a_manifest(containers=[]), "spec.containers"),
        (a_manifest(containers="none"), "spec.containers"),
        (a_manifest(restartPolicy="Sometimes"), "spec.restartPolicy"),
        (a_manifest(hostNetwork="yes"), "hostNetwork"),
        (a_manifest(serviceAccountName="a"), "static pods may not reference serviceaccounts"),
        (a_manifest(imagePullSecrets=[{"name": "s"}]), "static pods may not reference secrets"),
        (
            a_manifest(volumes=[{"name": "v", "configMap": {"name": "c"}}]),
            "static pods may not reference configmaps (via configmap volumes)",
        ),
        (
            a_manifest(
                volumes=[{"name": "v", "projected": {"sources": [{"serviceAccountToken": {}}]}}]
            ),
            "static pods may not reference serviceaccounts (via projected volumes)",
        ),
        (
            a_manifest(resourceClaims=[{"name": "gpu"}]),
            "static pods may not reference resourceclaims",
        ),
    ],
)
def test_what_is_wrong_with_a_file_is_told(text: str, told: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read(text)
    assert told in caught.value.message


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(
    st.fixed_dictionaries(
        {"apiVersion": st.just("v1"), "kind": st.just("Pod")},
        optional={
            "metadata": JSON | st.fixed_dictionaries({"name": st.just("a"), "labels": JSON}),
            "spec": JSON
            | st.fixed_dictionaries(
                {}, optional={"containers": JSON, "volumes": JSON, "tolerations": JSON}
            ),
        },
    )
)
def test_whatever_a_file_says_is_a_pod_or_a_fault(item: Any) -> None:
    try:
        pod = read(json.dumps(item))
    except BadRequest:
        return
    assert pod.is_static


def test_a_mirror_shows_the_pod_and_names_nothing() -> None:
    pod = read(PLAIN)
    mirror: Any = mirror_of(pod, "edge-1", "n1")
    assert mirror["metadata"]["annotations"]["kubernetes.io/config.mirror"] == hash_of(pod)
    assert "uid" not in mirror["metadata"]
    assert "status" not in mirror
    assert mirror["metadata"]["ownerReferences"][0]["uid"] == "n1"
    assert not pod_references(mirror)
    assert "serviceAccountName" not in mirror["spec"]
    unowned: Any = mirror_of(pod, "edge-1", "")
    assert "ownerReferences" not in unowned["metadata"]


# --- folders ----------------------------------------------------------------------------------


def names(found: Any) -> list[str]:
    return [pod.meta.name for pod in found.pods]


def test_a_folder_s_good_files_count_and_the_bad_ones_are_told(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(PLAIN)
    (tmp_path / "db.json").write_text(a_manifest().replace('"web"', '"db"'))
    (tmp_path / ".hidden.yaml").write_text(PLAIN.replace("web", "hidden"))
    (tmp_path / "bad.yaml").write_text("a: [")
    (tmp_path / "folder").mkdir()
    found = read_all(look(tmp_path), "edge-1", lambda _name: SEEN)
    assert sorted(names(found)) == ["db-edge-1", "web-edge-1"]
    assert [Path(name).name for name, _ in found.faults] == ["bad.yaml", "folder"]


def test_one_file_may_be_the_path(tmp_path: Path) -> None:
    (tmp_path / "web.yaml").write_text(PLAIN)
    found = read_all(look(tmp_path / "web.yaml"), "edge-1", lambda _name: SEEN)
    assert names(found) == ["web-edge-1"]
    assert look(tmp_path / "none") == ()


def test_of_two_pods_of_one_name_the_later_file_counts(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(PLAIN)
    (tmp_path / "b.yaml").write_text(PLAIN.replace("busybox:1", "busybox:2"))
    found = read_all(look(tmp_path), "edge-1", lambda _name: SEEN)
    (pod,) = found.pods
    assert pod.spec.containers[0].image == "busybox:2"
    assert len(found.faults) == 1


def test_a_change_shows_in_the_marks(tmp_path: Path) -> None:
    file = tmp_path / "web.yaml"
    file.write_text(PLAIN)
    before = look(tmp_path)
    assert look(tmp_path) == before
    os.utime(file, (1, 1))
    assert look(tmp_path) != before
    file.unlink()
    file.symlink_to(tmp_path / "gone")
    assert look(tmp_path) == ()
