"""These tests need tools that only ``tests/ops/run`` fetches; it says where they are."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ops.deployment.engine import CONFIGURATION, IMAGE, ROOT, build, inspected, podman

collect_ignore_glob = [] if "DEPLOYMENT_TOOLS" in os.environ else ["test_*.py"]


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of buildah and podman. No timer of systemd can ask for a container's health."""
    config = tmp_path_factory.mktemp("engine") / "containers.conf"
    config.write_text(CONFIGURATION)
    return {**os.environ, "CONTAINERS_CONF": str(config), "DISABLE_HC_SYSTEMD": "true"}


@pytest.fixture(scope="session")
def image(engine: dict[str, str]) -> Iterator[dict[str, Any]]:
    """The built image, as ``podman image inspect`` describes it; removed at the end."""
    subprocess.run([Path(__file__).parent / "base-image.sh"], env=engine, check=True, timeout=300)
    build(engine, ROOT, IMAGE)
    yield inspected(engine, IMAGE)
    podman(engine, "image", "rm", IMAGE)
