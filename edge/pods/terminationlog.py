"""The last words of a container: a file mounted into it, and the end of its log where that is asked for.

Source: Kubernetes "Determine the Reason for Pod Failure"; sizes as the kubelet of 1.36.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

from edge.pods.logfiles import LogOptions, LogView, tail_start
from edge.pods.logplaces import open_log_file
from edge.pods.podspec import Container, Pod
from edge.pods.runtime import ContainerState
from gateway.errors import BadRequest

PATH: Final = "io.kubernetes.container.terminationMessagePath"
POLICY: Final = "io.kubernetes.container.terminationMessagePolicy"
"""Annotations of containers: what was agreed when they were made."""
FALLBACK: Final = "FallbackToLogsOnError"
MAX_MESSAGE, MAX_OF_LOG, MAX_LINES, MAX_OF_POD = 4_096, 2_048, 80, 12 * 1_024
"""Bytes of a file, bytes and lines of a log, bytes of all containers of a Pod."""
_MAX_READ: Final = 256 * 1_024
_CANNOT_RUN: Final = "ContainerCannotRun"


def file_of(folder: Path, container: str, attempt: int) -> Path:
    """Return the file of one run of a container below its Pod's folder."""
    return folder / "containers" / container / f"termination-log-{attempt}"


def make(path: Path) -> None:
    """Make an empty file that any user of a container may write to; one that is there stays."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o750)
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666))
    os.chmod(path, 0o666)  # noqa: S103  its containers run as any user


def forget_before(path: Path, kept: int) -> None:
    """Remove the files of runs before the last `kept` ones."""
    attempt = int(path.name.rpartition("-")[2])
    for each in path.parent.glob("termination-log-*"):
        number = each.name.rpartition("-")[2]
        if number.isdigit() and int(number) <= attempt - kept:
            each.unlink(missing_ok=True)


def message_of(pod: Pod, container: Container, state: ContainerState, folder: Path) -> str:
    """Return the last words of an ended container, cut to its share of what a Pod may say."""
    agreed = state.annotations
    path = agreed.get(PATH, container.termination_message_path)
    policy = agreed.get(POLICY, container.termination_message_policy)
    found = _of_file(file_of(folder, container.name, state.attempt)) if path else b""
    may_fall_back = policy == FALLBACK and state.exit_code != 0 and state.reason != _CANNOT_RUN
    if not found and may_fall_back and state.log_path:
        found = _of_log(Path(state.log_path))
    share = min(MAX_MESSAGE, MAX_OF_POD // max(len(pod.containers()), 1))
    return found[:share].decode(errors="ignore" if len(found) > share else "replace")


def _of_file(path: Path) -> bytes:
    """Return the end of a file; one that is not there says nothing."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return b""
    except OSError as error:
        return f"Error on reading termination log {path}: {error.strerror}".encode()
    with open(descriptor, "rb") as file:
        size = os.fstat(descriptor).st_size
        file.seek(max(size - MAX_MESSAGE, 0))
        return file.read(MAX_MESSAGE)


def _of_log(path: Path) -> bytes:
    """Return the end of a container's log, without times and streams."""
    try:
        with open(open_log_file(path), "rb") as file:
            content = _last_lines(file.fileno())
        return LogView(LogOptions()).take(content)[-MAX_OF_LOG:]
    except FileNotFoundError:
        return b""
    except (OSError, BadRequest) as error:
        return f"Error on reading termination message from logs: {error}".encode()


def _last_lines(descriptor: int) -> bytes:
    """Return whole lines: the last ones, of not too many bytes."""
    size = os.fstat(descriptor).st_size
    start = tail_start(lambda at, length: os.pread(descriptor, length, at), size, MAX_LINES)
    first = max(start, size - _MAX_READ)
    content = os.pread(descriptor, size - first, first)
    return content if first == start else content.partition(b"\n")[2]
