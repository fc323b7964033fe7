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
    """No module imports one above it, or a remote on its own floor."""
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "3 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "imported", "told"),
    [
        pytest.param(
            "core/ports", "ops.logs", "ai_task_processor.core.ports -> ai_task_processor.ops.logs", id="upwards"
        ),
        pytest.param(
            "sources/nestjs/page", "stores.sqlite.wal", "ai_task_processor.sources is not allowed", id="sideways"
        ),
        pytest.param("engine/runner", "stores.sqlite.wal", "ai_task_processor.engine.runner ->", id="implementation"),
        pytest.param("sandbox/planted", "core.settings", "ai_task_processor.sandbox.planted", id="sandbox"),
        pytest.param("attic", "core.errors", "attic", id="no layer"),
    ],
)
def test_a_planted_import_breaks_a_contract(copy: Path, module: str, imported: str, told: str) -> None:
    """An import against the layers, or a module without one, is refused by name."""
    with (copy / "ai_task_processor" / f"{module}.py").open("a") as file:
        file.write(f"\nimport ai_task_processor.{imported}\n")
    answer = lint(copy)
    assert answer.returncode == 1
    assert told in answer.stdout
