"""Which container a request for a log or a stream means, and what the kubelet says where it means none."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.kubeletaccess import FOREIGN, KubeletToken, kubelet_of
from edge.pods.kubeletrules import (
    MAX_COMMAND,
    Refused,
    bare_id,
    log_container,
    read_command,
    read_ports,
    read_streams,
)
from edge.pods.kubeletserver import check_bind, is_local_name
from edge.pods.runtime import Auth
from edge.pods.streaming import _place
from gateway.errors import BadRequest, InvalidSetting
from gateway.model.json import JsonObject
from gateway.runtime.listener import Endpoints


def status(state: JsonObject, last: JsonObject | None = None) -> JsonObject:
    row: JsonObject = {
        "name": "c",
        "containerID": "containerd://now",
        "state": state,
        "lastState": last or {},
    }
    return {"containerStatuses": [row]}


ENDED: JsonObject = {"terminated": {"containerID": "containerd://old"}}
NAMELESS: JsonObject = {"terminated": {}}
WAITS: JsonObject = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("found", "previous", "wanted"),
    [
        (status({"running": {}}), False, "now"),
        (status({"running": {}}, ENDED), True, "old"),
        (status(ENDED), False, "old"),
        (status(NAMELESS, ENDED), False, "old"),
        (status(WAITS, ENDED), False, "old"),
    ],
)
def test_the_container_whose_log_is_meant(found: JsonObject, previous: bool, wanted: str) -> None:
    assert bare_id(log_container("p", "c", found, previous=previous)) == wanted


@pytest.mark.parametrize(
    ("found", "previous", "said"),
    [
        ({}, False, 'container "c" in pod "p" is not available'),
        (status({"running": {}}), True, 'previous terminated container "c" in pod "p" not found'),
        (status(NAMELESS), False, 'container "c" in pod "p" is terminated'),
        (
            status({"waiting": {"reason": "ErrImagePull"}}),
            False,
            'container "c" in pod "p" is waiting to start: image can\'t be pulled',
        ),
        (
            status({"waiting": {"reason": "ContainerCreating"}}),
            False,
            'container "c" in pod "p" is waiting to start: ContainerCreating',
        ),
        (status({}), False, 'container "c" in pod "p" is waiting to start - no logs yet'),
    ],
)
def test_why_there_is_no_log(found: JsonObject, previous: bool, said: str) -> None:
    with pytest.raises(BadRequest) as refusal:
        log_container("p", "c", found, previous=previous)
    assert refusal.value.message == said


def test_a_terminal_has_one_output() -> None:
    found = read_streams({"input": ["1"], "output": ["1"], "error": ["1"], "tty": ["1"]})
    assert (found.stdin, found.stdout, found.stderr, found.tty) == (True, True, False, True)
    with pytest.raises(BadRequest, match="at least 1 of stdin, stdout, stderr"):
        read_streams({"tty": ["1"]})


def test_commands_and_ports_are_bounded() -> None:
    assert read_command(["sh", ""]) == ("sh", "")
    for words in ([], [""], ["x" * (MAX_COMMAND + 1)], ["x"] * 1_001):
        with pytest.raises(BadRequest):
            read_command(words)
    assert read_ports({"ports": ["80,443"]}) == (80, 443)
    for port in ("0", "65536", "http"):
        with pytest.raises(BadRequest):
            read_ports({"port": [port]})


@pytest.mark.parametrize("url", ["http://127.0.0.1:4000/exec/T", "http://[::1]:4000/exec/T?a=b"])
def test_the_runtimes_streams_on_loopback_are_called(url: str) -> None:
    assert _place(url)[1] == 4000


@pytest.mark.parametrize(
    "url",
    [
        "http://10.0.0.1:4000/exec/T",
        "http://example.org:4000/exec/T",
        "https://127.0.0.1:4000/exec/T",
        "http://127.0.0.1/exec/T",
        "http://127.0.0.1:4000/exec/T\r\nX: y",
        "file:///etc/passwd",
        "",
    ],
)
def test_no_other_place_is_ever_called(url: str) -> None:
    with pytest.raises(Refused, match="loopback"):
        _place(url)


def test_the_api_listens_on_loopback_and_answers_to_its_names_only() -> None:
    check_bind("127.0.0.1:0")
    check_bind("[::1]:10350")
    for bind in ("0.0.0.0:10350", ":10350", "node.example:10350"):
        with pytest.raises(InvalidSetting):
            check_bind(bind)
    assert all(map(is_local_name, ("127.0.0.1:10350", "localhost", "[::1]:1", "[::1]")))
    assert not any(map(is_local_name, ("evil.example:10350", "", "localhost.evil.example")))


def test_the_token_goes_to_our_own_kubelet_and_to_no_other(tmp_path: Path) -> None:
    token = KubeletToken(tmp_path)
    token.make()
    endpoints = Endpoints()
    assert kubelet_of("", endpoints, token)().address == FOREIGN
    assert not kubelet_of("", endpoints, token)().token
    endpoints.add("edge.kubelet", "127.0.0.1", 4711)
    own = kubelet_of("", endpoints, token)()
    assert (own.address, own.token) == ("127.0.0.1:4711", token.read())
    assert kubelet_of("127.0.0.1:4711", endpoints, token)().token == own.token
    assert not kubelet_of("127.0.0.1:10350", endpoints, token)().token
    assert token.is_shown(f"Bearer {own.token}")
    assert not token.is_shown(own.token)
    assert not token.is_shown("Bearer ")
    before = token.read()
    token.make()
    assert token.read() == before


def test_a_token_that_was_open_to_all_is_closed_again(tmp_path: Path) -> None:
    token = KubeletToken(tmp_path)
    token.make()
    known, file = token.read(), tmp_path / "kubelet.token"
    file.chmod(0o644)
    token.make()
    assert token.read() == known
    assert file.stat().st_mode & 0o777 == 0o600


def test_credentials_show_no_secret_in_a_traceback() -> None:
    shown = repr(Auth(username="u", password="pw", auth="a1", identity_token="t1"))
    assert "'u'" in shown
    assert not {"pw", "a1", "t1"} & set(shown.replace("'", " ").split())
