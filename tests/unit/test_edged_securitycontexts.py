"""Security contexts: what of Pod and container stands, users, profiles, namespaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.pods.podspec import Pod, read_pod
from edge.pods.ports import NotYet
from edge.pods.runtime import ContainerSecurity, Image, Namespace, Namespaces, Seccomp
from edge.pods.securitycontexts import (
    READ_ONLY,
    cannot,
    container_security,
    masked_paths,
    namespaces_of,
    sandbox_security,
    sysctls_of,
)
from gateway.model.json import Json, JsonObject

PROFILES = Path("/profiles")


def pod_of(own: Json = None, of_pod: Json = None, **spec: Json) -> Pod:
    container: JsonObject = {"name": "main", "securityContext": own or {}}
    return read_pod(
        {
            "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
            "spec": {"containers": [container], "securityContext": of_pod or {}, **spec},
        }
    )


def made(
    own: Json = None, of_pod: Json = None, image: Image | None = None, target: str = ""
) -> ContainerSecurity:
    pod = pod_of(own, of_pod)
    return container_security(
        pod, pod.spec.containers[0], image, target_id=target, profiles=PROFILES
    )


def image_of(uid: int | None = None, name: str = "") -> Image:
    return Image(id="i", uid=uid, username=name)


def test_what_is_not_said_is_what_the_kubelet_takes() -> None:
    found = made()
    assert (found.run_as_user, found.run_as_group, found.no_new_privs) == (0, None, False)
    assert found.seccomp == Seccomp(kind="Unconfined")
    assert found.apparmor is None
    assert found.masked_paths == masked_paths()
    assert "/proc/kcore" in found.masked_paths
    assert found.readonly_paths == READ_ONLY


@pytest.mark.parametrize(
    ("own", "of_pod", "name", "value"),
    [
        ({"runAsUser": 5}, {"runAsUser": 6}, "run_as_user", 5),
        ({"runAsUser": 0}, {"runAsUser": 6}, "run_as_user", 0),
        ({}, {"runAsUser": 6}, "run_as_user", 6),
        ({"runAsGroup": 7}, {"runAsGroup": 8}, "run_as_group", 7),
        ({}, {"runAsGroup": 8}, "run_as_group", 8),
        ({"seLinuxOptions": {"level": "a"}}, {"seLinuxOptions": {"level": "b"}}, "selinux", {"level": "a"}),
        ({}, {"seLinuxOptions": {"level": "b"}}, "selinux", {"level": "b"}),
        ({"allowPrivilegeEscalation": False}, {}, "no_new_privs", True),
        ({"allowPrivilegeEscalation": True}, {}, "no_new_privs", False),
        ({"readOnlyRootFilesystem": True}, {}, "readonly_rootfs", True),
        ({"privileged": True}, {}, "privileged", True),
        ({"procMount": "Unmasked"}, {}, "masked_paths", ()),
        ({"procMount": "Unmasked"}, {}, "readonly_paths", ()),
        ({"capabilities": {"add": ["NET_ADMIN"]}}, {}, "capabilities_add", ("NET_ADMIN",)),
        ({"capabilities": {"drop": ["ALL"]}}, {}, "capabilities_drop", ("ALL",)),
        ({}, {"fsGroup": 1, "supplementalGroups": [3, 2]}, "supplemental_groups", (1, 3, 2)),
    ],
)  # fmt: skip
def test_the_containers_own_stands_before_the_pods(
    own: Json, of_pod: Json, name: str, value: object
) -> None:
    assert getattr(made(own, of_pod), name) == value


@pytest.mark.parametrize(
    ("image", "uid", "name"),
    [
        (None, 0, ""),
        (image_of(), 0, ""),
        (image_of(uid=0), 0, ""),
        (image_of(uid=33), 33, ""),
        (image_of(name="www"), None, "www"),
    ],
)
def test_without_a_user_the_images_stands(image: Image | None, uid: int | None, name: str) -> None:
    found = made(image=image)
    assert (found.run_as_user, found.run_as_username) == (uid, name)


WHERE = '(pod: "web_shop(u-1)", container: main)'


@pytest.mark.parametrize(
    ("own", "image", "fault"),
    [
        ({"runAsUser": 0}, image_of(5), "container's runAsUser breaks non-root policy"),
        ({"runAsUser": 1}, image_of(0), None),
        ({}, image_of(0), "container has runAsNonRoot and image will run as root"),
        ({}, image_of(), "container has runAsNonRoot and image will run as root"),
        ({}, None, "container has runAsNonRoot and image will run as root"),
        ({}, image_of(7), None),
        (
            {},
            image_of(name="www"),
            "container has runAsNonRoot and image has non-numeric user (www), cannot verify user is non-root",
        ),
    ],
)
@pytest.mark.parametrize("is_of_pod", [True, False])
def test_root_is_refused_where_it_may_not_be(
    own: JsonObject, image: Image | None, fault: str | None, *, is_of_pod: bool
) -> None:
    rule: JsonObject = {"runAsNonRoot": True}
    of_pod = rule if is_of_pod else None
    own = own if is_of_pod else {**own, **rule}
    if fault is None:
        made(own, of_pod, image)
        return
    with pytest.raises(NotYet) as refused:
        made(own, of_pod, image)
    assert (refused.value.reason, refused.value.message) == (
        "CreateContainerConfigError",
        f"{fault} {WHERE}",
    )


def test_a_container_may_take_back_its_pods_rule() -> None:
    assert made({"runAsNonRoot": False}, {"runAsNonRoot": True}).run_as_user == 0


# --- profiles -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("own", "of_pod", "expected"),
    [
        ({"type": "RuntimeDefault"}, {"type": "Unconfined"}, Seccomp(kind="RuntimeDefault")),
        (None, {"type": "RuntimeDefault"}, Seccomp(kind="RuntimeDefault")),
        ({"type": "Unconfined"}, {"type": "RuntimeDefault"}, Seccomp(kind="Unconfined")),
        (
            {"type": "Localhost", "localhostProfile": "a/b.json"},
            None,
            Seccomp(kind="Localhost", path="/profiles/a/b.json"),
        ),
    ],
)
def test_a_seccomp_profile_is_named(own: Json, of_pod: Json, expected: Seccomp) -> None:
    found = made({"seccompProfile": own}, {"seccompProfile": of_pod})
    assert found.seccomp == expected


@pytest.mark.parametrize("name", ["", "../x", "/etc/x", "a/../../x"])
def test_a_seccomp_profile_outside_of_the_folder_is_refused(name: str) -> None:
    with pytest.raises(NotYet, match="localhostProfile"):
        made({"seccompProfile": {"type": "Localhost", "localhostProfile": name}})


@pytest.mark.parametrize(
    ("own", "annotation", "of_pod", "expected"),
    [
        ({"type": "Unconfined"}, "localhost/x", None, Seccomp(kind="Unconfined")),
        (None, "localhost/x", {"type": "Unconfined"}, Seccomp(kind="Localhost", path="x")),
        (None, "runtime/default", None, Seccomp(kind="RuntimeDefault")),
        (None, "rubbish", {"type": "Unconfined"}, Seccomp(kind="Unconfined")),
        (None, None, {"type": "RuntimeDefault"}, Seccomp(kind="RuntimeDefault")),
        (None, None, None, None),
    ],
)
def test_an_apparmor_profile_is_the_nearest_that_is_said(
    own: Json, annotation: str | None, of_pod: Json, expected: Seccomp | None
) -> None:
    key = "container.apparmor.security.beta.kubernetes.io/main"
    container: JsonObject = {"name": "main", "securityContext": {"appArmorProfile": own}}
    pod = read_pod(
        {
            "metadata": {"annotations": {key: annotation} if annotation else {}},
            "spec": {"containers": [container], "securityContext": {"appArmorProfile": of_pod}},
        }
    )
    found = container_security(pod, pod.spec.containers[0], None, profiles=PROFILES)
    assert found.apparmor == expected


@pytest.mark.parametrize("profile", [{"type": "Localhost"}, {"type": "Else"}])
def test_an_apparmor_profile_without_sense_is_refused(profile: Json) -> None:
    with pytest.raises(NotYet, match="apparmor profile"):
        made({"appArmorProfile": profile})


# --- namespaces -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "target", "expected"),
    [
        ({}, "", Namespaces()),
        ({"hostNetwork": True}, "", Namespaces(network=Namespace.NODE)),
        ({"hostIPC": True}, "", Namespaces(ipc=Namespace.NODE)),
        ({"hostPID": True}, "c1", Namespaces(pid=Namespace.NODE)),
        ({"shareProcessNamespace": True}, "c1", Namespaces(pid=Namespace.POD)),
        ({}, "c1", Namespaces(pid=Namespace.TARGET, target_id="c1")),
    ],
)
def test_namespaces_are_shared_as_said(
    spec: dict[str, Json], target: str, expected: Namespaces
) -> None:
    assert namespaces_of(pod_of(**spec), target) == expected


def test_a_sandbox_runs_with_the_pods_user_and_the_least_profile() -> None:
    found = sandbox_security(pod_of(None, {"runAsUser": 3, "runAsGroup": 4, "fsGroup": 5}))
    assert (found.run_as_user, found.run_as_group) == (3, 4)
    assert found.supplemental_groups == (5,)
    assert found.seccomp == Seccomp(kind="RuntimeDefault")
    assert found.privileged is False
    assert sandbox_security(pod_of({"privileged": True})).privileged is True


def test_a_sandbox_has_no_group_without_a_user() -> None:
    assert sandbox_security(pod_of(None, {"runAsGroup": 4})).run_as_group is None


def test_sysctls_are_told() -> None:
    of_pod: JsonObject = {"sysctls": [{"name": "net.ipv4.ip_forward", "value": "1"}]}
    assert sysctls_of(pod_of(None, of_pod)) == {"net.ipv4.ip_forward": "1"}


def test_what_no_runtime_is_asked_for_is_named() -> None:
    assert cannot(pod_of()) is None
    assert cannot(pod_of(hostUsers=True)) is None
    assert "hostUsers" in (cannot(pod_of(hostUsers=False)) or "")
    strict: JsonObject = {"supplementalGroupsPolicy": "Strict"}
    assert "SupplementalGroupsPolicy=Strict" in (cannot(pod_of(None, strict)) or "")
