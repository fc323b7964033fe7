"""``new processor``: the package passes its test, and once it is installed a daemon finds it."""

import sys
from collections.abc import Awaitable, Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.commands import ran
from tests.e2e.conftest import ROOT, Finished, Start, WatchedSandbox

pytestmark = pytest.mark.skipif(
    not find_spec("uv") or not find_spec("hatchling"), reason="uv or hatchling is not installed here (make dev does)"
)


async def test_from_new_to_its_first_task(
    sandbox: WatchedSandbox, daemon: Start, command: Callable[..., Awaitable[Finished]], tmp_path: Path
) -> None:
    """Written, installed, tested, tried with ``process``, and used by a daemon."""
    ended = await command({}, "new", "processor", "shout-words")
    assert (ended.code, ended.err) == (0, "")
    package, site = tmp_path / "shout-words-processor", tmp_path / "site"
    install = ("-m", "uv", "pip", "install", "--quiet", "--offline", "--no-deps", "--no-build-isolation")
    ran(sys.executable, *install, "--target", site, package, cwd=tmp_path).check_returncode()
    path = f"{site}:{ROOT}"
    tested = ran(
        sys.executable,
        "-W",
        "error",
        "-m",
        "unittest",
        "discover",
        package / "tests",
        cwd=tmp_path,
        env={"PYTHONPATH": path},
    )
    assert "Ran 2 tests" in tested.stderr
    assert tested.returncode == 0, tested.stderr
    tried = await command({"PYTHONPATH": str(site)}, "process", str(package / "task.json"))
    assert (tried.code, tried.out) == (0, '{"state":"succeeded","result":{"words":3}}\n')
    ids = [sandbox.tasks.add(text, type="shout_words") for text in ("one", "one two", "")]
    await daemon(PYTHONPATH=site)
    await sandbox.tasks.settled(ids, timeout=20)
    results = [sandbox.tasks[each].result or sandbox.tasks[each].code for each in ids]
    assert results == [{"words": 1}, {"words": 2}, "too_short"]
