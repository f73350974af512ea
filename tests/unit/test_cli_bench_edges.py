"""What `bench edges` tells and where it goes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gateway.cli.bench_edges import _local, _most_of


@pytest.mark.parametrize("host", ["0.0.0.0", "[::]"])
def test_a_cloud_on_all_addresses_is_reached_by_a_name_of_its_certificate(
    tmp_path: Path, host: str
) -> None:
    bound = {"cloudhub.https": f"{host}:10002", "cloudhub.wss": f"{host}:10000"}
    (tmp_path / "endpoints.json").write_text(json.dumps(bound))
    url, hub, _ = _local(tmp_path, "", tmp_path / "kubeconfig")
    assert (url, hub) == ("https://localhost:10002", "localhost:10000")


def test_the_error_that_most_nodes_have_is_named() -> None:
    assert _most_of({"a": 1, "refused": 7, "b": 2}) == " (refused)"
    assert not _most_of({})
