"""The stairs go one way: import-linter's contracts hold, and would notice when they did not."""

import shutil
import sys
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from tests.commands import ran

ROOT = Path(__file__).parents[2]
LINT = "import sys; from importlinter.cli import lint_imports_command; sys.exit(lint_imports_command())"


def lint(folder: Path) -> CompletedProcess[str]:
    return ran(sys.executable, "-c", LINT, "--no-cache", "--no-logo", cwd=folder)


def test_every_contract_is_kept() -> None:
    """No module imports one above it, or a remote on its own floor."""
    answer = lint(ROOT)
    assert answer.returncode == 0, answer.stdout + answer.stderr
    assert "3 kept, 0 broken" in answer.stdout


@pytest.mark.parametrize(
    ("module", "imported", "told"),
    [
        ("core/ports", "ops.logs", "ai_task_processor.core.ports -> ai_task_processor.ops.logs"),
        ("sources/nestjs/page", "stores.sqlite.wal", "ai_task_processor.sources is not allowed"),
        ("engine/runner", "stores.sqlite.wal", "ai_task_processor.engine.runner ->"),
        ("sandbox/planted", "core.settings", "ai_task_processor.sandbox.planted"),
        ("attic", "core.errors", "attic"),
    ],
    ids=["upwards", "sideways", "implementation", "sandbox", "no layer"],
)
def test_a_planted_import_breaks_a_contract(tmp_path: Path, module: str, imported: str, told: str) -> None:
    """An import against the layers, or a module without one, is refused by name."""
    shutil.copytree(ROOT / "ai_task_processor", tmp_path / "ai_task_processor")
    shutil.copy(ROOT / "pyproject.toml", tmp_path)
    with (tmp_path / "ai_task_processor" / f"{module}.py").open("a") as file:
        file.write(f"\nimport ai_task_processor.{imported}\n")
    answer = lint(tmp_path)
    assert answer.returncode == 1
    assert told in answer.stdout
