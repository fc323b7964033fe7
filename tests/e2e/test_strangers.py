"""Source, store, sink and processor of strangers: four packages, installed from outside, and no change to this one."""

import json
import signal
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
    text = path.read_text() if path.exists() else ""
    return json.loads(text) if text else None  # empty: it is just being written


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
    await eventually(lambda: worker.events("task.completed"))
    revoked = {event["task_id"]: event["reason"] for event in worker.events("task.revoked")}
    assert revoked == {"lost": "lost", "unwanted": "cancelled"}
    assert len(worker.events("task.completed")) == 1


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (
            {"TASK_SOURCE": "nowhere"},
            "installed ('nowhere' in the environment; default aletheia): there are agents",
        ),
        (
            {"STORE": "nowhere"},
            "STORE names no store that is installed ('nowhere' in the environment; default sqlite): there ",
        ),
        (
            {"SINKS": "lines,nowhere"},
            "SINKS names no sink that is installed ('nowhere' in the environment): there are kafka, lines",
        ),
        ({"ACME_FOLDER": ""}, "ACME_FOLDER is missing (set to nothing in the environment): set it to the folder"),
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


Base = tuple[str, str, str]
WithBad = Callable[[Base, str], dict[str, str]]


@pytest.fixture
def with_bad(strangers: dict[str, str], install: Callable[..., Path]) -> WithBad:
    """The settings with a package that has a subclass of one of the components, under the name ``bad``."""

    def settings(base: Base, body: str) -> dict[str, str]:
        origin, kind, variable = base
        module, _, name = origin.partition(":")
        source = f"from {module} import {name}\n\n\nclass Bad({name}):\n    {body}\n"
        site = install("acme_bad", source, kind=kind, bad="acme_bad:Bad")
        return {**strangers, "PYTHONPATH": f"{strangers['PYTHONPATH']}:{site}", variable: "bad"}

    return settings


SOURCE = ("acme_folder:FolderSource", "sources", "TASK_SOURCE")
STORE = ("acme_memory:ForgetfulStore", "stores", "STORE")
#: breaks a method of a part of a component
PART = "def __init__(self, *a): super().__init__(*a); self.{}.{} = self.bad\n    async def bad(self, *a, **k): {}"


@pytest.mark.parametrize(
    ("base", "method", "body"),
    [
        (SOURCE, "problems", "def problems(self): raise RuntimeError"),
        (SOURCE, "problems", "def problems(self): return None"),
        (SOURCE, "problems", "def problems(self): return ['x']"),
        (SOURCE, "status", "def status(self): raise SystemExit(3)"),
        (SOURCE, "status", "def status(self): return None"),
        (SOURCE, "status", "def status(self): return {'a': object()}"),
        (SOURCE, "status", "def status(self): return {'state': 'perfect', 'outbox': None}"),
        (SOURCE, "backlog", "backlog = property(lambda self: 1 / 0)"),
        (SOURCE, "wait", "async def wait(self, timeout_s): raise SystemExit(3)"),
        (SOURCE, "reload", "async def reload(self): raise RuntimeError"),
        (SOURCE, "wake", "def wake(self): raise RuntimeError"),
        (STORE, "apply_requests", PART.format("outbox", "apply_requests", "raise RuntimeError")),
        (STORE, "apply_requests", PART.format("outbox", "apply_requests", "return None")),
    ],
)
async def test_what_a_component_gets_wrong_does_not_end_the_daemon(
    bare_daemon: Start,
    with_bad: WithBad,
    tmp_path: Path,
    base: Base,
    method: str,
    body: str,
) -> None:
    """The task is done, ``/status`` answers, the log names component, package and method once, and the exit is 0."""
    add(tmp_path / "tasks", "t", "a b")
    worker = await bare_daemon(**with_bad(base, body), POLLING_INTERVAL_SECONDS="0.1")
    worker.send(signal.SIGHUP)
    await eventually(lambda: outcome(tmp_path / "tasks", "t"))
    if method in ("reload", "wake"):
        await eventually(lambda: worker.events("component.failed"))
    else:
        await worker.status_when(lambda status: f"package 'acme-bad' fails in {method}" in status["why_idle"])
    assert (await worker.status())["state"] in ("running", "degraded")
    assert await worker.stop() == 0
    (failed,) = worker.events("component.failed")
    assert (failed["component"], failed["package"], failed["method"]) == ("bad", "acme-bad", method)


@pytest.mark.parametrize(
    ("base", "body"),
    [
        (SOURCE, "async def claim(self, want): return None"),
        (SOURCE, "async def claim(self, want): raise SystemExit(3)"),
        (STORE, PART.format("journal", "begin", "raise RuntimeError")),
        (STORE, "accepting = property(lambda self: 1 / 0)"),
    ],
)
async def test_tasks_that_cannot_start_stay_pending(
    bare_daemon: Start,
    with_bad: WithBad,
    tmp_path: Path,
    base: Base,
    body: str,
) -> None:
    """``/ready`` says who is at fault, nothing fails, and the daemon goes on until it is stopped."""
    add(tmp_path / "tasks", "t", "a b")
    worker = await bare_daemon(**with_bad(base, body), POLLING_INTERVAL_SECONDS="0.1")
    await eventually(lambda: worker.unready_for("of the package 'acme-bad' fails in"))
    assert outcome(tmp_path / "tasks", "t") is None
    assert await worker.stop() == 0


FAILED = ("component.failed", "task.not_released")


@pytest.mark.parametrize("error", ["RuntimeError", "Unsent('away')"])
async def test_a_drain_ends_well_though_nothing_can_be_released(
    bare_daemon: Start, with_bad: WithBad, tmp_path: Path, error: str
) -> None:
    """The tasks that were cut off stay pending upstream."""
    for name in ("a", "b"):
        add(tmp_path / "tasks", name, "a b")
    raising = f"from ai_task_processor.core.errors import Unsent\n        raise {error}"
    body = f"async def release(self, *_):\n        {raising}"
    worker = await bare_daemon(**with_bad(SOURCE, body), ACME_WORDS_SECONDS="60", SHUTDOWN_GRACE_SECONDS="0.5")
    await worker.status_when(lambda status: status["slots"]["running"] == 2)
    assert await worker.stop() == 0
    logged = [event.get("method") for name in FAILED for event in worker.events(name)]
    assert logged == (["release"] if error == "RuntimeError" else [None, None])


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ("build = classmethod(lambda cls, services: 1 / 0)", 78, "cannot be built (ZeroDivisionError): mend or"),
        ("build = classmethod(lambda cls, services: None)", 78, "cannot be built (build() returned None): mend or"),
        ("build = classmethod(lambda cls, services: 5)", 78, "is no source (it has no "),
        ("claim = None", 78, "is no source (it has no claim()): mend or"),
        ("settings_groups = None", 78, "settings_groups that is no tuple"),
        ("run = None", 78, "is no source (it has no run())"),
        ("async def run(self, ready): return", 70, '"component":"bad","package":"acme-bad"'),
        ("async def run(self, ready): raise SystemExit(3)", 70, '"component":"bad","package":"acme-bad"'),
    ],
)
async def test_a_plug_in_that_loads_and_cannot_work_is_named(
    command: Callable[..., Awaitable[Finished]],
    with_bad: WithBad,
    body: str,
    code: int,
    words: str,
) -> None:
    """The same for ``run``, ``drain`` and ``doctor``, which does not start components."""
    settings = with_bad(SOURCE, body)
    for name in ("run", "drain"):
        ended = await command(settings, name)
        assert (ended.code, words in ended.err, "Traceback" in ended.err) == (code, True, False), ended.err
    ended = await command(settings, "doctor")
    assert ended.code == (78 if code == 78 else 0), ended.out
    assert ("the source 'bad' of the package 'acme-bad'" in ended.out) == (code == 78)


@pytest.mark.parametrize(
    ("method", "body"),
    [
        ("checks", "def checks(self): raise SystemExit(3)"),
        ("checks", "def checks(self): return None"),
        ("checks", "def checks(self): return ['x']"),
        ("remotes", "def remotes(self): raise RuntimeError"),
        ("remotes", "def remotes(self): return [5]"),
    ],
)
async def test_doctor_says_which_component_cannot_be_asked(
    command: Callable[..., Awaitable[Finished]],
    with_bad: WithBad,
    method: str,
    body: str,
) -> None:
    """A finding with the package's name, and the checks of the others go on."""
    settings = with_bad(SOURCE, body)
    ended = await command(settings, "doctor")
    assert (ended.code, ended.err) == (78, "")
    assert f"the source 'bad' of the package 'acme-bad' fails in {method}" in ended.out
    assert "model" in ended.out
