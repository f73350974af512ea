"""Last words of containers: files, logs, sizes."""

from __future__ import annotations

from pathlib import Path

import pytest

from edge.pods.podspec import Pod, read_pod
from edge.pods.runtime import ContainerState, State
from edge.pods.terminationlog import (
    PATH,
    POLICY,
    file_of,
    forget_before,
    make,
    message_of,
)
from gateway.model.json import Json


def pod_of(policy: str = "File", count: int = 1, path: str = "/dev/termination-log") -> Pod:
    rows: list[Json] = [
        {"name": f"c{at}", "terminationMessagePolicy": policy, "terminationMessagePath": path}
        for at in range(count)
    ]
    return read_pod({"spec": {"containers": rows}})


def ended(log: Path | None = None, code: int = 1, **more: object) -> ContainerState:
    made = {"id": "1", "sandbox_id": "s", "name": "c0", "attempt": 0, "created_at": 1, **more}
    return ContainerState(
        state=State.EXITED,
        exit_code=code,
        log_path=str(log) if log else "",
        **made,  # type: ignore[arg-type]
    )


def said(folder: Path, words: bytes, attempt: int = 0) -> None:
    path = file_of(folder, "c0", attempt)
    make(path)
    path.write_bytes(words)


def log_of(folder: Path, *lines: str) -> Path:
    path = folder / "0.log"
    stamp = "2026-01-02T03:04:05.000000006Z"
    path.write_text("".join(f"{stamp} {line}\n" for line in lines))
    return path


def words(pod: Pod, state: ContainerState, folder: Path) -> str:
    return message_of(pod, pod.spec.containers[0], state, folder)


def test_a_file_is_writable_by_any_user_and_stays(tmp_path: Path) -> None:
    said(tmp_path, b"here")
    path = file_of(tmp_path, "c0", 0)
    make(path)
    assert path.stat().st_mode & 0o777 == 0o666
    assert words(pod_of(), ended(), tmp_path) == "here"


def test_the_file_of_the_run_is_read(tmp_path: Path) -> None:
    said(tmp_path, b"first")
    said(tmp_path, b"second", 1)
    assert words(pod_of(), ended(attempt=1), tmp_path) == "second"
    assert words(pod_of(), ended(attempt=2), tmp_path) == ""


def test_files_of_old_runs_go(tmp_path: Path) -> None:
    for attempt in range(5):
        said(tmp_path, b"x", attempt)
    (file_of(tmp_path, "c0", 0).parent / "termination-log-x").write_text("other")
    forget_before(file_of(tmp_path, "c0", 4), 3)
    left = sorted(each.name for each in file_of(tmp_path, "c0", 0).parent.iterdir())
    assert left == [f"termination-log-{each}" for each in (2, 3, 4, "x")]


@pytest.mark.parametrize(
    ("policy", "code", "reason", "content", "expected"),
    [
        ("FallbackToLogsOnError", 1, "Error", b"", "from the log\n"),
        ("FallbackToLogsOnError", 1, "Error", b"file", "file"),
        ("FallbackToLogsOnError", 0, "Completed", b"", ""),
        ("FallbackToLogsOnError", 1, "ContainerCannotRun", b"", ""),
        ("File", 1, "Error", b"", ""),
    ],
)
def test_the_log_speaks_where_a_failed_container_left_no_word(
    tmp_path: Path, policy: str, code: int, reason: str, content: bytes, expected: str
) -> None:
    said(tmp_path, content)
    log = log_of(tmp_path, "stdout F from the log")
    assert words(pod_of(policy), ended(log, code, reason=reason), tmp_path) == expected


def test_what_was_agreed_at_the_start_counts(tmp_path: Path) -> None:
    log = log_of(tmp_path, "stdout F log")
    agreed = {POLICY: "FallbackToLogsOnError", PATH: "/x"}
    assert words(pod_of("File"), ended(log, annotations=agreed), tmp_path) == "log\n"


def test_without_a_path_no_file_is_read(tmp_path: Path) -> None:
    said(tmp_path, b"here")
    assert words(pod_of(path=""), ended(annotations={PATH: ""}), tmp_path) == ""


def test_of_a_log_the_last_lines_are_taken_without_their_marks(tmp_path: Path) -> None:
    lines = [f"stderr F {number}" for number in range(100)]
    log = log_of(tmp_path, *lines, "stdout P split ", "stdout F line")
    found = words(pod_of("FallbackToLogsOnError"), ended(log), tmp_path)
    assert found.splitlines()[0] == "22"
    assert found.splitlines()[-1] == "split line"


@pytest.mark.parametrize(("count", "size"), [(1, 4_096), (3, 4_096), (4, 3_072), (6, 2_048)])
def test_words_are_cut_to_a_containers_share(tmp_path: Path, count: int, size: int) -> None:
    said(tmp_path, b"b" + b"a" * 4_095)
    found = words(pod_of(count=count), ended(), tmp_path)
    assert (len(found), found[0]) == (size, "b")


def test_of_a_long_file_and_of_a_long_log_the_end_is_taken(tmp_path: Path) -> None:
    said(tmp_path, b"b" * 100 + b"a" * 4_096)
    assert words(pod_of(), ended(), tmp_path) == "a" * 4_096
    said(tmp_path, b"")
    log = log_of(
        tmp_path, *[f"stdout F {'x' * 8_000}" for _ in range(79)], f"stdout F {'y' * 2_047}"
    )
    assert words(pod_of("FallbackToLogsOnError"), ended(log), tmp_path) == "y" * 2_047 + "\n"


def test_a_log_that_is_none_is_told(tmp_path: Path) -> None:
    log = tmp_path / "0.log"
    log.write_text("rubbish\n")
    found = words(pod_of("FallbackToLogsOnError"), ended(log), tmp_path)
    assert found.startswith("Error on reading termination message from logs: ")
    log.unlink()
    assert words(pod_of("FallbackToLogsOnError"), ended(log), tmp_path) == ""


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    path = file_of(tmp_path, "c0", 0)
    path.parent.mkdir(parents=True)
    path.symlink_to("/etc/passwd")
    assert "Error on reading termination log" in words(pod_of(), ended(), tmp_path)
    with pytest.raises(OSError, match="symbolic link"):
        make(path)


def test_half_a_letter_at_the_cut_goes(tmp_path: Path) -> None:
    said(tmp_path, ("ab" + "é" * 2_000).encode())
    found = words(pod_of(count=5), ended(), tmp_path)
    assert found == "ab" + "é" * 1_227
