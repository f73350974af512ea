"""Lists of kubectl calls, nearly all that kubectl does, against one server with all its control loops."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.command_lists import FOLDER, Player
from tests.kube_server import KubeServer
from tests.kube_stage import kube_stage
from tests.kubectl import find_kubectls

KUBECTLS = find_kubectls()
NEWEST = next(iter(KUBECTLS), "")
OTHERS = [name for name in KUBECTLS if name.startswith("v") and name != NEWEST]
LISTS = sorted(FOLDER.glob("*.txt"))
SHORT = FOLDER / "short"

pytestmark = [
    pytest.mark.skipif(not KUBECTLS, reason="no kubectl: install the group `peers`"),
    pytest.mark.asyncio(loop_scope="module"),
]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def server(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[KubeServer]:
    async with kube_stage(tmp_path_factory.mktemp("cloud")) as running:
        yield running


@pytest.mark.parametrize("path", LISTS, ids=lambda path: path.stem)
async def test_kubectl_does_and_says_what_is_expected(
    path: Path, server: KubeServer, tmp_path: Path
) -> None:
    faults = await Player(KUBECTLS[NEWEST], server.kubeconfig, tmp_path).play(path)
    assert not faults, "\n\n".join(faults)


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("path", sorted(SHORT.glob("*.txt")), ids=lambda path: path.stem)
async def test_older_and_newer_kubectls_do_the_daily_work(
    path: Path, name: str, server: KubeServer, tmp_path: Path
) -> None:
    faults = await Player(KUBECTLS[name], server.kubeconfig, tmp_path).play(path)
    assert not faults, "\n\n".join(faults)
