"""What volumes hold and may be: rules without a file system."""

from __future__ import annotations

import pytest

from edge.pods.atomicwriter import File
from edge.pods.mounts import MountPoint, parse_mountinfo
from edge.pods.objects import references
from edge.pods.podspec import EmptyDir, KeyToPath, VolumeMount
from edge.pods.projections import (
    MAX_BYTES,
    configmap_files,
    merged,
    nested_folders,
    one_user,
    secret_files,
)
from edge.pods.runtime import Propagation
from edge.pods.subpaths import checked, expanded
from edge.pods.volumerules import (
    check_recursive,
    check_source,
    memory_size,
    pod_memory,
    propagation,
    used_volumes,
)
from gateway.errors import BadRequest, NotBuilt, NotFound
from gateway.model.json import JsonObject
from tests.volume_rig import encoded, pod_with

CONFIG: JsonObject = {"data": {"a": "1", "b": "2"}, "binaryData": {"c": encoded("3")}}


# --- files ----------------------------------------------------------------------------------------


def test_all_keys_are_files_without_items() -> None:
    found = configmap_files(CONFIG, [], 0o644, is_optional=False)
    assert found == {key: File(key_text, 0o644) for key, key_text in _of("abc")}


def _of(keys: str) -> list[tuple[str, bytes]]:
    return [(key, str(number).encode()) for number, key in enumerate(keys, 1)]


def test_items_choose_keys_paths_and_modes() -> None:
    items = [KeyToPath(key="a", path="x/y", mode=0o400), KeyToPath(key="c", path="z")]
    found = configmap_files(CONFIG, items, 0o640, is_optional=False)
    assert found == {"x/y": File(b"1", 0o400), "z": File(b"3", 0o640)}


def test_a_key_that_is_not_there_is_named_unless_it_is_optional() -> None:
    items = [KeyToPath(key="no", path="p")]
    with pytest.raises(NotFound, match="configmap references non-existent config key: no"):
        configmap_files(CONFIG, items, 0o644, is_optional=False)
    with pytest.raises(NotFound, match="references non-existent secret key: no"):
        secret_files({"data": {}}, items, 0o644, is_optional=False)
    assert configmap_files(CONFIG, items, 0o644, is_optional=True) == {}
    assert secret_files(None, items, 0o644, is_optional=True) == {}


@pytest.mark.parametrize("data", [["x"], {"k": 1}, {"k": "not base64!"}])
def test_content_that_is_none_is_refused_without_telling_it(data: object) -> None:
    with pytest.raises(BadRequest) as told:
        secret_files({"data": data}, [], 0o644, is_optional=False)  # type: ignore[dict-item]
    assert "base64!" not in told.value.message
    assert told.value.__cause__ is None


def test_later_sources_win_also_under_another_spelling_of_a_path() -> None:
    first, second = {"a/b": File(b"1", 0o644)}, {"a//b": File(b"2", 0o644)}
    assert merged([first, second]) == {"a/b": File(b"2", 0o644)}


def test_a_path_of_one_source_is_no_folder_of_another() -> None:
    with pytest.raises(BadRequest, match="a is a file, and a folder for a/b"):
        merged([{"a": File(b"", 0o644)}, {"a/b": File(b"", 0o644)}])


def test_a_volume_has_a_bound() -> None:
    half = File(b"x" * (MAX_BYTES // 2 + 1), 0o644)
    with pytest.raises(BadRequest, match=f"may have {MAX_BYTES} bytes"):
        merged([{"a": half}, {"b": half}])


@pytest.mark.parametrize(
    ("pod_user", "users", "expected"),
    [(5, [None, None], 5), (None, [7, 7], 7), (5, [7, None], None), (None, [None], None)],
)
def test_files_are_for_one_user_where_all_containers_have_the_same(
    pod_user: int | None, users: list[int | None], expected: int | None
) -> None:
    containers: list[JsonObject] = [
        {"name": f"c{number}", "securityContext": {"runAsUser": user}}
        for number, user in enumerate(users)
    ]
    pod = pod_with(containers=containers, securityContext={"runAsUser": pod_user})
    assert one_user(pod) == expected


def test_mounts_inside_of_a_volume_need_folders_in_it() -> None:
    mounts: list[JsonObject] = [
        {"name": "a", "mountPath": "/etc/app/"},
        {"name": "b", "mountPath": "/etc/app/inner/deep"},
        {"name": "b", "mountPath": "/etc/apple"},
        {"name": "b", "mountPath": "/etc/app/../x"},
    ]
    pod = pod_with(containers=[{"name": "main", "volumeMounts": [*mounts]}])
    assert nested_folders(pod, "a") == ["inner/deep"]
    assert nested_folders(pod, "b") == []


# --- sources --------------------------------------------------------------------------------------


def test_only_what_containers_use_is_made() -> None:
    volumes: list[JsonObject] = [{"name": name, "emptyDir": {}} for name in ("a", "b", "c")]
    containers: list[JsonObject] = [
        {"name": "x", "volumeMounts": [{"name": "a", "mountPath": "/a"}]},
        {"name": "y", "volumeDevices": [{"name": "c", "devicePath": "/dev/c"}]},
    ]
    pod = pod_with(*volumes, containers=containers)
    assert [volume.name for volume in used_volumes(pod)] == ["a", "c"]


@pytest.mark.parametrize(
    ("volume", "word"),
    [
        ({"nfs": {"server": "s", "path": "/"}}, "nfs"),
        ({"csi": {"driver": "d"}}, "csi"),
        ({"iscsi": {}}, "iscsi"),
        ({"image": {"reference": "x"}}, "image"),
        ({"ephemeral": {}}, "ephemeral"),
        ({"projected": {"sources": [{"clusterTrustBundle": {"path": "p"}}]}}, "clusterTrustBundle"),
        ({"projected": {"sources": [{"podCertificate": {"keyType": "k"}}]}}, "podCertificate"),
    ],
)
def test_a_source_that_this_node_cannot_have_is_named(volume: JsonObject, word: str) -> None:
    pod = pod_with({"name": "v", **volume})
    with pytest.raises(NotBuilt, match=f"{word} is not supported by this node"):
        check_source(pod, pod.spec.volumes[0])


@pytest.mark.parametrize(
    ("limit", "size", "expected"),
    [
        (None, None, 100 << 20),
        ("10Mi", None, 10 << 20),
        ("10Mi", "1Mi", 1 << 20),
        (None, "1Gi", 100 << 20),
        ("1Gi", "0", 100 << 20),
    ],
)
def test_memory_is_bound_by_the_least_of_node_pod_and_volume(
    limit: str | None, size: str | None, expected: int
) -> None:
    resources: JsonObject = {"limits": {"memory": limit}} if limit else {}
    pod = pod_with(containers=[{"name": "main", "resources": resources}])
    assert memory_size(pod, EmptyDir(size_limit=size), "100Mi") == expected


def test_the_memory_of_a_pod_counts_sidecars_and_the_largest_init_container() -> None:
    def of(name: str, memory: str, **more: str) -> JsonObject:
        return {"name": name, "resources": {"limits": {"memory": memory}}, **more}

    pod = pod_with(
        containers=[of("a", "1Mi"), of("b", "2Mi")],
        initContainers=[of("side", "3Mi", restartPolicy="Always"), of("init", "9Mi")],
    )
    assert pod_memory(pod) == 12 << 20
    assert pod_memory(pod_with(containers=[of("a", "1Mi"), {"name": "b"}])) == 0


def test_a_pod_names_its_objects_everywhere() -> None:
    pod = pod_with(
        {"name": "a", "configMap": {"name": "c1"}},
        {
            "name": "b",
            "projected": {"sources": [{"secret": {"name": "s1"}}, {"configMap": {"name": "c2"}}]},
        },
        {"name": "c", "secret": {"secretName": "s2"}},
        containers=[
            {
                "name": "main",
                "envFrom": [{"configMapRef": {"name": "c3"}}, {"secretRef": {"name": "s3"}}],
                "env": [
                    {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s4", "key": "k"}}},
                    {"name": "B", "valueFrom": {"configMapKeyRef": {"name": "c4", "key": "k"}}},
                ],
            }
        ],
        imagePullSecrets=[{"name": "s5"}],
    )
    assert sorted(map(str, references(pod))) == [
        *(f"default/configmap/c{number}" for number in range(1, 5)),
        *(f"default/secret/s{number}" for number in range(1, 6)),
    ]


# --- mounts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "expected"),
    [("a/$(POD)/b", "a/p-0/b"), ("$$(POD)", "$(POD)"), ("$", "$"), ("$(POD)$(POD)", "p-0p-0")],
)
def test_a_sub_path_is_filled_in(text: str, expected: str) -> None:
    assert expanded(text, {"POD": "p-0"}) == expected


def test_a_variable_that_is_not_there_is_named() -> None:
    with pytest.raises(BadRequest, match="missing value for NO"):
        expanded("$(NO)", {})


@pytest.mark.parametrize("path", ["/etc", "../x", "a/../b", "a\0b"])
def test_a_sub_path_that_leads_elsewhere_is_refused(path: str) -> None:
    with pytest.raises(BadRequest, match="SubPath"):
        checked(path)


@pytest.mark.parametrize(
    ("mode", "read_only", "words"),
    [
        ("Enabled", True, "not supported by the runtime"),
        ("Enabled", False, "it is not read-only"),
        ("Wrong", True, "unknown recursive read-only mode"),
    ],
)
def test_mounts_that_are_read_only_with_all_below_are_refused(
    mode: str, read_only: bool, words: str
) -> None:
    mount = VolumeMount(name="v", mount_path="/v", read_only=read_only, recursive_read_only=mode)
    with pytest.raises((BadRequest, NotBuilt), match=words):
        check_recursive(mount)
    check_recursive(
        VolumeMount(name="v", mount_path="/v", read_only=True, recursive_read_only="IfPossible")
    )


def test_propagation_is_as_the_api_names_it() -> None:
    found = [
        propagation(VolumeMount(name="v", mount_path="/v", mount_propagation=name))
        for name in ("", "None", "HostToContainer", "Bidirectional")
    ]
    assert found == [
        Propagation.PRIVATE,
        Propagation.PRIVATE,
        Propagation.HOST_TO_CONTAINER,
        Propagation.BIDIRECTIONAL,
    ]
    with pytest.raises(BadRequest, match="invalid MountPropagation mode"):
        propagation(VolumeMount(name="v", mount_path="/v", mount_propagation="Both"))


def test_the_table_of_mounts_is_read() -> None:
    text = (
        "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw\n"
        "30 22 0:5 / /a\\040b\\134c rw - tmpfs tmpfs rw,size=1k\n"
        "broken\n"
        "31 22 0:6 / /x rw shared:2 master:1 - overlay overlay rw\n"
    )
    assert parse_mountinfo(text) == [
        MountPoint("/", "ext4"),
        MountPoint("/a b\\c", "tmpfs"),
        MountPoint("/x", "overlay"),
    ]
