"""Room on the disk that is kept for a start on a full one."""

from __future__ import annotations

from pathlib import Path

import pytest

import edge.reserve
from edge.reserve import BYTES, PLENTY, Reserve


def test_room_is_kept_while_there_is_plenty_and_given_up_when_there_is_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    free = 0
    monkeypatch.setattr(edge.reserve, "_free", lambda _folder: free)
    reserve, file = Reserve(tmp_path / "edge.db"), tmp_path / "edge.db-reserve"
    reserve.use()
    reserve.keep()
    assert not file.exists()
    free = PLENTY * BYTES + 1
    reserve.keep()
    reserve.use()
    assert file.stat().st_blocks * 512 >= BYTES
    free = BYTES - 1
    reserve.use()
    assert not file.exists()


def test_a_folder_that_is_not_there_fails_nothing(tmp_path: Path) -> None:
    reserve = Reserve(tmp_path / "none" / "edge.db")
    reserve.use()
    reserve.keep()
