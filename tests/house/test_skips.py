"""A test that cannot run here is skipped by name, and fails where nothing may be missing."""

import os
import sys
from pathlib import Path

import pytest

from tests.commands import ran

ROOT = Path(__file__).parents[2]
SKIPPED = """
import pytest

@pytest.fixture
def machine():
    pytest.skip("no such machine")

def test_in_a_fixture(machine): pass

@pytest.mark.skipif(True, reason="no such module")
def test_by_a_mark(): pass

@pytest.mark.xfail
def test_known_to_fail(): assert False
"""


@pytest.mark.parametrize(
    ("required", "code", "summary"), [("", 0, "2 skipped, 1 xfailed"), ("1", 1, "1 xfailed, 2 errors")]
)
def test_a_skip_is_a_failure_where_all_is_required(tmp_path: Path, required: str, code: int, summary: str) -> None:
    """The reason is shown in both cases; a test that is known to fail is no skip."""
    (tmp_path / "test_skipped.py").write_text(SKIPPED)
    plugins = ["-p", "no:cacheprovider", "-p", "tests.conftest"]
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, *plugins, "-rs", "--rootdir", *[str(tmp_path)] * 2]
    quick = {"PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    answer = ran(*command, cwd=tmp_path, env=os.environ | quick | {"REQUIRE_ALL": required})
    assert answer.returncode == code, answer.stdout + answer.stderr
    assert summary in answer.stdout
    assert "no such machine" in answer.stdout
    assert "no such module" in answer.stdout
