"""The stairs go one way: import-linter's contracts hold, and would notice when they did not."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", LINT, "--no-cache", "--no-logo"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The package and its contracts, free to be spoiled."""
    shutil.copytree(ROOT / "ai_task_processor", tmp_path / "ai_task_processor")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    return tmp_path


def test_every_contract_is_kept() -> None:
    """No module imports one above it, or a neighbour on its own floor."""
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "2 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "imported", "told"),
    [
        pytest.param("ports", "codec", "ai_task_processor.ports -> ai_task_processor.codec", id="upwards"),
        pytest.param("server", "batching", "ai_task_processor.server -> ai_task_processor.batching", id="sideways"),
        pytest.param("sandbox/planted", "settings", "ai_task_processor.sandbox.planted", id="sandbox"),
        pytest.param("attic", "errors", "attic", id="no floor"),
    ],
)
def test_a_planted_import_breaks_a_contract(copy: Path, module: str, imported: str, told: str) -> None:
    """An import against the stairs, or a module without a floor, is refused by name."""
    with (copy / "ai_task_processor" / f"{module}.py").open("a") as file:
        file.write(f"\nfrom ai_task_processor import {imported}\n")
    answer = lint(copy)
    assert answer.returncode == 1
    assert told in answer.stdout
