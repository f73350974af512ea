"""How Pods are completed and judged, and their templates. Expectations were read off a real server, 1.36."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.model.json import Json, JsonObject
from gateway.wire.kube.pods import pod_faults, prepare_pod, qos_class


def pod(spec: JsonObject | None = None, **container: Any) -> JsonObject:
    own: JsonObject = {"name": "c", "image": "busybox", **container}
    item: JsonObject = {"metadata": {"name": "p"}, "spec": {"containers": [own], **(spec or {})}}
    prepare_pod(item, None)
    return item


def faults(spec: JsonObject | None = None, **container: Any) -> list[tuple[str, str]]:
    found = pod_faults(pod(spec, **container), None)
    return [(cause.field.removeprefix("spec."), cause.message) for cause in found]


def volume(**source: Json) -> JsonObject:
    return {"volumes": [{"name": "v", **source}]}


def test_a_pod_that_says_nothing_is_completed() -> None:
    spec: Any = pod()["spec"]
    (container,) = spec.pop("containers")
    assert container == {
        "name": "c",
        "image": "busybox",
        "resources": {},
        "terminationMessagePath": "/dev/termination-log",
        "terminationMessagePolicy": "File",
        "imagePullPolicy": "Always",
    }
    away = [
        {
            "key": f"node.kubernetes.io/{word}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 300,
        }
        for word in ("not-ready", "unreachable")
    ]
    assert spec == {
        "restartPolicy": "Always",
        "dnsPolicy": "ClusterFirst",
        "schedulerName": "default-scheduler",
        "terminationGracePeriodSeconds": 30,
        "securityContext": {},
        "enableServiceLinks": True,
        "serviceAccountName": "default",
        "serviceAccount": "default",
        "priority": 0,
        "preemptionPolicy": "PreemptLowerPriority",
        "tolerations": away,
    }


def test_a_pod_that_bears_everything_needs_no_further_tolerations() -> None:
    spec: Any = pod({"tolerations": [{"operator": "Exists"}]})["spec"]
    assert spec["tolerations"] == [{"operator": "Exists"}]


def test_probes_and_hooks_are_completed() -> None:
    made: Any = pod(
        livenessProbe={"httpGet": {"port": 80}},
        startupProbe={"grpc": {"port": 9}},
        lifecycle={"preStop": {"httpGet": {"port": 80}}},
    )["spec"]
    container = made["containers"][0]
    times = {"timeoutSeconds": 1, "periodSeconds": 10, "successThreshold": 1, "failureThreshold": 3}
    http = {"port": 80, "path": "/", "scheme": "HTTP"}
    assert container["livenessProbe"] == {"httpGet": http, **times}
    assert container["startupProbe"] == {"grpc": {"port": 9, "service": ""}, **times}
    assert container["lifecycle"] == {"preStop": {"httpGet": http}}


@pytest.mark.parametrize(
    ("given", "whole"),
    [
        ({}, {"emptyDir": {}}),
        ({"hostPath": {"path": "/x"}}, {"hostPath": {"path": "/x", "type": ""}}),
        ({"configMap": {"name": "c"}}, {"configMap": {"name": "c", "defaultMode": 420}}),
        (
            {"image": {"reference": "a:1"}},
            {"image": {"reference": "a:1", "pullPolicy": "IfNotPresent"}},
        ),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {
                "projected": {
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
                    "defaultMode": 420,
                }
            },
        ),
    ],
)
def test_volumes_are_completed(given: JsonObject, whole: JsonObject) -> None:
    spec: Any = pod(volume(**given))["spec"]
    assert spec["volumes"] == [{"name": "v", **whole}]


def test_limits_stand_in_for_what_is_asked_for() -> None:
    spec: Any = pod(resources={"limits": {"cpu": "1", "memory": "1Gi"}})["spec"]
    assert spec["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}
    assert qos_class(spec) == "Guaranteed"


@pytest.mark.parametrize(
    ("resources", "expected"),
    [
        ({}, "BestEffort"),
        ({"requests": {"cpu": "0"}}, "BestEffort"),
        ({"requests": {"example.com/gpu": "1"}}, "BestEffort"),
        ({"requests": {"cpu": "100m"}}, "Burstable"),
        ({"limits": {"cpu": "1", "memory": "1000"}, "requests": {"cpu": "1000m", "memory": "1k"}},
         "Guaranteed"),
    ],
)  # fmt: skip
def test_the_class_of_service_follows_amounts(resources: JsonObject, expected: str) -> None:
    assert qos_class({"containers": [{"name": "c", "resources": resources}]}) == expected


UNSUPPORTED = "Unsupported value: {}: supported values: {}"
CASES: list[tuple[JsonObject, JsonObject, list[tuple[str, str]]]] = [
    ({"containers": []}, {}, [("containers", "Required value")]),
    ({}, {"image": " x"}, [("containers[0].image",
        'Invalid value: " x": must not have leading or trailing whitespace')]),
    ({"restartPolicy": "X"}, {}, [("restartPolicy",
        'Unsupported value: "X": supported values: "Always", "OnFailure", "Never"')]),
    ({"dnsPolicy": "None"}, {}, [("dnsConfig",
        "Required value: must provide `dnsConfig` when `dnsPolicy` is None")]),
    ({}, {"ports": [{"containerPort": 0}]}, [("containers[0].ports[0].containerPort",
        "Required value")]),
    ({}, {"ports": [{"containerPort": 1, "name": "a", "protocol": "TCP"},
                    {"containerPort": 2, "name": "a", "protocol": "TCP"}]},
        [("containers[0].ports[1].name", 'Duplicate value: "a"')]),
    ({}, {"env": [{"name": "="}]}, [("containers[0].env[0].name",
        'Invalid value: "=": a valid environment variable name must consist only of printable ASCII'
        " characters other than '='")]),
    ({}, {"envFrom": [{"prefix": "a"}]}, [("containers[0].envFrom",
        'Invalid value: "": must specify one of: `configMapRef` or `secretRef`')]),
    ({}, {"volumeMounts": [{"name": "v", "mountPath": ""}]}, [
        ("containers[0].volumeMounts[0].name", 'Not found: "v"'),
        ("containers[0].volumeMounts[0].mountPath", "Required value")]),
    (volume(emptyDir={}, hostPath={"path": "/"}), {}, [("volumes[0].hostPath",
        "Forbidden: may not specify more than 1 volume type")]),
    (volume(secret={"defaultMode": 1000}), {}, [
        ("volumes[0].secret.secretName", "Required value"),
        ("volumes[0].secret.defaultMode",
         "Invalid value: 1000: must be a number between 0 and 0777 (octal), both inclusive")]),
    ({}, {"resources": {"requests": {"cpu": "2"}, "limits": {"cpu": "1"}}}, [
        ("containers[0].resources.requests",
         'Invalid value: "2": must be less than or equal to cpu limit of 1')]),
    ({}, {"livenessProbe": {"periodSeconds": -1}}, [
        ("containers[0].livenessProbe", "Required value: must specify a handler type"),
        ("containers[0].livenessProbe.periodSeconds",
         "Invalid value: -1: must be greater than or equal to 0")]),
    ({}, {"readinessProbe": {"exec": {"command": ["a"]}, "tcpSocket": {"port": 1}}}, [
        ("containers[0].readinessProbe.tcpSocket",
         "Forbidden: may not specify more than 1 handler type")]),
    ({"tolerations": [{"key": "a", "operator": "X"}]}, {}, [("tolerations[0].operator",
        'Unsupported value: "X": supported values: "Equal", "Exists"')]),
    ({"topologySpreadConstraints": [{"maxSkew": 0, "topologyKey": "z",
        "whenUnsatisfiable": "DoNotSchedule"}]}, {}, [
        ("topologySpreadConstraints[0].maxSkew",
         "Invalid value: 0: must be greater than zero")]),
    ({"hostNetwork": True}, {"ports": [{"containerPort": 80, "hostPort": 81, "protocol": "TCP"}]}, [
        ("containers[0].ports[0].hostPort",
         "Invalid value: 81: must match `containerPort` when `hostNetwork` is true")]),
    ({"ephemeralContainers": [{"name": "e", "image": "x"}]}, {}, [("ephemeralContainers",
        "Forbidden: cannot be set on create")]),
    ({"initContainers": [{"name": "i", "image": "x", "readinessProbe": {"tcpSocket": {"port": 1}}}]},
        {}, [("initContainers[0].readinessProbe",
        "Forbidden: may not be set for init containers without restartPolicy=Always")]),
    ({"securityContext": {"seccompProfile": {"type": "Localhost"}}}, {}, [
        ("securityContext.seccompProfile.localhostProfile",
         "Required value: must be set when seccomp type is Localhost")]),
    ({"hostPID": True, "securityContext": {}, "shareProcessNamespace": True}, {}, [
        ("securityContext.shareProcessNamespace",
         "Invalid value: true: ShareProcessNamespace and HostPID cannot both be enabled")]),
]  # fmt: skip


@pytest.mark.parametrize(("spec", "container", "expected"), CASES)
def test_a_fault_is_named(
    spec: JsonObject, container: JsonObject, expected: list[tuple[str, str]]
) -> None:
    completed = [
        {"protocol": "TCP", **port} if isinstance(port, dict) else port
        for port in container.get("ports") or []  # type: ignore[union-attr]  # rows of a table
    ]
    parts: dict[str, Any] = {**container, **({"ports": completed} if completed else {})}
    assert faults(spec, **parts) == expected


def changed(change: JsonObject, **container: Any) -> list[str]:
    before = pod()
    after = pod({**change}, **container)
    return [cause.field for cause in pod_faults(after, before)]


def test_of_a_pod_its_images_and_its_deadline_may_change() -> None:
    assert changed({}, image="busybox:1", imagePullPolicy="Always") == []
    assert changed({"activeDeadlineSeconds": 5}) == []
    assert changed({"terminationGracePeriodSeconds": 5}) == ["spec"]
    assert changed({}, command=["x"]) == ["spec"]
    assert changed({"nodeName": "n"}) == ["spec"]


def test_a_deadline_does_not_move_away() -> None:
    near, far = pod({"activeDeadlineSeconds": 5}), pod({"activeDeadlineSeconds": 6})
    assert [cause.field for cause in pod_faults(far, near)] == ["spec.activeDeadlineSeconds"]
    assert pod_faults(near, far) == []


def test_tolerations_come_and_do_not_go() -> None:
    borne: JsonObject = {"key": "a", "operator": "Exists"}
    with_it, without = pod({"tolerations": [borne]}), pod()
    assert pod_faults(with_it, without) == []
    assert [cause.field for cause in pod_faults(without, with_it)] == ["spec.tolerations"]
