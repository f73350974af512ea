"""Where the container runtime's socket is, without the library that speaks to it."""

from __future__ import annotations

from pathlib import Path

from gateway.errors import InvalidSetting

SOCKETS = ("/run/containerd/containerd.sock", "/run/crio/crio.sock")


def find_endpoint(setting: str) -> str | None:
    """Return the runtime's socket as `unix://PATH`: the one set, else the first that is there.

    Errors: InvalidSetting for a setting that names no absolute path.
    """
    if setting:
        path = setting.removeprefix("unix://")
        if not path.startswith("/"):
            raise InvalidSetting(
                f"edge.workloads.runtime: expected unix:///path/of/a.sock, got {setting[:100]!r}"
            )
        return f"unix://{path}"
    found = next((each for each in SOCKETS if Path(each).is_socket()), None)
    return None if found is None else f"unix://{found}"
