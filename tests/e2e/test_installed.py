"""What `pip install` leaves behind starts: the wheel has all data files, nothing reads the repository."""

import compileall
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.process import ANY_PORT, eventually, run

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the wheel holds, compiled as pip compiles it."""
    folder = tmp_path_factory.mktemp("installed")
    source = folder / "source"
    for name in ("gateway", "cloud", "edge"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    target = folder / "site"
    pip = (sys.executable, "-m", "pip", "install", "-q", "--no-deps")
    run(*pip, "--target", str(target), str(source), timeout=300)
    assert compileall.compile_dir(target, quiet=1)
    shutil.rmtree(source)
    return target


@pytest.mark.parametrize("command", ["up", "cloud", "gateway"])
def test_an_installed_wheel_starts_from_any_folder(
    installed: Path, tmp_path: Path, command: str
) -> None:
    sets = [word for setting in ANY_PORT for word in ("--set", setting)]
    where = "import gateway; print(gateway.__file__)"
    env = {**os.environ, "PYTHONPATH": str(installed), "PYTHONDONTWRITEBYTECODE": "1"}
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.startswith(str(installed))
    data, log = tmp_path / "data", tmp_path / "log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "gateway.cli", command, "--data-dir", str(data), *sets],
            cwd=tmp_path, env=env, stdout=out, stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        eventually(
            lambda: (data / "endpoints.json").exists() or process.poll() is not None, seconds=60
        )
        assert process.poll() is None, log.read_text()
        assert "ops.http" in json.loads((data / "endpoints.json").read_text())
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)
