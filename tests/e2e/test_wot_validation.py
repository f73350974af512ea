"""Validation and migration with the shipped process; what operators put outlives kill -9."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tests import process
from tests.wot_lamps import FLOOR_1, FLOOR_2, LAMPS

pytestmark = pytest.mark.e2e

HOST = "https://models.acme.org"
LAMP = "/api/2/things/org.acme:lamp"
CONFIG = "/devops/wot/config"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    place = tmp_path / "models" / "models.acme.org"
    place.mkdir(parents=True)
    for name, document in LAMPS.items():
        (place / name.lstrip("/")).write_text(json.dumps(document))
    return place.parent


def curl(
    running: process.Twinspan, method: str, path: str, body: Any = None, user: str = "ditto:ditto"
) -> tuple[int, Any]:
    """Status and JSON body."""
    given = ()
    if body is not None:
        given = ("-H", "Content-Type: application/json", "-d", json.dumps(body))  # type: ignore[assignment]
    url = running.url("ditto.http", path)
    out = process.run("curl", "-sS", "-u", user, "-X", method, "-w", "\n%{http_code}", *given, url)
    text, _, status = out.rpartition("\n")
    return int(status), json.loads(text) if text else None


def test_models_are_kept_to_and_operators_words_outlive_a_kill(
    tmp_path: Path, folder: Path
) -> None:
    sets = (f"ditto.wot.models.local={folder}",)
    operator = "devops:foobar"
    extra = f"{LAMP}/attributes/extra"
    with process.twinspan(tmp_path / "data", "gateway", "--demo", sets=sets) as running:
        maps = Path(f"/proc/{running.pid}/maps")
        assert "jsonschema" not in maps.read_text(), "who has no models does not load the library"
        status, _ = curl(running, "PUT", LAMP, {"definition": HOST + FLOOR_1})
        assert status == 201
        status, refused = curl(running, "PUT", extra, 1)
        assert (status, refused["error"]) == (400, "wot:payload.validation.error")
        assert [*refused["validationDetails"]] == ["/attributes/extra"]
        assert "jsonschema" in maps.read_text()

        section = {
            "validation-context": {"thing-definition-patterns": [f"^{HOST}/floor-lamp-1.*$"]},
            "config-overrides": {"thing": {"forbid": {"non-modeled-attributes": False}}},
        }
        scope = f"{CONFIG}/dynamicConfigs/lamps"
        assert curl(running, "PUT", scope, section, operator)[0] == 204
        assert curl(running, "PUT", extra, 1)[0] == 201
        running.kill()

        running.start()
        status, found = curl(running, "GET", scope, user=operator)
        assert (status, found["scope-id"]) == (200, "lamps")
        assert curl(running, "PUT", f"{extra}2", 2)[0] == 201

        url = f"{LAMP}/migrateDefinition"
        body = {
            "thingDefinitionUrl": HOST + FLOOR_2,
            "initializeMissingPropertiesFromDefaults": True,
        }
        status, refused = curl(running, "POST", url, body)
        assert (status, [*refused["validationDetails"]]) == (
            400,
            ["/attributes/extra", "/attributes/extra2"],
        )
        body["migrationPayload"] = {
            "attributes": {"room": "{{ thing-json:attributes/extra2 }}. floor"}
            | dict.fromkeys(("extra", "extra2"))
        }
        assert curl(running, "POST", f"{url}?dry-run=true", body)[0] == 202
        status, done = curl(running, "POST", url, body)
        assert (status, done["mergeStatus"]) == (200, "APPLIED")
        running.kill()

        running.start()
        _, thing = curl(running, "GET", LAMP)
        assert thing["definition"] == HOST + FLOOR_2
        assert thing["attributes"] == {"serial": "X-0", "maker": "ACME", "room": "2. floor"}
