"""Images that are made here: layout, digests, and that their programs run and end."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import signal
import subprocess
import tarfile
from pathlib import Path

import pytest

from edge.pods.sampleimages import HEARTBEAT, Image, archive, heartbeat_image, pause_image
from gateway.errors import BadRequest

MACHINE = platform.machine()


def program(image: Image, folder: Path) -> Path:
    """Unpack the one program of an image."""
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(image.layer))) as tar:
        tar.extractall(folder, filter="data")
        return folder / tar.getnames()[0]


def test_an_archive_is_a_layout_whose_digests_hold() -> None:
    text = archive({"a.example/pause:3": pause_image("arm64"), HEARTBEAT: heartbeat_image("amd64")})
    with tarfile.open(fileobj=io.BytesIO(text)) as tar:
        files = {name: tar.extractfile(name) for name in tar.getnames()}
        content = {name: file.read() for name, file in files.items() if file is not None}
    assert json.loads(content.pop("oci-layout")) == {"imageLayoutVersion": "1.0.0"}
    index = json.loads(content.pop("index.json"))
    for name, blob in content.items():
        assert hashlib.sha256(blob).hexdigest() == name.removeprefix("blobs/sha256/")
    names = [each["annotations"]["io.containerd.image.name"] for each in index["manifests"]]
    assert names == ["a.example/pause:3", HEARTBEAT]
    for entry in index["manifests"]:
        manifest = json.loads(content["blobs/sha256/" + entry["digest"].removeprefix("sha256:")])
        config, layer = manifest["config"], manifest["layers"][0]
        described = json.loads(content["blobs/sha256/" + config["digest"].removeprefix("sha256:")])
        packed = content["blobs/sha256/" + layer["digest"].removeprefix("sha256:")]
        assert layer["size"] == len(packed)
        digest = "sha256:" + hashlib.sha256(gzip.decompress(packed)).hexdigest()
        assert described["rootfs"]["diff_ids"] == [digest]


def test_the_sample_says_its_words_and_ends_on_sigterm(tmp_path: Path) -> None:
    path = program(heartbeat_image(MACHINE, "here I am"), tmp_path)
    with subprocess.Popen([path], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"here I am\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0


def test_the_pause_program_stays_until_it_is_killed(tmp_path: Path) -> None:
    path = program(pause_image(MACHINE), tmp_path)
    with subprocess.Popen([path]) as process:
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.2)
        process.kill()
        assert process.wait(10) == -signal.SIGKILL


def test_a_machine_without_a_program_is_named() -> None:
    with pytest.raises(BadRequest, match="riscv64"):
        pause_image("riscv64")
