"""What `--bind` opens: the listeners that edge nodes use, and no other."""

from __future__ import annotations

from pathlib import Path

from gateway.cli.run import _settings


def test_bind_opens_what_edge_nodes_connect_to_and_nothing_else(tmp_path: Path) -> None:
    options = {"file": None, "sets": (), "data_dir": tmp_path, "demo": False, "insecure": False}
    cloud = _settings(options, bind="192.0.2.7").cloud
    assert cloud.hub.wss.bind == "192.0.2.7:10000"
    assert cloud.hub.https.bind == "192.0.2.7:10002"
    assert cloud.stream.tunnel_bind == "192.0.2.7:10004"
    assert cloud.stream.bind == "127.0.0.1:10003"
    assert cloud.router.bind == "127.0.0.1:9443"
