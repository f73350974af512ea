"""What `twinspan doctor` says of console, Prometheus and collectors, against servers like theirs."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from edge.verdicts import FAIL, OK, WARN, Verdict
from gateway.cli import watchchecks
from gateway.cli.watchchecks import watch_checks
from gateway.config.loading import load

METRICS = "# TYPE process_start_time_seconds gauge\nprocess_start_time_seconds 1795377600.25\n"


@contextmanager
def serving(answers: Mapping[str, tuple[int, str]]) -> Iterator[str]:
    """Answer by path; another one with 404."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers.get(self.path.partition("?")[0], (404, ""))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        do_POST = do_GET  # noqa: N815  the base class's name

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def found(*sets: str, ours: str = "") -> dict[str, Verdict]:
    settings = load(environ={}, sets=list(sets))
    return {v.name: v for v in watch_checks(settings, {"ops.http": ours} if ours else {})}


def prometheus(started: str) -> Mapping[str, tuple[int, str]]:
    row = {"metric": {}, "value": [1795377700, started]}
    return {
        "/api/v1/query": (200, json.dumps({"data": {"result": [row]}})),
        "/metrics": (200, METRICS),
    }


def test_without_any_of_it_nothing_is_told() -> None:
    assert found() == {}


def test_a_console_beyond_loopback_wants_tls_in_front() -> None:
    verdict = found("ditto.http.bind=0.0.0.0:8080")["console"]
    assert (verdict.state, "proxy with TLS" in verdict.mend) == (WARN, True)
    assert found("ditto.http.bind=0.0.0.0:8080", "console.enabled=false") == {}


def test_a_console_that_is_not_built_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watchchecks.resources, "files", lambda _name: tmp_path)  # type: ignore[attr-defined]
    assert "built files are not" in found()["console"].text


@pytest.mark.parametrize(
    ("started", "state"), [("1795377600.25", OK), ("1795370000", WARN), ("none", FAIL)]
)
def test_a_prometheus_is_known_by_whether_it_scrapes_this_process(started: str, state: str) -> None:
    with serving(prometheus(started)) as address:
        verdicts = found(f"console.prometheus=http://{address}", ours=address)
    assert verdicts["console.prometheus"].state == state
    assert f"targets: ['{address}']" in verdicts["metrics"].text


@pytest.mark.parametrize("body", ["no JSON", "{}", "[]"])
def test_what_is_no_prometheus_is_told(body: str) -> None:
    with serving({"/api/v1/query": (200, body)}) as address:
        verdict = found(f"console.prometheus=http://{address}")["console.prometheus"]
    assert verdict.state == FAIL
    assert verdict.mend


@pytest.mark.parametrize(("status", "state"), [(200, OK), (401, FAIL), (404, FAIL)])
def test_a_collector_over_http_is_sent_an_export_of_nothing(status: int, state: str) -> None:
    with serving({"/v1/traces": (status, "")}) as address:
        otlp = "observe.traces.otlp"
        verdict = found(f"{otlp}.enabled=true", f"{otlp}.endpoint=http://{address}")[otlp]
    assert (verdict.state, str(status) in verdict.text) == (state, True)


def test_a_collector_that_is_away_and_a_library_that_is_missing_are_told(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with serving({}) as address:
        pass
    otlp = "observe.logs.otlp"
    sets = (f"{otlp}.enabled=true", f"{otlp}.endpoint=http://{address}", f"{otlp}.protocol=grpc")
    assert "Connection refused" in found(*sets)[otlp].text
    monkeypatch.setattr(watchchecks, "_is_installed", lambda _module: False)
    settings = load(environ={}, sets=list(sets))
    missing = next(iter(watch_checks(settings, {})))
    assert missing.mend == "pip install 'twinspan[otlp-grpc]'"
