"""Mappers of other packages, installed as any package is: files in a site directory."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge.plugins import load_mappers, load_modules
from gateway.config.edge_services import Plugins
from gateway.errors import InvalidSetting
from gateway.wire.cloudedge.devices import DeviceView


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    info = tmp_path / "acme_mapper-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: acme-mapper\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(
        "[twinspan.mappers]\nacme = acme_mapper:make\nbroken = acme_mapper:nothing\n"
        "text = acme_mapper:TEXT\n"
        "[twinspan.modules]\nbroken = acme_mapper:nothing\ntext = acme_mapper:TEXT\n"
    )
    (tmp_path / "acme_mapper.py").write_text(
        "TEXT = 'x'\n\ndef make(view, model):\n    return ('driver', view.node)\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("acme_mapper", None)


@pytest.mark.usefixtures("site")
def test_a_mapper_that_the_settings_name_serves_its_protocol() -> None:
    drivers = load_mappers(Plugins(mappers=("acme",)))
    assert drivers["acme"](DeviceView.read({"spec": {"nodeName": "n"}}), None) == ("driver", "n")  # type: ignore[comparison-overlap]  # a mark, no driver


@pytest.mark.usefixtures("site")
def test_a_mapper_that_nobody_names_is_not_loaded() -> None:
    assert load_mappers(Plugins()) == {}
    assert "acme_mapper" not in sys.modules


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["other", "broken", "text"])
def test_a_mapper_that_is_not_there_or_none_is_said(name: str) -> None:
    with pytest.raises(InvalidSetting, match=name):
        load_mappers(Plugins(mappers=("acme", name)))


@pytest.mark.usefixtures("site")
@pytest.mark.parametrize("name", ["other", "broken", "text"])
def test_a_module_that_is_not_there_or_none_is_said(name: str) -> None:
    with pytest.raises(InvalidSetting, match=f"edge.plugins.modules.*{name}"):
        load_modules(Plugins(modules=(name,)))
