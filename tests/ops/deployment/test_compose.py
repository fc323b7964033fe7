"""The compose file before Docker Compose itself: no key that nobody knows, no complaint. It needs no engine."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.commands import ran
from tests.ops.prometheus import executable

ROOT = Path(__file__).parents[3]

Break = Callable[[dict[str, Any]], None]


SHIPPED = (ROOT / "docker-compose.yml").read_text()
OVER = sorted((ROOT / "deploy" / "compose").glob("*.yml"))
#: what those files want to know
DOTENV = "DATABASE_PASSWORD=secret\nKAFKA_BOOTSTRAP_SERVERS=broker:9092\n"


def compose_config(content: str, directory: Path, *over: Path) -> tuple[int, str]:
    """Docker Compose's own reading of the file, with others over it; it refuses unknown keys."""
    (directory / ".env").write_text(DOTENV)
    file = directory / "docker-compose.yml"
    file.write_text(content)
    where: list[str | Path] = ["--project-directory", directory, "--file", file, "--profile", "*"]
    where += [part for each in over for part in ("--file", each)]
    done = ran(executable("docker-compose"), *where, "config", "--quiet", cwd=ROOT)
    return done.returncode, done.stderr


def test_docker_compose_knows_every_key(tmp_path: Path) -> None:
    """Docker Compose reads the shipped file without an error or a warning."""
    assert compose_config(SHIPPED, tmp_path) == (0, "")


@pytest.mark.parametrize("over", OVER, ids=lambda file: file.stem)
def test_docker_compose_takes_the_file_of_each_profile(over: Path, tmp_path: Path) -> None:
    """It fits over the shipped file, without an error or a warning."""
    assert compose_config(SHIPPED, tmp_path, over) == (0, "")


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
    compose = yaml.safe_load(SHIPPED)
    break_it(compose)
    assert compose_config(yaml.safe_dump(compose), tmp_path)[0] != 0
