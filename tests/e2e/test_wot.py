"""The Web of Things with the shipped process: models from a folder and from a server, asked with curl."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests import process
from tests.wot_samples import DOCUMENTS, LAMP, SWITCH

pytestmark = pytest.mark.e2e

HOST = "https://models.acme.org"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("models")
    for place in (root, root / "models.acme.org"):
        place.mkdir(exist_ok=True)
        for name, document in DOCUMENTS.items():
            (place / name.lstrip("/")).write_text(json.dumps(document))
    return root


@pytest.fixture(scope="module")
def server(folder: Path) -> Iterator[str]:
    """`host:port` of a server of the folder's files."""

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            """Nobody reads it."""

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as http:
        thread = threading.Thread(target=http.serve_forever, daemon=True)
        thread.start()
        yield f"127.0.0.1:{http.server_port}"
        http.shutdown()
        thread.join()


@pytest.fixture(scope="module")
def running(
    tmp_path_factory: pytest.TempPathFactory, folder: Path, server: str
) -> Iterator[process.Twinspan]:
    sets = (f"ditto.wot.models.local={folder}", f"ditto.wot.allowed_addresses=[{server!r}]")
    data = tmp_path_factory.mktemp("wot") / "data"
    with process.twinspan(data, "gateway", "--demo", sets=sets) as up:
        yield up


def curl(running: process.Twinspan, path: str, *more: str) -> Any:
    url = running.url("ditto.http", path)
    return json.loads(process.run("curl", "-sS", "-u", "ditto:ditto", *more, url))


def created(running: process.Twinspan, thing_id: str, definition: str) -> Any:
    body = ("-H", "Content-Type: application/json", "-d", json.dumps({"definition": definition}))
    return curl(running, f"/api/2/things/{thing_id}", "-X", "PUT", *body)


def test_a_model_from_a_folder_makes_and_describes_a_thing(running: process.Twinspan) -> None:
    made = created(running, "org.acme:lamp-1", HOST + LAMP)
    assert made["attributes"] == {"on": False, "level": 0.0}
    td = curl(running, "/api/2/things/org.acme:lamp-1", "-H", "Accept: application/td+json")
    assert td["base"] == running.url("ditto.http", "/api/2/things/org.acme:lamp-1/")
    assert td["links"][0] == {"rel": "type", "href": HOST + LAMP, "type": "application/tm+json"}
    reading = next(f for f in td["properties"]["on"]["forms"] if f["op"] == "readproperty")
    href = reading["href"].partition("{")[0]
    assert process.run("curl", "-sS", "-u", "ditto:ditto", td["base"] + href) == "false"


def test_a_model_from_an_allowed_server_is_fetched_and_counted(
    running: process.Twinspan, server: str
) -> None:
    made = created(running, "org.acme:switch-1", f"http://{server}{SWITCH}")
    assert made["attributes"] == {"on": False}
    metrics = process.run("curl", "-sS", running.url("ops.http", "/metrics"))
    assert 'twinspan_wot_fetches_total{outcome="fetched"} 1.0' in metrics


def test_this_machine_is_asked_nothing_else(running: process.Twinspan) -> None:
    own = running.endpoints["ops.http"]
    for address in (own, own.replace("127.0.0.1", "localhost"), "169.254.169.254"):
        refused = created(running, "org.acme:probe", f"http://{address}/metrics")
        assert (refused["status"], refused["error"]) == (421, "wot:tm.notfound")


def test_the_directory_is_public(running: process.Twinspan) -> None:
    found = process.run("curl", "-sS", running.url("ditto.http", "/.well-known/wot"))
    assert json.loads(found)["@type"] == "ThingDirectory"
