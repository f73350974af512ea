"""Environments: where values come from, who hides whom, what is missing, expansion, Services, files."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from edge.pods.environment import (
    CONFIG_MAP,
    SECRET,
    Reference,
    Surroundings,
    environment,
    expand,
    expand_all,
    references,
    service_variables,
    variable_of,
)
from edge.pods.podspec import FileKeyRef, Pod, read_pod
from edge.pods.ports import NotYet
from gateway.errors import BadRequest
from gateway.model.json import Json, JsonObject

SETTINGS, KEYS = Reference(CONFIG_MAP, "settings"), Reference(SECRET, "keys")
OBJECTS: dict[Reference, JsonObject] = {
    SETTINGS: {"data": {"COLOUR": "red", "size": "9"}, "binaryData": {"raw": "AA=="}},
    KEYS: {"data": {"TOKEN": "c2VjcmV0", "blob": "/w==", "wrong": "%"}},
}


def pod_of(container: JsonObject, **spec: Json) -> Pod:
    meta: JsonObject = {"name": "web", "namespace": "shop", "uid": "u-1"}
    return read_pod(
        {"metadata": meta, "spec": {"containers": [{"name": "main", **container}], **spec}}
    )


def envs_of(
    env: list[Json] | None = None,
    env_from: list[Json] | None = None,
    around: Surroundings | None = None,
) -> dict[str, str]:
    pod = pod_of({"env": env or [], "envFrom": env_from or []})
    return environment(pod, pod.spec.containers[0], around or Surroundings(objects=OBJECTS))


def key_of(kind: str, name: str, key: str, **more: Json) -> JsonObject:
    return {"name": "X", "valueFrom": {kind: {"name": name, "key": key, **more}}}


# --- values ---------------------------------------------------------------------------------------


def test_variables_are_there_in_the_order_they_are_declared() -> None:
    assert list(envs_of([{"name": "B", "value": "1"}, {"name": "A"}]).items()) == [
        ("B", "1"),
        ("A", ""),
    ]


def test_a_whole_object_comes_first_and_with_its_prefix() -> None:
    found = envs_of(
        [{"name": "COLOUR", "value": "blue"}],
        [{"prefix": "P_", "configMapRef": {"name": "settings"}}, {"configMapRef": {"name": "settings"}}],
    )  # fmt: skip
    assert found == {"P_COLOUR": "red", "P_size": "9", "COLOUR": "blue", "size": "9"}


@pytest.mark.parametrize(
    ("source", "value"),
    [
        (key_of("configMapKeyRef", "settings", "COLOUR"), "red"),
        (key_of("secretKeyRef", "keys", "TOKEN"), "secret"),
        ({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}, "web"),
        ({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}}, "10.1.2.3"),
        ({"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}, "192.168.0.7"),
        ({"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "limits.cpu"}}}, "4"),
    ],
)
def test_a_value_comes_from_where_it_is_said(source: Json, value: str) -> None:
    around = Surroundings(
        objects=OBJECTS,
        pod_ips=("10.1.2.3",),
        host_ips=("192.168.0.7",),
        allocatable={"cpu": "4"},
    )
    assert envs_of([source], around=around) == {"X": value}


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (key_of("configMapKeyRef", "gone", "k"), 'configmap "gone" not found'),
        (key_of("secretKeyRef", "gone", "k"), 'secret "gone" not found'),
        (
            key_of("configMapKeyRef", "settings", "k"),
            "couldn't find key k in ConfigMap shop/settings",
        ),
        (key_of("configMapKeyRef", "settings", "raw"), "couldn't find key raw in ConfigMap"),
        (key_of("secretKeyRef", "keys", "k"), "couldn't find key k in Secret shop/keys"),
        (key_of("secretKeyRef", "keys", "blob"), "key blob of Secret keys is no text"),
        (key_of("secretKeyRef", "keys", "wrong"), "key wrong of Secret keys is no text"),
        (
            {"name": "X", "valueFrom": {"fieldRef": {"fieldPath": "spec.x"}}},
            "field label not supported: spec.x",
        ),
        (
            {"name": "X", "valueFrom": {"resourceFieldRef": {"resource": "x"}}},
            "unsupported container resource : x",
        ),
    ],
)
def test_what_must_be_there_and_is_not_holds_the_container_up(source: Json, words: str) -> None:
    with pytest.raises(NotYet) as missing:
        envs_of([source])
    assert missing.value.reason == "CreateContainerConfigError"
    assert missing.value.message.startswith(words)


@pytest.mark.parametrize("kind", ["configMapRef", "secretRef"])
def test_a_whole_object_that_is_not_there_holds_up_unless_it_is_optional(kind: str) -> None:
    assert envs_of([], [{kind: {"name": "gone", "optional": True}}]) == {}
    with pytest.raises(NotYet, match='"gone" not found'):
        envs_of([], [{kind: {"name": "gone"}}])


def test_an_optional_value_that_is_not_there_leaves_what_was_there() -> None:
    absent = key_of("secretKeyRef", "gone", "k", optional=True)
    no_key = key_of("configMapKeyRef", "settings", "k", optional=True)
    assert envs_of([{"name": "X", "value": "kept"}, absent, no_key]) == {"X": "kept"}


def test_objects_are_named_once_in_the_order_they_are_read() -> None:
    pod = pod_of(
        {
            "envFrom": [{"secretRef": {"name": "keys"}}, {"prefix": "x"}],
            "env": [
                key_of("configMapKeyRef", "settings", "a"),
                key_of("secretKeyRef", "keys", "b"),
                {
                    "name": "Y",
                    "value": "v",
                    "valueFrom": {"secretKeyRef": {"name": "un", "key": "k"}},
                },
            ],
        }
    )
    assert references(pod.spec.containers[0]) == [KEYS, SETTINGS]


# --- expansion ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "expanded"),
    [
        ("$(A)", "1"),
        ("$(B)", "2"),
        ("$(NO)", "$(NO)"),
        ("$$(A)", "$(A)"),
        ("$$$(A)", "$1"),
        ("$$$$(A)", "$$(A)"),
        ("$", "$"),
        ("$A $( $(A", "$A $( $(A"),
        ("$()", "$()"),
        ("$($(A))", "$($(A))"),
        ("a$(A)b$(A)", "a1b1"),
        ("$(A\n)", "$(A\n)"),
    ],
)
def test_references_are_expanded(value: str, expanded: str) -> None:
    assert expand(value, {"A": "1"}, {"A": "hidden", "B": "2"}) == expanded


def _walked(value: str, table: dict[str, str]) -> str:
    """The rule as the walk over marks that it is defined by."""
    out, at = "", 0
    while at < len(value):
        mark, rest = value[at], value[at + 1 :]
        if mark != "$" or not rest:
            out, at = out + mark, at + 1
        elif rest[0] == "$":
            out, at = out + "$", at + 2
        elif rest[0] == "(" and ")" in rest:
            name = rest[1 : rest.index(")")]
            out, at = out + table.get(name, f"$({name})"), at + len(name) + 3
        else:
            out, at = out + mark + rest[0], at + 2
    return out


@given(st.text(alphabet="$()AB\n"))
@example("$($$)")
def test_expansion_is_the_walk_over_marks(value: str) -> None:
    table = {"A": "one", "": "empty", "$$": "dollars"}
    assert expand(value, table) == _walked(value, table)


def test_a_variable_sees_those_before_it_and_services() -> None:
    around = Surroundings(services={"HOST": "10.0.0.1", "A": "service"})
    env: list[Json] = [
        {"name": "B", "value": "$(A)$(C)"},
        {"name": "A", "value": "own"},
        {"name": "C", "value": "$(A)@$(HOST)"},
    ]
    assert envs_of(env, around=around) == {
        "B": "service$(C)",
        "A": "own",
        "C": "own@10.0.0.1",
        "HOST": "10.0.0.1",
    }


def test_commands_are_expanded() -> None:
    assert expand_all(["sh", "-c", "echo $(A) $$(A) $A"], {"A": "1"}) == (
        "sh",
        "-c",
        "echo 1 $(A) $A",
    )


# --- services -------------------------------------------------------------------------------------


def service(name: str, namespace: str, address: str, *ports: JsonObject) -> JsonObject:
    meta: JsonObject = {"name": name, "namespace": namespace}
    return {"metadata": meta, "spec": {"clusterIP": address, "ports": list(ports)}}


SERVICES = [
    service("kubernetes", "default", "10.96.0.1", {"name": "https", "port": 443}),
    service(
        "red-db", "shop", "10.96.0.7", {"port": 5432}, {"name": "m-1", "port": 9, "protocol": "UDP"}
    ),
    service("v6", "shop", "fd00::7", {"port": 80}),
    service("headless", "shop", "None", {"port": 80}),
    service("named", "shop", "", {"port": 80}),
    service("foreign", "other", "10.96.0.8", {"port": 80}),
]


def test_services_of_the_namespace_are_told_with_all_their_ports() -> None:
    found = service_variables(SERVICES, "shop", has_links=True)
    assert {key: value for key, value in found.items() if key.startswith("RED_DB")} == {
        "RED_DB_SERVICE_HOST": "10.96.0.7",
        "RED_DB_SERVICE_PORT": "5432",
        "RED_DB_SERVICE_PORT_M_1": "9",
        "RED_DB_PORT": "tcp://10.96.0.7:5432",
        "RED_DB_PORT_5432_TCP": "tcp://10.96.0.7:5432",
        "RED_DB_PORT_5432_TCP_PROTO": "tcp",
        "RED_DB_PORT_5432_TCP_PORT": "5432",
        "RED_DB_PORT_5432_TCP_ADDR": "10.96.0.7",
        "RED_DB_PORT_9_UDP": "udp://10.96.0.7:9",
        "RED_DB_PORT_9_UDP_PROTO": "udp",
        "RED_DB_PORT_9_UDP_PORT": "9",
        "RED_DB_PORT_9_UDP_ADDR": "10.96.0.7",
    }
    assert found["V6_PORT"] == "tcp://[fd00::7]:80"
    assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.1"
    assert {key.split("_")[0] for key in found} == {"RED", "V6", "KUBERNETES"}


def test_without_links_only_the_api_is_told() -> None:
    found = service_variables(SERVICES, "shop", has_links=False)
    assert found["KUBERNETES_SERVICE_PORT_HTTPS"] == "443"
    assert all(key.startswith("KUBERNETES_") for key in found)


def test_a_service_of_the_own_namespace_goes_before_the_api_of_that_name() -> None:
    own = service("kubernetes", "shop", "10.96.0.9", {"port": 1})
    for order in ([own, *SERVICES], [*SERVICES, own]):
        found = service_variables(order, "shop", has_links=True)
        assert found["KUBERNETES_SERVICE_HOST"] == "10.96.0.9"


# --- files ----------------------------------------------------------------------------------------

FILE = "# a comment\n\n  A='one'  # why\nB='two\nlines'\nC= 'x'\nD=''\n"


@pytest.mark.parametrize(
    ("key", "value"), [("A", "one"), ("B", "two\nlines"), ("C", ""), ("D", ""), ("E", "")]
)
def test_a_variable_of_a_file_is_found(key: str, value: str) -> None:
    assert variable_of(FILE, key) == value


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("A", "at line 1: missing '='"),
        ("\n='x'", "at line 2: empty variable name"),
        ("A ='x'", "at line 1: whitespace before '=' is not allowed"),
        ("A=x", "at line 1: value must be enclosed in single quotes"),
        ("A='x' y", "at line 1: unexpected content after closing quote"),
        ("A='x\n\n", "starting at line 1: unclosed single quote"),
    ],
)
def test_a_file_of_another_form_is_refused(content: str, words: str) -> None:
    with pytest.raises(BadRequest) as refused:
        variable_of(content, "Z")
    assert words in refused.value.message


def test_a_key_of_a_file_holds_up_when_it_is_not_there() -> None:
    def read(ref: FileKeyRef) -> str:
        return FILE if ref.path == "env" else "broken"

    around = Surroundings(read_file=read)

    def asked(**ref: Json) -> JsonObject:
        return {"name": "X", "valueFrom": {"fileKeyRef": {"volumeName": "v", **ref}}}

    assert envs_of([asked(path="env", key="A")], around=around) == {"X": "one"}
    assert envs_of([asked(path="env", key="E", optional=True)], around=around) == {}
    with pytest.raises(NotYet, match='environment variable key "E" not found in file "env"'):
        envs_of([asked(path="env", key="E")], around=around)
    with pytest.raises(NotYet, match="couldn't parse env file"):
        envs_of([asked(path="other", key="E")], around=around)
    with pytest.raises(NotYet, match='cannot find the volume "v" referenced by FileKeyRef'):
        envs_of([asked(path="env", key="E")])
