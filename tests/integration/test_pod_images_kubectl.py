"""Images of Pods as kubectl shows them: pull secrets, refusals, back-off, pre-pull jobs, old runs."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from cri_api.v1 import api_pb2

from tests.containerd import Containerd
from tests.containerd import containerd as containerd
from tests.ociimages import PASSWORD, USER, busybox
from tests.pods_e2e import NODE, PodsCluster, pods_cluster


@pytest.fixture(scope="module")
def cluster(
    containerd: Containerd, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[PodsCluster]:
    with pods_cluster(tmp_path_factory.mktemp("pods"), containerd) as found:
        yield found


def apply(cluster: PodsCluster, name: str, image: str, **spec: Any) -> None:
    container = {"name": "c", "image": image, "command": ["sleep", "1000"]}
    container |= spec.pop("container", {})
    cluster.apply(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Pod",
                "metadata": {"name": name},
                "spec": {
                    "terminationGracePeriodSeconds": 0,
                    "containers": [container],
                    **spec,
                },
            }
        )
    )


def waiting(cluster: PodsCluster, name: str) -> dict[str, str]:
    found: dict[str, str] = cluster.status(name).get("state", {}).get("waiting", {})
    return found


def until_reason(cluster: PodsCluster, name: str, reason: str) -> str:
    cluster.until(lambda: waiting(cluster, name).get("reason") == reason, f"{name}: {reason}")
    return waiting(cluster, name).get("message", "")


def reasons(cluster: PodsCluster, name: str) -> set[str]:
    said = cluster.kubectl(
        "get",
        "events",
        f"--field-selector=involvedObject.name={name}",
        "-o",
        "jsonpath={.items[*].reason}",
    )
    return set(said.split())


def test_a_private_image_runs_with_a_pull_secret(cluster: PodsCluster) -> None:
    registry = cluster.containerd.registry
    cluster.kubectl(
        "create",
        "secret",
        "docker-registry",
        "pull",
        f"--docker-server={registry.host}",
        f"--docker-username={USER}",
        f"--docker-password={PASSWORD}",
    )
    image = registry.name("private/busybox")
    apply(cluster, "private", image, imagePullSecrets=[{"name": "pull"}])
    cluster.until_running("private")
    assert cluster.status("private")["image"] == image
    cluster.until(lambda: "Pulled" in reasons(cluster, "private"), "events")
    cluster.kubectl("delete", "pod", "private")


def test_an_image_that_cannot_be_had_says_why_and_waits(cluster: PodsCluster) -> None:
    image = cluster.containerd.image("nothing")
    apply(cluster, "lost", image)
    message = until_reason(cluster, "lost", "ImagePullBackOff")
    assert message.startswith(f'Back-off pulling image "{image}": ErrImagePull: ')
    assert "not found" in message
    cluster.until(
        lambda: {"Pulling", "Failed", "BackOff"} <= reasons(cluster, "lost"), "its events"
    )
    assert cluster.phase("lost") == "Pending"
    cluster.kubectl("delete", "pod", "lost")


@pytest.mark.parametrize(
    ("name", "image", "policy", "reason"),
    [
        ("never", "nothing", "Never", "ErrImageNeverPull"),
        ("misnamed", "UPPER", "IfNotPresent", "InvalidImageName"),
    ],
)
def test_what_can_never_be_pulled_says_so(
    cluster: PodsCluster, name: str, image: str, policy: str, reason: str
) -> None:
    apply(
        cluster,
        name,
        cluster.containerd.image(image),
        container={"imagePullPolicy": policy},
    )
    until_reason(cluster, name, reason)
    cluster.kubectl("delete", "pod", name)
    cluster.until_gone(name)


def test_a_pre_pull_job_of_kubectl_has_its_image_on_the_node(cluster: PodsCluster) -> None:
    image = cluster.containerd.image("busybox-web")
    job = {
        "apiVersion": "operations.kubeedge.io/v1alpha2",
        "kind": "ImagePrePullJob",
        "metadata": {"name": "ahead"},
        "spec": {
            "imagePrePullTemplate": {
                "images": [image],
                "nodeNames": [NODE],
                "checkItems": [],
                "failureTolerate": "0",
                "concurrency": 1,
                "timeoutSeconds": 60,
            }
        },
    }
    cluster.apply(json.dumps(job))
    cluster.until(
        lambda: (
            cluster.get("imageprepulljob", "ahead").get("status", {}).get("phase") == "Completed"
        ),
        "the job is done",
    )
    assert any(each.startswith("busybox-web:") for each in cluster.containerd.registry.pulls)


def test_a_pull_that_edgecore_is_killed_in_is_begun_again(cluster: PodsCluster) -> None:
    registry = cluster.containerd.registry
    registry.images["big:1"] = busybox(extra=os.urandom(200_000))
    registry.held["big"] = threading.Event()
    apply(cluster, "killed", registry.name("big"))
    cluster.until(lambda: any(each.startswith("big:") for each in registry.pulls), "the pull")
    cluster.process.kill()
    registry.held.pop("big").set()
    cluster.process.start()
    cluster.until_running("killed")
    with cluster.containerd.calls() as calls:
        boxes = calls.ListPodSandbox(api_pb2.ListPodSandboxRequest()).items
    assert [each.metadata.name for each in boxes].count("killed") == 1
    cluster.kubectl("delete", "pod", "killed")
    cluster.until_gone("killed")
