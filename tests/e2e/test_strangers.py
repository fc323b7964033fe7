"""Source, store, sink and processor of strangers: four packages, installed from outside, and no change to this one."""

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.conftest import Finished, Start, eventually

PACKAGES = Path(__file__).parent / "packages"
KINDS = {
    "acme_folder": ("sources", {"folder": "acme_folder:FolderSource"}),
    "acme_memory": ("stores", {"forgetful": "acme_memory:ForgetfulStore"}),
    "acme_lines": ("sinks", {"lines": "acme_lines:LinesSink"}),
    "acme_words": ("processors", {"words": "acme_words:WordsProcessor"}),
}


@pytest.fixture
def strangers(install: Callable[..., Path], tmp_path: Path) -> dict[str, str]:
    """The settings of a daemon of which every part is a stranger's: nothing of OAuth2, the task API or a model."""
    sites = [
        install(name, (PACKAGES / f"{name}.py").read_text(), kind=kind, **entry_points)
        for name, (kind, entry_points) in KINDS.items()
    ]
    return {
        "PYTHONPATH": ":".join(map(str, sites)),
        "TASK_SOURCE": "folder",
        "STORE": "forgetful",
        "SINKS": "lines",
        "ACME_FOLDER": str(tmp_path / "tasks"),
        "ACME_LINES": str(tmp_path / "lines"),
    }


def add(folder: Path, name: str, text: object) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps({"type": "word_count", "content": {"text": text}}))


def outcome(folder: Path, name: str) -> Any:
    path = folder / f"{name}.done"
    return json.loads(path.read_text()) if path.exists() else None


async def test_a_daemon_of_strangers_parts(bare_daemon: Start, strangers: dict[str, str], tmp_path: Path) -> None:
    """Tasks come from files, results are kept in memory, written to a sink and reported; their metrics are served."""
    folder = tmp_path / "tasks"
    for n in range(20):
        add(folder, f"t{n:02}", "one two three four" if n % 2 else "one")
    add(folder, "bad", None)
    worker = await bare_daemon(**strangers, CONCURRENCY_LIMIT="5", POLLING_INTERVAL_SECONDS="0.2")
    await eventually(
        lambda: all(outcome(folder, name) for name in (*(f"t{n:02}" for n in range(20)), "bad")), timeout=20
    )
    assert outcome(folder, "t03") == {"state": "succeeded", "output": {"words": 4}}
    assert outcome(folder, "bad") == {"state": "failed", "code": "invalid_content"}
    lines = dict(json.loads(line) for line in (tmp_path / "lines").read_text().splitlines())
    assert (len(lines), lines["t03"]) == (21, '{"words":4}')
    assert await worker.metric('acme_words_total{size="long"}') == 40
    status = await worker.status()
    assert (status["source"], status["mode"], status["outbox"]["waiting"]) == ("folder", "none", 0)
    assert (await worker.get("/ready")).status_code == 200
    assert await worker.stop() == 0


async def test_leases_are_kept_alive_and_lost_or_cancelled_ones_stop(
    bare_daemon: Start, strangers: dict[str, str], tmp_path: Path
) -> None:
    """A task that takes three leases is done once; one whose lease somebody else has is dropped; one is cancelled."""
    folder = tmp_path / "tasks"
    for name in ("long", "lost", "unwanted"):
        add(folder, name, "a b")
    settings = {"ACME_WORDS_SECONDS": "3", "ACME_LEASE_SECONDS": "1", "POLLING_INTERVAL_SECONDS": "0.2"}
    worker = await bare_daemon(**strangers, **settings)
    await eventually(
        lambda: all((folder / f"{name}.lease").exists() for name in ("long", "lost", "unwanted")), timeout=10
    )
    (folder / "lost.lease").write_text("somebody-else 9999999999")
    (folder / "unwanted.cancel").touch()
    await eventually(lambda: outcome(folder, "long") and outcome(folder, "unwanted"), timeout=20)
    assert outcome(folder, "long") == {"state": "succeeded", "output": {"words": 2}}
    assert outcome(folder, "unwanted") == {"state": "cancelled"}
    assert outcome(folder, "lost") is None
    revoked = {event["task_id"]: event["reason"] for event in worker.events("task.revoked")}
    assert revoked == {"lost": "lost", "unwanted": "cancelled"}
    assert len(worker.events("task.completed")) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"TASK_SOURCE": "nowhere"}, "TASK_SOURCE names no source that is installed: 'nowhere'; there are"),
        ({"STORE": "nowhere"}, "STORE names no store that is installed: 'nowhere'; there are forgetful, sqlite"),
        ({"SINKS": "lines,nowhere"}, "SINKS names no sink that is installed: 'nowhere'; there are lines"),
        ({"ACME_FOLDER": ""}, "ACME_FOLDER is missing: set it to the folder of the task files"),
        ({"ACME_LEAST_WORDS": "-1"}, "ACME_LEAST_WORDS must be"),
    ],
)
async def test_a_wrong_name_says_which_there_are(
    command: Callable[..., Awaitable[Finished]], strangers: dict[str, str], change: dict[str, str], complaint: str
) -> None:
    """Exit code 78 and one line with the remedy."""
    ended = await command(strangers | change, "run")
    assert ended.code == 78
    assert complaint in ended.err
