"""The command line as a person or a script meets it."""

import asyncio
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor import __version__
from ai_task_processor.cli.help_texts import EXAMPLES
from ai_task_processor.cli.main import main
from ai_task_processor.sandbox.app import Sandbox

ROOT = Path(__file__).parents[2]


def run(*arguments: str, **settings: str) -> "subprocess.CompletedProcess[str]":
    environment = {"PATH": os.environ["PATH"], **settings}
    command = [sys.executable, *arguments]
    return subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)


def test_version_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert (ended.value.code, capsys.readouterr().out) == (0, f"ai-task-processor {__version__}\n")


COMMANDS = tuple(EXAMPLES)


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["doktor"], 2, "did you mean doctor?"),
        (["outbox", "lits"], 2, "did you mean list?"),
        (["zzz"], 2, "invalid choice: 'zzz'"),
        *(([command, "--help"], 0, EXAMPLES[command]) for command in COMMANDS),
    ],
    ids=["wrong command", "wrong action", "neither", *COMMANDS],
)
def test_every_command_explains_itself(
    arguments: list[str], code: int, told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """``COMMAND --help`` exits 0 with examples; a wrong name is an error that suggests the right one."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == code
    said = capsys.readouterr()
    assert told in (said.err if code else said.out)


def test_without_a_command_there_is_help(capsys: pytest.CaptureFixture[str]) -> None:
    """It is an error nevertheless: a container without a command must not look as if it had done its work."""
    assert main([]) == 2
    assert "ai-task-processor doctor " in capsys.readouterr().err


async def test_run_py_is_the_daemon(sandbox: Sandbox, tmp_path: Path) -> None:
    """``python run.py`` works without installing the package, and passes its arguments on."""
    sandbox.tasks.add(text="hello")
    settings = {**sandbox.environment(), "DATA_DIR": str(tmp_path / "data"), "METRICS_PORT": "0"}
    ended = await asyncio.to_thread(lambda: run("run.py", "--until-empty", **settings))
    assert ended.returncode == 0, ended.stderr
    assert sandbox.tasks.outcomes() == {"succeeded": 1}


async def test_healthcheck_asks_the_daemon_here(daemon: Callable[..., Awaitable[Any]]) -> None:
    """0 beside a healthy daemon, 1 with one line where nobody answers."""
    worker = await daemon()
    command = ("-m", "ai_task_processor", "healthcheck")
    well = await asyncio.to_thread(lambda: run(*command, METRICS_PORT=str(worker.port)))
    assert (well.returncode, well.stdout) == (0, "ok\n")
    await worker.stop()
    gone = await asyncio.to_thread(lambda: run(*command, METRICS_PORT=str(worker.port)))
    assert gone.returncode == 1
    assert "no answer from 127.0.0.1" in gone.stderr
    assert gone.stderr.count("\n") == 1
