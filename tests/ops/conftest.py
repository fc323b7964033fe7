"""One bad minute for all tests of this folder: the daemon, Prometheus and what the boards make of it; a summary."""

import asyncio
import json
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.ops.incident import Incident, Report


@pytest.fixture(scope="session")
def report(tmp_path_factory: pytest.TempPathFactory) -> Report:
    """The run's report; the answers are left as ``answers.json`` in ``OPS_OUTPUT``, when that is set."""
    found = asyncio.run(Incident(tmp_path_factory.mktemp("incident")).report())
    if output := os.environ.get("OPS_OUTPUT"):
        answers = [asdict(one) for one in found.asked]
        (Path(output) / "answers.json").write_text(json.dumps(answers))
    return found


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with Sandbox() as running:
        yield running


@pytest.fixture
def tell() -> Callable[[str], None]:
    """Leaves a line ``part: figures`` for the summary of ``run``, in ``OPS_OUTPUT``, when that is set."""

    def told(line: str) -> None:
        if output := os.environ.get("OPS_OUTPUT"):
            with (Path(output) / "figures.txt").open("a") as figures:
                figures.write(f"{line}\n")

    return told
