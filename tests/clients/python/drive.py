"""Drives a running Ditto-compatible service (DITTO_HOST, host:port) with the `ditto-client` of PyPI.

Runs in that client's own environment, with its command line and with the request builders below it.
"""
# mypy: ignore-errors
# ruff: noqa: T201, BLE001

from __future__ import annotations

import asyncio
import json
import os
import tempfile
import traceback
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ditto_client import BasicAuthProvider
from ditto_client.__main__ import cli_app
from ditto_client.generated.ditto_client import DittoClient
from ditto_client.generated.models.attributes import Attributes
from ditto_client.generated.models.feature import Feature
from ditto_client.generated.models.feature_properties import FeatureProperties
from ditto_client.generated.models.patch_thing import PatchThing
from ditto_client.generated.models.subject_entry import SubjectEntry
from kiota_abstractions.api_error import APIError
from kiota_abstractions.base_request_configuration import RequestConfiguration
from kiota_http.httpx_request_adapter import HttpxRequestAdapter
from typer.testing import CliRunner

BASE = f"http://{os.environ['DITTO_HOST']}"
ALL = {"grant": ["READ", "WRITE"], "revoke": []}
ENTRIES = {
    "owner": {
        "subjects": {"nginx:ditto": {"type": "user"}},
        "resources": {"thing:/": ALL, "policy:/": ALL, "message:/": ALL},
    }
}
TESTS: list[Callable[[Path], Any]] = []


def test(body: Callable[[Path], Any]) -> Callable[[Path], Any]:
    TESTS.append(body)
    return body


def new_id() -> str:
    return f"org.acme.python:{uuid.uuid4()}"


def cli(*words: str, user: str = "ditto", password: str = "ditto") -> str:
    """What the command line prints."""
    options = ["--base-url", BASE, "--username", user, "--password", password]
    result = CliRunner().invoke(cli_app, [*options, *words])
    if result.exception is not None:
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def told(*words: str, **options: str) -> Any:
    """The JSON that the command line prints, be there a message before it or not."""
    text = cli(*words, **options)
    starts = [at for at in (text.find("{"), text.find("[")) if at >= 0]
    return json.loads(text[min(starts) :])


def file_of(folder: Path, value: Any) -> str:
    path = folder / f"{uuid.uuid4()}.json"
    path.write_text(json.dumps(value))
    return str(path)


def refusal(call: Callable[[], Any]) -> APIError:
    try:
        call()
    except APIError as error:
        return error
    raise AssertionError("was not refused")


# --- the command line


@test
def who_am_i(_folder: Path) -> None:
    assert told("whoami") == {"default_subject": "nginx:ditto", "subjects": ["nginx:ditto"]}
    assert refusal(lambda: cli("whoami", password="wrong")).response_status_code == 401


@test
def things_by_command(folder: Path) -> None:
    thing = new_id()
    cli("thing", "create", thing, file_of(folder, {"attributes": {"colour": "red", "size": 1}}))
    assert told("thing", "get", thing)["attributes"]["colour"] == "red"
    cli("thing", "update", thing, file_of(folder, {"attributes": {"colour": "blue"}}))
    assert told("thing", "get", thing, "--revision", "1")["attributes"]["colour"] == "red"
    # Where there is a difference, the client fails at printing it.
    assert told("thing", "diff", thing, "2")["diff"] == []
    listed = told("thing", "list", "--ids", thing, "--fields", "thingId,attributes")
    assert [one["attributes"]["colour"] for one in listed] == ["blue"], listed
    cli("thing", "delete", thing, "--confirm")
    assert refusal(lambda: cli("thing", "get", thing)).response_status_code == 404


@test
def policies_by_command(folder: Path) -> None:
    policy = new_id()
    assert policy in cli("policy", "create", policy, file_of(folder, ENTRIES))
    assert "owner" in json.dumps(told("policy", "get", policy))
    assert "owner" in json.dumps(told("policy", "entries", policy))
    cli("policy", "delete", policy, "--confirm")
    assert refusal(lambda: cli("policy", "get", policy)).response_status_code == 404


@test
def searching_by_command(folder: Path) -> None:
    mark = str(uuid.uuid4())
    for number in range(3):
        body = {"attributes": {"mark": mark, "n": number}}
        cli("thing", "create", new_id(), file_of(folder, body))
    mine = f'and(eq(attributes/mark,"{mark}"),gt(attributes/n,0))'
    found = told(
        "search", "query", "--filter", mine, "--option", "sort(-attributes/n),size(5)",
        "--fields", "thingId,attributes", "--namespaces", "org.acme.python",
    )  # fmt: skip
    assert [one["attributes"]["n"] for one in found] == [2, 1], found
    assert "2" in cli("search", "count", "--filter", mine)


@test
def permissions_by_command(folder: Path) -> None:
    thing = new_id()
    cli("thing", "create", thing, file_of(folder, {}))
    asked = {
        name: {"resource": "thing:/", "entityId": entity, "hasPermissions": ["READ", "WRITE"]}
        for name, entity in {"mine": thing, "absent": new_id()}.items()
    }
    assert told("permission", "check", file_of(folder, asked)) == {"mine": True, "absent": False}


@test
def connections_by_command(_folder: Path) -> None:
    devops = {"user": "devops", "password": "foobar"}
    known = told("devops", "connection", "list", **devops)
    assert known, "the demo has a connection"
    name = known[0]["id"]
    assert told("devops", "connection", "get", name, **devops)["connectionType"] == "hono"
    some = told("devops", "connection", "get", name, "--fields", "id,connectionStatus", **devops)
    assert some == {"id": name, "connectionStatus": "open"}
    absent = refusal(lambda: cli("devops", "connection", "get", "absent", **devops))
    assert absent.response_status_code == 404
    assert refusal(lambda: cli("devops", "connection", "list")).response_status_code == 401


# --- the request builders


def api() -> Any:
    adapter = HttpxRequestAdapter(BasicAuthProvider("ditto", "ditto"))
    adapter.base_url = BASE
    return DittoClient(adapter).api.two


@test
async def things_by_builders(_folder: Path) -> None:
    thing = new_id()
    one = api().things.by_thing_id(thing)
    await one.patch(body=PatchThing(additional_data={"attributes": {"a": 1}}))
    made = await one.get()
    assert (made.thing_id, made.policy_id) == (thing, thing)
    await one.attributes.put(body=Attributes(additional_data={"a": 2, "b": {"c": 3}}))
    assert (await one.attributes.get()).additional_data["a"] == 2
    lamp = one.features.by_feature_id("lamp")
    await lamp.put(body=Feature(additional_data={"properties": {"on": True}}))
    await lamp.properties.patch(body=FeatureProperties(additional_data={"level": 5}))
    assert (await lamp.properties.get()).additional_data == {"on": True, "level": 5}
    await lamp.delete()
    await one.delete()


@test
async def policies_by_builders(folder: Path) -> None:
    policy = new_id()
    await asyncio.to_thread(cli, "policy", "create", policy, file_of(folder, ENTRIES))
    one = api().policies.by_policy_id(policy)
    owner = one.entries.by_label("owner")
    assert "nginx:ditto" in (await owner.subjects.get()).additional_data
    found = await owner.resources.by_resource_path("thing:/").get()
    assert [str(one.value) for one in found.grant] == ["READ", "WRITE"], found
    reader = owner.subjects.by_subject_id("nginx:alice")
    await reader.put(body=SubjectEntry(type="user"))
    assert (await reader.get()).type == "user"
    await reader.delete()
    await one.delete()


@test
async def messages_by_builders(_folder: Path) -> None:
    thing = new_id()
    one = api().things.by_thing_id(thing)
    await one.patch(body=PatchThing(additional_data={"attributes": {"a": 1}}))
    for inbox in (one.inbox.messages.by_message_subject("hello"), one.inbox.claim):
        (query,) = [
            value for name, value in vars(type(inbox)).items() if name.endswith("Parameters")
        ]
        late = RequestConfiguration(query_parameters=query(timeout="1s"))
        status = 0
        try:
            await inbox.post(body="x", request_configuration=late)
        except APIError as error:
            status = error.response_status_code
        assert status == 408, "nobody was there to answer"


@test
async def operations_by_command(folder: Path) -> None:
    devops = {"user": "devops", "password": "foobar"}
    await asyncio.to_thread(cli, "devops", "config", "get", **devops)
    await asyncio.to_thread(cli, "devops", "logging", "get", **devops)
    level = file_of(folder, {"logger": "aiohttp.access", "level": "warn"})
    await asyncio.to_thread(cli, "devops", "logging", "update", level, **devops)


def passes(body: Callable[[Path], Any], folder: Path) -> bool:
    try:
        outcome = body(folder)
        if outcome is not None:
            asyncio.run(outcome)
    except BaseException:
        print(f"not ok - {body.__name__}")
        print(traceback.format_exc())
        return False
    print(f"ok - {body.__name__}")
    return True


def main() -> int:
    with tempfile.TemporaryDirectory() as folder:
        results = [passes(body, Path(folder)) for body in TESTS]
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) and results else 1


if __name__ == "__main__":
    raise SystemExit(main())
