"""What `kubectl explain` says of our kinds: each field has its words, and they are whole sentences."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Any

import pytest
import yaml

GIVEN = {"apiVersion", "kind", "metadata"}
"""Fields of every kind: their words are the API server's."""
LONGEST = 160

FOLDER = files("gateway.kube.data") / "crds"
DEFINITIONS: list[Any] = [
    yaml.safe_load(file.read_text()) for file in FOLDER.iterdir() if file.name.endswith(".yaml")
]
VERSIONS = [
    pytest.param(version, id=f"{definition['spec']['names']['plural']} {version['name']}")
    for definition in DEFINITIONS
    for version in definition["spec"]["versions"]
]


def fields(schema: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield each field of a schema with where it stands."""
    for name, inner in (schema.get("properties") or {}).items():
        if path or name not in GIVEN:
            yield f"{path}.{name}", inner
            yield from fields(inner, f"{path}.{name}")
    for key in ("items", "additionalProperties"):
        if isinstance(schema.get(key), dict):
            yield from fields(schema[key], path + "[]")


@pytest.mark.parametrize("version", VERSIONS)
def test_every_field_is_described(version: Any) -> None:
    schema = version["schema"]["openAPIV3Schema"]
    found = dict(fields(schema))
    assert ".spec" in found
    assert [path for path, inner in found.items() if not inner.get("description")] == []
    texts = [schema["description"], *(str(inner["description"]) for inner in found.values())]
    assert [text for text in texts if not text.endswith(".") or len(text) > LONGEST] == []


@pytest.mark.parametrize("version", VERSIONS)
def test_every_column_is_described(version: Any) -> None:
    columns = version.get("additionalPrinterColumns", [])
    assert [column["name"] for column in columns if not column.get("description")] == []


def test_a_reported_value_is_not_described_as_a_wanted_one() -> None:
    """Fields that share a form have words of their own where they mean different things."""
    (devices,) = (d for d in DEFINITIONS if d["spec"]["names"]["plural"] == "devices")
    for version in devices["spec"]["versions"]:
        found = dict(fields(version["schema"]["openAPIV3Schema"]))
        if ".status.twins[].reported" in found:
            texts = {
                found[f".status.twins[].{side}"]["description"] for side in ("desired", "reported")
            }
            assert len(texts) == 2
            return
    pytest.fail("no version has reported values")
