"""`twinspan thing` for many things: export, import, change by filter, explain; as people type it."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests import process
from tests.walk import DITTO_USER, curl

pytestmark = pytest.mark.e2e

FLEET = "org.acme:fleet"
READ_WRITE = {"grant": ["READ", "WRITE"], "revoke": []}
ENTRIES = {
    "owner": {
        "subjects": {"nginx:ditto": {"type": "x"}},
        "resources": {f"{kind}:/": READ_WRITE for kind in ("thing", "policy", "message")},
    },
    "viewer": {
        "subjects": {"nginx:alice": {"type": "x"}},
        "resources": {
            "thing:/": {"grant": ["READ"], "revoke": []},
            "thing:/attributes/secret": {"grant": [], "revoke": ["READ"]},
        },
    },
}


def thing(
    where: process.Twinspan | None, *arguments: str, stdin: str | None = None
) -> subprocess.CompletedProcess[str]:
    data_dir = ("--data-dir", str(where.data_dir)) if where else ()
    return subprocess.run(
        [sys.executable, "-m", "gateway.cli", "thing", *arguments, *data_dir],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
        input=stdin,
    )


def counted(done: subprocess.CompletedProcess[str]) -> dict[str, Any]:
    assert "Traceback" not in done.stderr, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return {name: value for name, value in found.items() if value and name != "failures"}


def a_fleet(count: int) -> list[dict[str, Any]]:
    return [
        {
            "thingId": f"org.acme:pump-{n:04}",
            "policyId": FLEET,
            "attributes": {"n": n, "site": "Oslo" if n % 2 else "Bergen", "secret": n},
        }
        for n in range(count)
    ]


def written(file: Path, lines: list[Any]) -> str:
    file.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return str(file)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[process.Twinspan]:
    with process.twinspan(tmp_path_factory.mktemp("bulk") / "data", "gateway", "--demo") as running:
        yield running


@pytest.fixture(scope="module")
def fleet(up: process.Twinspan, tmp_path_factory: pytest.TempPathFactory) -> process.Twinspan:
    file = tmp_path_factory.mktemp("fleet") / "fleet.ndjson"
    policy = {"policyId": FLEET, "entries": ENTRIES}
    done = thing(up, "import", written(file, [policy, *a_fleet(100)]), "-o", "json")
    assert counted(done) == {"created": 101}
    return up


def test_bulk_over_http_as_curl_sends_it(up: process.Twinspan) -> None:
    commands = [
        {"topic": "org.curl/a/things/twin/commands/modify", "path": "/", "value": {}},
        {"topic": "org.curl/a/things/twin/commands/retrieve", "path": "/"},
    ]
    answer = curl(
        "POST",
        up.url("ditto.http", "/api/2/bulk"),
        user=DITTO_USER,
        data="".join(f"{json.dumps(one)}\n" for one in commands),
        content_type="application/x-ndjson",
    )
    assert [json.loads(line)["status"] for line in answer.body.splitlines()] == [201, 200]


def test_what_is_exported_can_be_imported_elsewhere(
    fleet: process.Twinspan, tmp_path: Path
) -> None:
    file = str(tmp_path / "all.ndjson")
    filter_ = 'like(thingId,"org.acme:pump-*")'
    done = thing(fleet, "export", "--with-policies", "--filter", filter_, "-f", file)
    assert done.returncode == 0, done.stderr
    assert "100 things, 1 policies exported" in done.stderr
    first, second, *_ = (json.loads(line) for line in Path(file).read_text().splitlines())
    assert first["topic"] == "org.acme/fleet/policies/commands/modify"
    assert second["value"] == a_fleet(1)[0]
    assert second["revision"] == 1
    with process.twinspan(tmp_path / "other", "gateway", "--demo") as other:
        looked = thing(other, "import", file, "--dry-run", "-o", "json")
        assert counted(looked) == {"wouldCreate": 101, "dryRun": True}
        assert counted(thing(other, "import", file, "-o", "json")) == {"created": 101}
        assert thing(other, "import", file).returncode == 1
        skipped = thing(other, "import", file, "--if-exists", "skip", "-o", "json")
        assert counted(skipped) == {"skipped": 101}
        assert skipped.returncode == 0
        thing(other, "set", "org.acme:pump-0001", "attributes/n", "77")
        replaced = thing(other, "import", file, "--if-exists", "replace", "-o", "json")
        assert counted(replaced) == {"replaced": 1, "unchanged": 100}
        again = str(tmp_path / "again.ndjson")
        thing(other, "export", "--with-policies", "--filter", filter_, "-f", again)

    def values(path: str) -> list[Any]:
        return [json.loads(line)["value"] for line in Path(path).read_text().splitlines()]

    assert values(again) == values(file)


def test_a_line_that_fails_is_told_kept_and_the_others_go_on(
    fleet: process.Twinspan, tmp_path: Path
) -> None:
    lines = [
        {"thingId": "org.acme:new-1", "policyId": FLEET},
        {"thingId": "org.acme:new-2", "policyId": "org.acme:none"},
        {"neither": 1},
        {"topic": "org.acme/new-1/things/twin/commands/modify", "path": "/attributes", "value": {}},
    ]
    file = Path(written(tmp_path / "mixed.ndjson", lines))
    file.write_text(file.read_text() + "nonsense\n")
    failed = tmp_path / "failed.ndjson"
    done = thing(fleet, "import", str(file), "--failed", str(failed))
    assert done.returncode == 1
    assert "line 2: org.acme:new-2: 404 policies:policy.notfound" in done.stderr
    assert "line 3: not sent: neither a command" in done.stderr
    assert "line 5: not sent" in done.stderr
    heading, counts = done.stdout.splitlines()
    found = dict(zip(heading.split(), counts.split(), strict=True))
    assert (found["CREATED"], found["DONE"], found["FAILED"]) == ("1", "1", "3")
    kept = {line for line in failed.read_text().splitlines() if line != "nonsense"}
    assert {json.dumps(one) for one in lines[1:3]} == kept
    rest = thing(fleet, "import", "-", "--from-line", "5", "-o", "json", stdin=file.read_text())
    assert counted(rest) == {"failed": 1}


def test_an_import_that_is_cut_can_be_run_again(tmp_path: Path) -> None:
    policy = {"policyId": FLEET, "entries": ENTRIES}
    count = 2_500
    file = written(tmp_path / "many.ndjson", [policy, *a_fleet(count)])
    with process.twinspan(tmp_path / "data", "gateway", "--demo") as running:
        address = running.endpoints["ditto.http"]

        def some_are_there() -> bool:
            url = f"http://{address}/api/2/things/org.acme:pump-1000"
            return curl("GET", url, user=DITTO_USER).status == 200

        results: list[subprocess.CompletedProcess[str]] = []
        importing = threading.Thread(
            target=lambda: results.append(thing(running, "import", file, "-o", "json"))
        )
        importing.start()
        process.eventually(some_are_there, seconds=60, what="some things of the import")
        running.kill()
        importing.join(60)
        (done,) = results
        assert done.returncode == 5, done.stdout + done.stderr
        first = json.loads(done.stdout)
        assert 0 < first["created"] < count
        assert "cannot be reached" in first["cut"]
        running.start()
        again = thing(running, "import", file, "--if-exists", "skip", "-o", "json")
        second = counted(again)
        assert again.returncode == 0, again.stderr
        assert second["created"] + second["skipped"] == count + 1
        assert second["skipped"] >= first["created"]  # nothing that was answered is lost
        url = running.url("ditto.http", "/api/2/search/things/count")
        assert int(curl("GET", url, user=DITTO_USER).body) >= count


def test_things_are_changed_by_a_filter(fleet: process.Twinspan) -> None:
    oslo = 'and(eq(attributes/site,"Oslo"),lt(attributes/n,10))'
    looked = thing(fleet, "set", "--filter", oslo, "attributes/zone", "Oslo", "--dry-run")
    assert looked.stdout.split()[1:] == [f"org.acme:pump-{n:04}" for n in (1, 3, 5, 7, 9)]
    unsure = thing(fleet, "set", "--filter", oslo, "attributes/zone", "Oslo", stdin="")
    assert unsure.returncode == 2
    assert "of 5 things: add --yes" in unsure.stderr
    done = thing(fleet, "set", "--filter", oslo, "attributes/zone", "Oslo", "--yes", "-o", "json")
    assert counted(done) == {"created": 5}
    done = thing(
        fleet,
        "patch",
        "--filter",
        'eq(attributes/zone,"Oslo")',
        "attributes",
        '{"zone": null, "checked": true}',
        "--yes",
        "-o",
        "json",
    )
    assert counted(done) == {"changed": 5}
    shown = json.loads(thing(fleet, "get", "--filter", "exists(attributes/checked)").stdout)
    assert [one["attributes"]["n"] for one in shown] == [1, 3, 5, 7, 9]
    assert all("zone" not in one["attributes"] for one in shown)
    done = thing(
        fleet, "delete", "--filter", "exists(attributes/checked)", "attributes/checked", "--yes"
    )
    assert done.returncode == 0, done.stderr
    rest = json.loads(thing(fleet, "get", "--filter", "exists(attributes/checked)").stdout)
    assert rest == []


def test_one_thing_is_patched_listed_and_deleted(fleet: process.Twinspan) -> None:
    name = "org.acme:pump-0050"
    assert thing(fleet, "patch", name, '{"attributes": {"x": 1}}').returncode == 0
    assert thing(fleet, "patch", name, "attributes", '{"x": null, "y": 2}').returncode == 0
    test = '[{"op": "test", "path": "/attributes/y", "value": 3}]'
    refused = thing(fleet, "patch", name, "--type", "json", test)
    assert refused.returncode == 1
    assert thing(fleet, "get", name, "attributes/y").stdout == "2\n"
    newest = thing(fleet, "list", "--sort=-_modified", "--limit", "1", "-o", "json")
    assert [one["thingId"] for one in json.loads(newest.stdout)] == [name]
    assert thing(fleet, "delete", name).returncode == 0
    assert thing(fleet, "get", name).returncode == 3


def test_explain_says_who_decides(fleet: process.Twinspan) -> None:
    name, path = "org.acme:pump-0001", "/attributes/secret"
    ask = ("explain", name, "--subject", "nginx:alice", "--path", path)
    shown = thing(fleet, *ask)
    assert shown.returncode == 0, shown.stderr
    assert "READ is revoked at thing:/attributes/secret by entry 'viewer'" in shown.stdout
    assert "may      read          nothing  (404 things:attribute.notfound)" in shown.stdout
    found = json.loads(thing(fleet, *ask, "-o", "json").stdout)
    assert found["permissions"]["READ"]["decisive"][0]["policyId"] == FLEET
    assert thing(fleet, *ask, "--permission", "read", "--check").returncode == 4
    mine = thing(fleet, "explain", name, "--path", "/", "--check")
    assert mine.returncode == 0, mine.stdout
    operator = thing(fleet, *ask, "-u", "devops:foobar")
    assert operator.returncode == 0, operator.stderr
    assert thing(fleet, "explain", "org.acme:none", "--path", "/").returncode == 3


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("list", "--url", "http://127.0.0.1:9", "-u", "a:b"), 5, "cannot be reached"),
        (("list", "--url", "nonsense", "-u", "a:b"), 2, "--url: expected http://HOST:PORT"),
        (("import", "/no/such/file"), 2, "does not exist"),
        (("set", "org.acme:a", "x"), 2, "Expected 3 arguments"),
        (("get",), 2, "Expected THING_ID"),
        (("patch", "org.acme:a", "{"), 2, "PATCH: not JSON"),
        (("explain", "org.acme:a"), 2, "--path"),
    ],
)
def test_a_mistake_is_told_in_a_few_words_with_its_code(
    arguments: tuple[str, ...], code: int, told: str
) -> None:
    done = thing(None, *arguments)
    assert done.returncode == code, done.stderr
    assert told in done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_password_is_told_by_every_command(fleet: process.Twinspan, tmp_path: Path) -> None:
    file = written(tmp_path / "one.ndjson", a_fleet(1))
    for arguments in (
        ("list",),
        ("get", "org.acme:pump-0001"),
        ("import", file),
        ("export",),
        ("explain", "org.acme:pump-0001", "--path", "/"),
        ("delete", "--filter", "exists(thingId)", "--yes"),
    ):
        done = thing(fleet, *arguments, "-u", "ditto:wrong")
        assert done.returncode == 4, (arguments, done.stderr)
        assert "401" in done.stderr


def test_completion_knows_commands_choices_and_things(fleet: process.Twinspan) -> None:
    def completed(words: str) -> list[str]:
        done = subprocess.run(
            [sys.executable, "-m", "gateway.cli"],
            env={
                "_TWINSPAN_COMPLETE": "bash_complete",
                "COMP_WORDS": words,
                "COMP_CWORD": str(len(words.split(" ")) - 1),
                "TWINSPAN__DATA_DIR": str(fleet.data_dir),
            },
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return [line.partition(",")[2] for line in done.stdout.splitlines()]

    assert {"explain", "export", "import", "list", "patch"} <= set(completed("twinspan thing "))
    assert completed("twinspan thing import --if-exists ") == ["fail", "skip", "replace"]
    assert completed("twinspan thing get org.acme:pump-002") == [
        f"org.acme:pump-002{n}" for n in range(10)
    ]
