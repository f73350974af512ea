"""What is shipped to deploy Twinspan: chart, manifests, units, container and Compose files."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from edge.hardwarechecks import LIBRARIES
from edge.mappers.zigbee.plan import RADIOS
from gateway.cli import exposure
from gateway.config.loading import load
from gateway.kube.credentials import ACCOUNT
from gateway.runtime import users
from tests.kubectl import find_helm

ROOT = Path(__file__).parent.parent.parent
DEPLOY = ROOT / "deploy"
CHART = DEPLOY / "helm" / "twinspan"
SERVED = "1.36"
VARIANTS: dict[str, tuple[str, ...]] = {
    "as it comes": (),
    "all in one Pod": ("gateway.enabled=false",),
    "gateway alone, own certificate": (
        "cloudcore.enabled=false",
        "gateway.tls.existingSecret=tls",
        "gateway.persistence.enabled=false",
    ),
    "monitored": (
        "serviceMonitor.enabled=true",
        "monitoring.dashboards.enabled=true",
        "monitoring.rules.operator=true",
        "monitoring.rules.configMap=true",
        "monitoring.rules.runbooks=https://wiki.example.org/",
    ),
    "everything said": (
        "serviceMonitor.enabled=true",
        "cloudcore.advertise={cloud.example.org,192.0.2.7}",
        "cloudcore.service.loadBalancerClass=example.org/lb",
        "networkPolicy.gatewayFrom[0].podSelector.matchLabels.app=shop",
        "imagePullSecrets[0].name=pull",
        "gateway.settings.hono.mqtt.max_connections=5",
        "gateway.priorityClassName=high",
        "gateway.nodeSelector.disk=ssd",
    ),
}


@pytest.fixture(scope="module")
def helm() -> Path:
    found = find_helm()
    if found is None:
        pytest.skip("NOT RUN: no helm, neither of the wheels (scripts/python.sh peers) nor here")
    return found


def rendered(helm: Path, *sets: str, namespace: str = "kubeedge") -> list[dict[str, Any]]:
    flags = [flag for text in sets for flag in ("--set", text)]
    ran = subprocess.run(
        [helm, "template", "twinspan", CHART, "--namespace", namespace, *flags],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    return [document for document in yaml.safe_load_all(ran.stdout) if document]


def of_kind(documents: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {each["metadata"]["name"]: each for each in documents if each["kind"] == kind}


@pytest.mark.parametrize("variant", VARIANTS)
def test_the_chart_makes_what_the_kubernetes_schema_takes(helm: Path, variant: str) -> None:
    validate = import_module("kubernetes_validate").validate
    documents = rendered(helm, *VARIANTS[variant])
    assert documents
    for document in documents:
        if document["apiVersion"] != "monitoring.coreos.com/v1":  # the Prometheus operator's
            validate(document, SERVED, strict=True)


def test_the_chart_is_linted_and_refuses_values_that_it_does_not_know(helm: Path) -> None:
    subprocess.run([helm, "lint", "--strict", CHART], check=True, capture_output=True)
    wrong = subprocess.run(
        [helm, "template", "x", CHART, "--set", "gatway.enabled=false"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert wrong.returncode != 0
    assert "gatway" in wrong.stderr


@pytest.mark.parametrize("variant", VARIANTS)
def test_settings_of_the_chart_are_settings_and_may_start(
    helm: Path, variant: str, tmp_path: Path
) -> None:
    documents = rendered(helm, *VARIANTS[variant])
    maps = of_kind(documents, "ConfigMap")
    found = {name: each for name, each in maps.items() if "settings.yaml" in each["data"]}
    assert found
    for name, document in found.items():
        file = tmp_path / f"{name}.yaml"
        file.write_text(document["data"]["settings.yaml"])
        settings = load(file, environ={})
        exposure.check(settings)
        assert settings.data_dir == Path("/var/lib/twinspan")


def test_ports_of_containers_services_and_policies_meet(helm: Path) -> None:
    for sets in VARIANTS.values():
        documents = rendered(helm, *sets)
        pods = [each["spec"]["template"] for each in of_kind(documents, "Deployment").values()]
        for service in of_kind(documents, "Service").values():
            selected = [pod for pod in pods if selects(service["spec"]["selector"], pod)]
            assert selected, service["metadata"]["name"]
            for pod in selected:
                names = {port["name"] for port in pod["spec"]["containers"][0]["ports"]}
                assert {port["targetPort"] for port in service["spec"]["ports"]} <= names
        for policy in of_kind(documents, "NetworkPolicy").values():
            (pod,) = (p for p in pods if selects(policy["spec"]["podSelector"]["matchLabels"], p))
            opened = {p["port"] for rule in policy["spec"]["ingress"] for p in rule["ports"]}
            assert opened == {port["name"] for port in pod["spec"]["containers"][0]["ports"]}


def selects(labels: dict[str, str], pod: dict[str, Any]) -> bool:
    known: dict[str, str] = pod["metadata"]["labels"]
    return labels.items() <= known.items()


def test_containers_run_without_rights(helm: Path) -> None:
    for deployment in of_kind(rendered(helm), "Deployment").values():
        pod = deployment["spec"]["template"]["spec"]
        container = pod["containers"][0]
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert container["securityContext"]["readOnlyRootFilesystem"] is True
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert set(container) >= {"livenessProbe", "readinessProbe", "startupProbe", "resources"}


def test_credentials_of_the_chart_are_read_by_the_program(helm: Path, tmp_path: Path) -> None:
    secret = of_kind(rendered(helm), "Secret")["twinspan-credentials"]["stringData"]
    file = tmp_path / "credentials.json"
    file.write_text(secret["credentials.json"])
    known, is_new = users.load_or_create(tmp_path, demo=False, file=file)
    assert not is_new
    assert known.ditto == {"ditto": secret["ditto-password"]}
    assert set(known.registry) == {"hono-client"}


def test_the_roles_of_chart_and_plain_manifest_are_the_same(helm: Path) -> None:
    plain = list(yaml.safe_load_all((DEPLOY / "rbac" / "cloudcore.yaml").read_text("utf-8")))
    for kind in ("ClusterRole", "Role"):
        (ours,) = of_kind(plain, kind).values()
        (charts,) = of_kind(rendered(helm), kind).values()
        assert ours["rules"] == charts["rules"]
    assert ACCOUNT.name == "serviceaccount"  # what CloudCore takes in a Pod


def test_the_chart_carries_the_definitions_of_the_program(helm: Path) -> None:
    charts = of_kind(rendered(helm), "CustomResourceDefinition")
    folder = ROOT / "gateway" / "kube" / "data" / "crds"
    ours = [yaml.safe_load(file.read_text("utf-8")) for file in sorted(folder.glob("*.yaml"))]
    assert {each["metadata"]["name"]: each["spec"] for each in ours} == {
        name: document["spec"] for name, document in charts.items()
    }


def test_the_plain_manifest_is_what_the_chart_makes(helm: Path, tmp_path: Path) -> None:
    script = ROOT / "scripts" / "manifests.sh"
    subprocess.run([script, helm, tmp_path], check=True)
    made = (tmp_path / "twinspan.yaml").read_text("utf-8")
    kept = (DEPLOY / "manifests" / "twinspan.yaml").read_text("utf-8")
    # Helm's versions differ in empty lines between documents
    found = [list(yaml.safe_load_all(each)) for each in (made, kept)]
    assert found[0] == found[1], "run scripts/manifests.sh"


# --- systemd --------------------------------------------------------------------------------------


def units() -> list[Path]:
    return sorted((DEPLOY / "systemd").glob("*.service"))


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_systemd_takes_the_unit(unit: Path, tmp_path: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT RUN: systemd-analyze is not here (Debian: systemd)")
    program = tmp_path / "twinspan"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    text = unit.read_text("utf-8")
    assert "/opt/twinspan/bin/twinspan" in text
    copy = tmp_path / unit.name
    text = text.replace("/opt/twinspan/bin/twinspan", str(program))
    copy.write_text(text.replace("file:///opt/twinspan/README.md", f"file://{ROOT}/README.md"))
    ran = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", copy], capture_output=True, text=True, check=False
    )
    said = [line for line in ran.stderr.splitlines() if unit.name in line]
    assert not said, said
    assert ran.returncode == 0, ran.stderr


@pytest.mark.parametrize("unit", units(), ids=lambda unit: unit.name)
def test_the_program_knows_the_commands_of_the_units(unit: Path) -> None:
    (line,) = re.findall(r"^ExecStart=/opt/twinspan/bin/twinspan (.*)$", unit.read_text(), re.M)
    words = [word for word in line.split() if not word.startswith("/")]
    understood(*words)


def understood(*words: str) -> None:
    """Fail unless the program knows these words; nothing is started."""
    commands = [word for word in words if not word.startswith("-")]
    ran = subprocess.run(
        [ROOT / ".venv" / "bin" / "twinspan", *commands, "--help"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    for option in (word for word in words if word.startswith("-")):
        assert option in ran.stdout


# --- container and Compose ------------------------------------------------------------------------


def test_hadolint_takes_the_container_file() -> None:
    found = ROOT / ".venv" / "bin" / "hadolint"
    if not found.exists():
        pytest.skip("NOT RUN: no hadolint for this machine (scripts/python.sh peers)")
    ran = subprocess.run(
        [found, DEPLOY / "container" / "Containerfile"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout


def instructions() -> Iterator[tuple[str, str]]:
    text = (DEPLOY / "container" / "Containerfile").read_text("utf-8").replace("\\\n", " ")
    for line in text.splitlines():
        word, _, rest = line.partition(" ")
        if word.isupper():
            yield word, rest.strip()


def test_the_image_runs_as_somebody_and_copies_what_is_not_ignored() -> None:
    found = list(instructions())
    assert ("USER", "65532:65532") in found
    ignored = (ROOT / ".containerignore").read_text("utf-8").splitlines()
    copied = [
        source
        for word, rest in found
        if word == "COPY" and not rest.startswith("--from")
        for source in rest.split()[:-1]
    ]
    assert copied
    for source in copied:
        assert (ROOT / source).exists()
        assert f"!{source}" in ignored
    extras = next(rest for word, rest in found if rest.startswith("EXTRAS="))
    known = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in extras.removeprefix("EXTRAS=").split(","):
        assert re.search(rf"^{extra} = \[", known, re.M), extra


def test_the_compose_file_is_one_and_its_settings_are_ours() -> None:
    document = yaml.safe_load((DEPLOY / "compose" / "compose.yaml").read_text("utf-8"))
    import_module("compose_spec").ComposeSpecification.model_validate(document)
    service = document["services"]["twinspan"]
    settings = load(environ=service["environment"], sets=["insecure=true"])
    exposure.check(settings)
    understood(*(word for word in service["command"] if re.fullmatch(r"[a-z]+|--[a-z]+", word)))
    published = {int(port.split(":")[-1]) for port in service["ports"]}
    exposed = next(rest for word, rest in instructions() if word == "EXPOSE")
    assert published <= {int(port.partition("/")[0]) for port in exposed.split()}
    assert service["read_only"] is True
    build = (DEPLOY / "compose" / service["build"]["context"]).resolve()
    assert (build / service["build"]["dockerfile"]).exists()


def test_the_edge_of_compose_has_what_mappers_need() -> None:
    document = yaml.safe_load((DEPLOY / "compose" / "edge.yaml").read_text("utf-8"))
    import_module("compose_spec").ComposeSpecification.model_validate(document)
    service = document["services"]["edge"]
    settings = load(environ=service["environment"])
    assert settings.edge.mappers.zigbee.device == service["devices"][0].rpartition(":")[2]
    understood(*service["command"])
    extras = service["build"]["args"]["EXTRAS"]
    assert f"EXTRAS={extras}" in (DEPLOY / "container" / "Containerfile").read_text("utf-8")
    known = (ROOT / "pyproject.toml").read_text("utf-8")
    for extra in extras.split(","):
        assert re.search(rf"^{extra} = \[", known, re.M), extra
    needed = {extra for _, extra in (*LIBRARIES.values(), *RADIOS.values())} - {"zigbee"}
    assert needed <= set(extras.split(","))  # those of other sticks bring `zigbee`


def test_the_unit_of_the_edge_leaves_mappers_what_they_need() -> None:
    text = (DEPLOY / "systemd" / "twinspan-edge.service").read_text("utf-8")
    said = {line.partition("=")[0] for line in text.splitlines() if not line.startswith("#")}
    closes = {"PrivateDevices", "DevicePolicy", "DeviceAllow", "ProtectClock", "PrivateNetwork"}
    hides = {"ProtectSystem", "ProtectHome", "PrivateTmp", "PrivateUsers", "RootDirectory"}
    forbids = {"RestrictAddressFamilies", "MemoryDenyWriteExecute", "SystemCallFilter", "TasksMax"}
    assert said & (closes | hides | forbids) == set()


def test_values_and_their_schema_name_the_same(helm: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    schema = json.loads((CHART / "values.schema.json").read_text("utf-8"))
    assert set(values) | {"global"} == set(schema["properties"])
    assert helm.exists()
