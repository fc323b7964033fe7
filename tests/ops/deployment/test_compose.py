"""The compose file before Docker Compose itself: no key that nobody knows, no complaint. It needs no engine."""

import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.prometheus import executable

ROOT = Path(__file__).parents[3]

Break = Callable[[dict[str, Any]], None]


def compose_config(file: Path) -> subprocess.CompletedProcess[str]:
    """Docker Compose's own reading of the file; it refuses unknown keys. ``.env`` need not exist for that."""
    directory = file.parent
    (directory / ".env").touch()
    where = ["--project-directory", str(directory), "--file", str(file), "--profile", "*"]
    command = [executable("docker-compose"), *where, "config", "--quiet"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=60)


def test_docker_compose_knows_every_key(tmp_path: Path) -> None:
    """Docker Compose reads the shipped file without an error or a warning."""
    file = tmp_path / "docker-compose.yml"
    file.write_text((ROOT / "docker-compose.yml").read_text())
    done = compose_config(file)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    "break_it",
    [
        lambda compose: compose.update(service={}),
        lambda compose: compose["services"]["ai-task-processor"].update(mem_limits="1g"),
        lambda compose: compose["services"]["grafana"]["healthcheck"].update(retires=3),
    ],
    ids=["file", "service", "probe"],
)
def test_an_unknown_key_is_found_in_a_compose_file(break_it: Break, tmp_path: Path) -> None:
    """The check above can fail."""
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    break_it(compose)
    file = tmp_path / "docker-compose.yml"
    file.write_text(yaml.safe_dump(compose))
    assert compose_config(file).returncode != 0
