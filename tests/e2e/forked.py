"""``python -m ai_task_processor`` in a process of its own, forked off a server that has imported the product.

Most of a start is imports. Nothing else is shared, and importing the product does nothing (tests/house holds that).
The starts of a new Python are tested in test_process.py and test_cli.py.
"""

import asyncio
import io
import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).parents[2]
_CONTEXT = multiprocessing.get_context("forkserver")


def prepare() -> None:
    """Start the server, and wait until it has imported everything. Threads of a library would not survive a fork."""
    _CONTEXT.set_forkserver_preload(["tests.e2e.forked", "tests.e2e.preloaded"])
    first = _CONTEXT.Process(target=int)
    with patch.dict(os.environ, OPENBLAS_NUM_THREADS="1", PYTHONPATH=str(ROOT)):
        first.start()
    first.join()


@dataclass(frozen=True, slots=True)
class _Command:
    """What the new process becomes. ``out`` and ``err`` are the files behind its streams."""

    arguments: Sequence[str]
    directory: Path
    environment: Mapping[str, str]
    out: Path
    err: Path

    def __call__(self) -> None:
        os.chdir(self.directory)
        os.environ.clear()
        os.environ.update(self.environment)
        sys.argv = ["ai_task_processor", *self.arguments]
        own = [str(self.directory), *self.environment["PYTHONPATH"].split(os.pathsep)]
        sys.path[:] = [*own, *(folder for folder in sys.path if folder not in own)]
        encoding = self.environment.get("PYTHONIOENCODING", "utf-8")
        for descriptor, (file, stream) in enumerate(((self.out, sys.stdout), (self.err, sys.stderr)), 1):
            with file.open("ab") as opened:
                os.dup2(opened.fileno(), descriptor)
            assert isinstance(stream, io.TextIOWrapper)
            stream.reconfigure(encoding=encoding, errors="strict" if descriptor == 1 else "backslashreplace")
        runpy.run_module("ai_task_processor", run_name="__main__", alter_sys=True)


class ForkedProcess:
    """A command from now on, with what the tests use of ``asyncio.subprocess.Process``."""

    def __init__(
        self, arguments: Sequence[str], directory: Path, environment: Mapping[str, str], out: Path, err: Path
    ) -> None:
        command = _Command(arguments, directory, environment, out, err)
        self._process = _CONTEXT.Process(target=command, daemon=True)
        self._process.start()
        self.pid = self._process.pid or 0

    @property
    def returncode(self) -> int | None:
        """None while it runs, negative when a signal ended it."""
        return self._process.exitcode

    def kill(self) -> None:
        self._process.kill()

    async def wait(self) -> int:
        while (code := self.returncode) is None:  # noqa: ASYNC110 - another process decides
            await asyncio.sleep(0.01)
        return code
