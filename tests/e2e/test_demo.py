"""The demo keeps its word: as a command, on a terminal, interrupted, and when something is broken."""

import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.request import urlopen

import pytest
from rich.console import Console

from ai_task_processor.cli import demo
from ai_task_processor.cli.demo import daemon, screen
from ai_task_processor.cli.demo.chain import broken_chain, chain_figures
from ai_task_processor.cli.demo.figures import broken, figures
from ai_task_processor.cli.demo.words import ChainFigures, Expected, Figures, Scrape
from ai_task_processor.models.task import TaskStatus
from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.tasks import StoredTask

ROOT = Path(__file__).parents[2]
COMMAND = (sys.executable, "-m", "ai_task_processor", "demo")
START = datetime(2026, 1, 1, tzinfo=UTC)
SUCCEEDED, FAILED, PENDING = TaskStatus.SUCCEEDED, TaskStatus.FAILED, TaskStatus.PENDING


def started(folder: Path, terminal: int | None = None, *options: str) -> subprocess.Popen[bytes]:
    """The real command, in a session of its own, with settings around it that must not reach the daemon."""
    output = subprocess.PIPE if terminal is None else terminal
    hostile = {"API_BASE_URL": "ftp://nowhere", "CONCURRENCY_LIMIT": "none", "METRICS_PORT": "1", "LOG_LEVEL": "DEBUG"}
    (folder / ".env").write_text("DATA_DIR=/proc/nowhere\nWAKE\n")
    environment = {**os.environ, **hostile, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder), "TERM": "xterm-256color"}
    return subprocess.Popen(
        (*COMMAND, *options),
        cwd=folder,
        env=environment,
        start_new_session=True,
        stdin=terminal,
        stdout=output,
        stderr=output,
    )


def left_in(folder: Path) -> list[str]:
    """Files of a demo, and processes whose data directory is among them."""
    processes = []
    for environ in Path("/proc").glob("[0-9]*/environ"):
        try:
            variables = environ.read_bytes().split(b"\0")
        except OSError:
            continue
        if any(variable.startswith(f"DATA_DIR={folder}".encode()) for variable in variables):
            processes.append(environ.parent.name)
    return [*processes, *(path.name for path in folder.glob("ai-task-processor-demo-*"))]


def table_in(text: str) -> Mapping[str, str]:
    names = (
        "tasks|succeeded|failed|still pending|duplicates|speed|first result|embedding calls|embedding tokens|metrics"
    )
    return dict(re.findall(rf"^ *({names}|token requests)  +(.*\S) *$", text, re.MULTILINE))


def numbers(text: str) -> list[float]:
    return [float(number) for number in re.findall(r"\d+(?:\.\d+)?", text)]


def test_the_command_tells_figures_that_fit_together(tmp_path: Path) -> None:
    """Without a terminal: exit 0, lines of plain text, a table that adds up, and nothing left behind."""
    process = started(tmp_path)
    output, errors = process.communicate(timeout=60)
    text = output.decode("ascii")
    assert (process.returncode, errors) == (0, b"")
    assert all(character.isprintable() or character == "\n" for character in text)
    shown = r"(\d+) of 301 texts settled, \d+/s; +(\d+) of 40 requests in triage, (\d+) chat calls, (\d+) tokens"
    lines = re.findall(rf"^ *\d+ s +{shown}$", text, re.MULTILINE)
    for course in zip(*[map(int, line) for line in lines], strict=True):
        assert len(course) > 1
        assert list(course) == sorted(course)
    assert lines[-1][:3] == ("301", "40", "160")
    table = table_in(text)
    assert table["tasks"] == "303, beside 200 of the verification requests"
    assert table["succeeded"] == "300, with 300 vectors equal to the model's to the last bit"
    assert table["failed"] == "1 (1 input_refused)"
    assert table["still pending"] == "2 (1 record without a usable id, 1 of an unknown type)"
    assert (table["duplicates"], table["token requests"]) == ("0", "1")
    calls, per_text = numbers(table["embedding calls"])
    assert per_text == pytest.approx(calls / 341, abs=0.01)
    assert 2 * 300 / daemon.SLOTS <= calls <= 341
    assert numbers(table["speed"])[0] > 1
    assert numbers(table["first result"])[0] > 0
    assert int(table["embedding tokens"]) > 300
    assert re.fullmatch(r"were at http://127\.0\.0\.1:\d+/metrics, \d{3} series", table["metrics"])
    assert "\n40 of 40 verification requests reached triage, by 5 tasks each.\n" in text
    assert "\n40 have the right severity; 40 also the right people, topics and impact area.\n" in text
    assert f"\nThat took 160 chat calls, {lines[-1][3]} tokens and " in text
    for hint in ("python -m ai_task_processor sandbox", "python -m ai_task_processor doctor", ".env.example", "curl "):
        assert hint in text
    assert left_in(tmp_path) == []


def test_a_terminal_shows_a_progress_bar(tmp_path: Path) -> None:
    """On a terminal: two bars that move and arrive, a table, the cursor shown again.

    With ``--keep`` daemon and sandbox then answer until Ctrl-C, which is exit 0 and leaves nothing behind.
    """
    ours, theirs = pty.openpty()
    process = started(tmp_path, theirs, "--keep")
    os.close(theirs)
    written, answers = b"", list[bytes]()
    for data in read_to_end(ours):
        written += data
        if b"break things" in written and not answers:
            urls = re.findall(rb"http://[0-9.:]+/(?:sandbox|status)(?=[ ,])", written)
            answers += [urlopen(url.decode()).read() for url in urls]
            os.killpg(process.pid, signal.SIGINT)
    assert process.wait(60) == 0
    output = written.decode()
    status, page = answers
    assert json.loads(status)["outbox"]["waiting"] == 0
    assert b"500 succeeded" in page
    assert left_in(tmp_path) == []
    for total in (301, 40):
        counts = [int(count) for count in re.findall(rf"(\d+)/{total}\b", output)]
        assert (counts[0], counts[-1]) == (0, total)
        assert len(set(counts)) > 4
    assert "━" in output
    assert output.rindex("\x1b[?25h") > output.rindex("\x1b[?25l")
    assert table_in(re.sub(r"\x1b\[[0-9;]*m|\r", "", output))["tasks"].startswith("303,")


def read_to_end(terminal: int) -> Iterator[bytes]:
    """What is written to a terminal, until the last program that holds it has ended."""
    with open(terminal, "rb", buffering=0) as stream:
        while True:
            try:
                data = stream.read(65536)
            except OSError:  # EIO: nobody is at the other end any more
                return
            if not data:
                return
            yield data


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_ends_it_cleanly(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C (to the whole group, as a terminal sends it) and SIGTERM: exit 130, no daemon and no file left."""
    process = started(tmp_path)
    assert process.stdout is not None
    assert b"303 tasks" in process.stdout.readline()
    assert b"settled" in process.stdout.readline()
    *processes, files = left_in(tmp_path)
    # The model's client asks `uname` for the platform: for a moment a second process has the daemon's environment.
    assert processes
    assert (tmp_path / files).is_dir()
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=20)
    assert process.returncode == 130
    assert errors == b"demo: stopped; the daemon has ended, its files are removed\n"
    assert left_in(tmp_path) == []


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_a_broken_promise_is_told(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One lost answer makes one report too many: exit 1, one line for it, no table, and the files are kept."""
    sandbox = Sandbox()
    sandbox.faults.add("patch", reset=True, after=True, times=1)
    assert demo.run(sandbox) == 1
    told = capsys.readouterr()
    assert re.fullmatch(
        r"demo: task \w+ \(succeeded\) was reported 2 times, not 1\ndemo: the files are kept in (\S+)\n", told.err
    )
    assert table_in(told.out) == {}
    [folder] = left_in(temporary)
    assert (temporary / folder / "daemon.log").exists()


def test_a_standstill_is_told(
    temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """When nothing moves: exit 1, one line, the end of the log and no more of it, and the daemon is gone."""
    monkeypatch.setattr("ai_task_processor.cli.demo.course.LOG_LINES", 5)
    sandbox = Sandbox()
    sandbox.faults.add("pending", status=503)
    assert demo.run(sandbox, stall_s=5) == 1
    first, title, *log, last = capsys.readouterr().err.splitlines()
    assert first == "demo: nothing has moved for 5 s; 0 of 301 texts are settled, 0 of 40 requests are in triage"
    assert title == "demo: the end of the daemon's log:"
    assert len(log) == 5
    assert "poll.failed" in log[0] + log[1]
    assert "daemon.stopped" in log[-1]
    assert [last] == [f"demo: the files are kept in {temporary / name}" for name in left_in(temporary)]


def test_requests_that_miss_triage_are_told(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A chat model that answers outside the closed lists: exit 1 at once, how many arrived, and what each misses."""
    sandbox = Sandbox()
    sandbox.chat.behave({"unlisted": 1.0})
    assert demo.run(sandbox) == 1
    first, *others, _ = capsys.readouterr().err.splitlines()
    assert first == "demo: 0 of 40 verification requests reached triage with the right answers"
    assert [line for line in others[40:] if "/metrics counts" not in line] == []
    for number, line in enumerate(others[:40]):
        assert re.fullmatch(rf"demo: request-{number} has no impactArea: task \w+ is failed \(invalid_output\)", line)


def test_a_dead_daemon_is_told(
    temporary: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A daemon that ends by itself: exit 1 at once, its exit code, and its own last words."""
    monkeypatch.setattr(Sandbox, "environment", lambda sandbox: {})
    assert demo.run(Sandbox()) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("demo: the daemon ended by itself with exit code 78\n")
    assert "API_BASE_URL is missing" in errors


def stored(state: TaskStatus, *, after_s: float | None = None, patches: int = 1, error: object = None) -> StoredTask:
    at = None if after_s is None else START + timedelta(seconds=after_s)
    return StoredTask("id", b"{}", START, state=state, patches=patches, error=error, acknowledged_at=at)


def test_figures_count_what_was_acknowledged() -> None:
    """An applied PATCH whose answer was lost is not settled; times count from the start and the first result."""
    tasks = [
        stored(SUCCEEDED, after_s=2.0),
        stored(SUCCEEDED, after_s=4.0, patches=3),
        stored(SUCCEEDED),
        stored(FAILED, after_s=3.0, error={"code": "empty_text"}),
        stored(FAILED, after_s=3.0),
        stored(PENDING, patches=0),
    ]
    measured = figures(tasks, START)
    assert measured == Figures(
        succeeded=2,
        failed=Counter({"empty_text": 1, "without a code": 1}),
        pending=1,
        repeated=2,
        first_s=2.0,
        span_s=2.0,
    )
    assert (measured.settled, measured.per_second) == (4, 1.5)


PEOPLE = {"personalities": [{"name": "Ana Souza", "wikidata": {"id": "Q900001"}}]}
TOPICS = [{"name": "Saúde", "wikidataId": "Q900201", "language": "pt"}]
CHAIN = {"embedding": [0.5], "identifiedData": PEOPLE, "topics": TOPICS, "impactArea": "Segurança Pública"}


@pytest.mark.parametrize(
    ("changed", "repeated", "told"),
    [
        ({}, False, None),
        ({"severity": {"severity": "low_1"}}, False, "request-0 (In Triage) has no right severity"),
        (
            {"identifiedData": {}, "impactArea": ""},
            False,
            "request-0 (In Triage) has no right identifiedData, impactArea",
        ),
        ({"severity": None}, False, "request-0 has no severity: task T is failed (refused)"),
        ({"topics": None}, False, "request-0 has no topics: task T is failed (refused)"),
        ({}, True, "task T (severity of request-0) was reported 2 times, not 1"),
    ],
)
def test_each_wrong_request_has_its_sentence(changed: Mapping[str, object], repeated: bool, told: str | None) -> None:
    """State, number of reports and answers are compared, task by task. None: the task fails."""
    sandbox = Sandbox()
    [name] = sandbox.verifications.add_claims(1)
    request = sandbox.verifications.requests[name]
    for field, result in {**CHAIN, "severity": {"severity": "critical"}, **changed}.items():
        body = {"state": "failed", "error": {"code": "refused"}} if result is None else {"state": "succeeded"}
        for _ in range(1 + (repeated and field == "severity")):
            sandbox.api.patch(request.tasks.get(field, ""), json.dumps(body | {"result": result}).encode())
    problems = [re.sub(r"task \w{24}", "task T", problem) for problem in broken_chain(sandbox)]
    right = f"{int(told is None)} of 1 verification requests reached triage with the right answers"
    assert problems == ([right, told] if told else [])
    chain = chain_figures(sandbox)
    assert chain.ended
    assert chain.triaged == (request.status == "In Triage")


@pytest.mark.parametrize("settled_at", [[], [1.0], [1.0, 1.01]])
def test_no_speed_is_told_before_it_can_be_measured(settled_at: list[float]) -> None:
    """Nothing, one result and a first burst are no speed."""
    measured = figures([stored(SUCCEEDED, after_s=seconds) for seconds in settled_at], START)
    assert (measured.settled, measured.per_second) == (len(settled_at), 0.0)


@pytest.mark.parametrize(
    ("expected", "patch", "told"),
    [
        (SUCCEEDED, {"state": SUCCEEDED, "result": [0.5, 0.25]}, None),
        (SUCCEEDED, {"state": SUCCEEDED, "result": [0.5, 0.250001]}, "has a vector that is not the model's"),
        (SUCCEEDED, {"state": FAILED}, "is failed, not succeeded"),
        (FAILED, {"state": FAILED}, None),
        (FAILED, {"state": FAILED, "result": [0.5]}, "has a vector that is not the model's"),
        (PENDING, {"state": SUCCEEDED, "result": [0.5]}, "is succeeded, not pending"),
        (PENDING, {"state": PENDING}, "(pending) was reported 1 times, not 0"),
    ],
)
def test_each_broken_promise_has_its_sentence(expected: TaskStatus, patch: Mapping[str, object], told: str) -> None:
    """State, number of reports and every bit of the vector are compared, task by task."""
    sandbox = Sandbox()
    task = sandbox.tasks[sandbox.tasks.add("a")]
    sandbox.tasks.settle(task, TaskStatus(str(patch["state"])), result=patch.get("result"))
    vector = b"\0\0\0\x3f\0\0\x80\x3e" if expected is SUCCEEDED else None
    plan = [Expected(task.id, expected, vector)]
    processed = {word: int(word is expected) for word in (SUCCEEDED, FAILED)}
    scrape = Scrape(url="", series=0, processed=processed, skipped={}, slots=1)
    assert broken(plan, sandbox, scrape) == ([f"task {task.id} {told}"] if told else [])


def test_the_daemons_own_word_is_compared() -> None:
    """Counts in /metrics and /status that differ from the plan are told."""
    sandbox = Sandbox()
    plan = [Expected(sandbox.tasks.add("a"), PENDING, reason="invalid")]
    metrics = (
        "# HELP something\n"
        'ai_task_processor_tasks_processed_total{status="succeeded",task_type="a"} 2.0\n'
        'ai_task_processor_tasks_processed_total{status="succeeded",task_type="b"} 1.0\n'
        'ai_task_processor_tasks_processed_total{status="failed",task_type="a"} 0.0\n'
    )
    status = {"backlog": {"skipped": {"running": 7}}, "slots": {"total": 4}}
    scrape = daemon.scraped("http://x", metrics, status)
    assert (scrape.series, scrape.slots, scrape.processed) == (3, 4, {SUCCEEDED: 3, FAILED: 0})
    assert broken(plan, sandbox, scrape) == [
        "/metrics counts 3 tasks as succeeded, not 0",
        "/status counts 0 tasks as invalid, not 1",
    ]


def test_the_daemon_inherits_next_to_nothing(tmp_path: Path) -> None:
    """Settings, proxies and Python's own switches of the caller do not reach the daemon."""
    caller = {"PATH": "/bin", "HTTPS_PROXY": "http://p", "LOG_LEVEL": "DEBUG", "PYTHONWARNINGS": "error", "X": "1"}
    given = daemon.daemon_environment({"API_BASE_URL": "http://a"}, tmp_path, caller)
    assert given.keys() - {"PATH", "API_BASE_URL"} == {
        "PYTHONPATH",
        "DATA_DIR",
        "METRICS_PORT",
        "POLLING_INTERVAL_SECONDS",
        "CONCURRENCY_LIMIT",
        "LOG_FORMAT",
    }


def test_a_dumb_terminal_gets_plain_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "dumb")
    with screen.progress(Console(file=io.StringIO(), force_terminal=True), 3) as show:
        assert isinstance(show, screen.PlainProgress)


def test_plain_progress_is_no_flood(capsys: pytest.CaptureFixture[str]) -> None:
    """At most a line a second, and the last one whenever it comes."""
    ticks = iter([0.0, 0.5, 1.2, 1.9, 2.0])
    show = screen.PlainProgress(3, lambda: next(ticks))
    for done in range(4):
        chain = ChainFigures(
            requests=2, triaged=done // 2, tasks=10, settled=10, repeated=0, chat_calls=done, chat_tokens=7 * done
        )
        show(figures([stored(SUCCEEDED, after_s=number) for number in range(done)], START), chain)
    assert capsys.readouterr().out == (
        "   1 s      1 of 3 texts settled, 0/s;  0 of 2 requests in triage, 1 chat calls, 7 tokens\n"
        "   2 s      3 of 3 texts settled, 1/s;  1 of 2 requests in triage, 3 chat calls, 21 tokens\n"
    )
