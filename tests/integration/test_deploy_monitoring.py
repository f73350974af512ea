"""What brings up Prometheus and Grafana with rules and dashboards: chart, Compose, provisioning files."""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.integration.test_deploy import CHART, VARIANTS, of_kind, rendered
from tests.kubectl import find_helm
from tests.process import run, tool

ROOT = Path(__file__).parents[2]
BOARDS = sorted((ROOT / "dashboards").glob("*.json"))
RULES = sorted((ROOT / "dashboards" / "rules").glob("*.yaml"))
MONITORING = ROOT / "deploy" / "monitoring"
PROVISIONING = MONITORING / "grafana" / "provisioning"
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
PAGES = "https://wiki.example.org/"
CONFIG_MAP_BYTES = 1_048_576
"""What Kubernetes takes at most."""


@pytest.fixture(scope="module")
def monitored() -> list[dict[str, Any]]:
    helm = find_helm()
    if helm is None:
        pytest.skip("NOT RUN: no helm, neither of the wheels (scripts/python.sh peers) nor here")
    return rendered(helm, *VARIANTS["monitored"])


def test_the_chart_has_every_dashboard_for_grafana_s_sidecar(
    monitored: list[dict[str, Any]],
) -> None:
    maps = of_kind(monitored, "ConfigMap").values()
    found = [each for each in maps if each["metadata"]["labels"].get("grafana_dashboard") == "1"]
    texts = {name: text for each in found for name, text in each["data"].items()}
    assert texts.keys() == {f"twinspan-{file.name}" for file in BOARDS}
    for file in BOARDS:
        kept = json.loads(file.read_text("utf-8"))
        assert json.loads(texts[f"twinspan-{file.name}"]) == kept
        assert len(texts[f"twinspan-{file.name}"]) < CONFIG_MAP_BYTES


def test_the_chart_s_rules_are_ours_with_the_runbooks_at_their_place(
    monitored: list[dict[str, Any]],
) -> None:
    groups = [
        group for file in RULES for group in yaml.safe_load(file.read_text("utf-8"))["groups"]
    ]
    for group in groups:
        for rule in group["rules"]:
            notes = rule.get("annotations")
            if notes:
                notes["runbook_url"] = PAGES + notes["runbook_url"]
    (operator,) = of_kind(monitored, "PrometheusRule").values()
    assert operator["spec"]["groups"] == groups
    files = of_kind(monitored, "ConfigMap")["twinspan-rules"]["data"].values()
    plain = [group for text in files for group in yaml.safe_load(text)["groups"]]
    assert sorted(plain, key=str) == sorted(groups, key=str)


def test_promtool_takes_the_rules_of_the_config_map(
    monitored: list[dict[str, Any]], tmp_path: Path
) -> None:
    data = of_kind(monitored, "ConfigMap")["twinspan-rules"]["data"]
    for name, text in data.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    run(tool("promtool"), "check", "rules", *(str(tmp_path / name) for name in data))


def test_alerts_find_the_job_that_the_service_monitor_names(
    monitored: list[dict[str, Any]],
) -> None:
    (monitor,) = of_kind(monitored, "ServiceMonitor").values()
    service = of_kind(monitored, "Service")["twinspan-metrics"]
    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "twinspan"


def test_nothing_of_it_is_there_unasked() -> None:
    helm = find_helm()
    if helm is None:
        pytest.skip("NOT RUN: no helm")
    kinds = {each["kind"] for each in rendered(helm)}
    assert not kinds & {"PrometheusRule", "ServiceMonitor"}
    values = yaml.safe_load((CHART / "values.yaml").read_text("utf-8"))
    assert values["monitoring"]["dashboards"]["enabled"] is False


# --- Compose and provisioning ---------------------------------------------------------------------


def services() -> dict[str, Any]:
    document = yaml.safe_load(COMPOSE.read_text("utf-8"))
    import_module("compose_spec").ComposeSpecification.model_validate(document)
    found: dict[str, Any] = document["services"]
    return found


def test_compose_starts_prometheus_and_grafana_only_when_asked_and_on_loopback() -> None:
    for name in ("prometheus", "grafana"):
        service = services()[name]
        assert service["profiles"] == ["monitoring"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])
    assert "profiles" not in services()["twinspan"]


def mounts(name: str) -> dict[str, Path]:
    """Where in the container which folder or file of the repository is."""
    found = {}
    for volume in services()[name]["volumes"]:
        source, target, *_ = volume.split(":")
        if source.startswith("."):
            found[target] = (COMPOSE.parent / source).resolve()
    return found


def test_what_compose_mounts_is_there() -> None:
    for name in ("prometheus", "grafana"):
        for target, source in mounts(name).items():
            assert source.exists(), f"{target}: {source}"


def test_promtool_takes_the_settings_of_prometheus_and_its_rules_are_mounted() -> None:
    file = MONITORING / "prometheus.yaml"
    run(tool("promtool"), "check", "config", "--syntax-only", str(file))
    settings = yaml.safe_load(file.read_text("utf-8"))
    (pattern,) = settings["rule_files"]
    assert sorted(mounts("prometheus")[str(Path(pattern).parent)].glob("*.yaml")) == RULES
    for job in settings["scrape_configs"]:
        for listed in job.get("file_sd_configs", ()):
            for name in listed["files"]:
                assert (mounts("prometheus")[str(Path(name).parent)] / Path(name).name).exists()


def test_grafana_is_given_the_data_source_and_every_dashboard() -> None:
    (source,) = load("datasources/prometheus.yaml")["datasources"]
    assert source["type"] == "prometheus"
    host = source["url"].removeprefix("http://").partition(":")[0]
    assert host in services()
    (provider,) = load("dashboards/twinspan.yaml")["providers"]
    assert provider["type"] == "file"
    assert sorted(mounts("grafana")[provider["options"]["path"]].glob("*.json")) == BOARDS
    home = services()["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert Path(home).parent == Path(provider["options"]["path"])
    assert Path(home).name in {file.name for file in BOARDS}


def load(name: str) -> Any:
    return yaml.safe_load((PROVISIONING / name).read_text("utf-8"))
