"""The process and its surroundings: stopped and continued, told to end before it began, with nobody at its streams."""

import asyncio
import os
import signal
import socket
import sys
from asyncio.subprocess import DEVNULL, Process
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import COMMAND, Start, eventually, process_environment, run_command, spawned

SIGTERM_IN_MASK = 1 << (signal.SIGTERM - 1)
RUN_PY = str(Path(__file__).parents[2] / "run.py")
CLOSED = {"stdin": "<&-", "stdout": ">&-", "stderr": "2>&-"}


@asynccontextmanager
async def started(
    directory: Path, settings: Mapping[str, str], *command: str, **streams: Any
) -> AsyncIterator[Process]:
    """A process as process one of a container is: nothing happens to a signal without a handler."""
    async with spawned(
        *command,
        cwd=directory,
        env=process_environment(settings),
        preexec_fn=lambda: signal.signal(signal.SIGTERM, signal.SIG_IGN),
        **{"stdin": DEVNULL, "stdout": DEVNULL, "stderr": DEVNULL} | streams,
    ) as process:
        yield process


async def exit_code(process: Process, timeout: float = 60) -> int:
    async with asyncio.timeout(timeout):
        return await process.wait()


async def test_answers_that_came_while_we_were_stopped_count(sandbox: Sandbox, daemon: Start) -> None:
    """SIGSTOP for 6 s with timeouts of 2 s: nothing is reported or paid again, no circuit opens, the probe is content.

    The task API hangs up meanwhile, as Node.js does after 5 s: no request is lost to a dead connection either.
    """
    sandbox.api_latency_s, sandbox.model_latency_s = 0.3, 0.4
    sandbox.idle_s = 1.0
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(96)]
    worker = await daemon(CONCURRENCY_LIMIT=16, REQUEST_TIMEOUT=2, OPENAI_TIMEOUT=2)
    for patches in (0, 40):
        # Model calls and PATCHes are under way now.
        await eventually(lambda least=patches: sandbox.stats.patches > least)
        worker.send(signal.SIGSTOP)
        await asyncio.sleep(6)
        worker.send(signal.SIGCONT)
        assert (await worker.get("/health")).status_code == 200
    await sandbox.tasks.settled(ids, timeout=30)
    assert await worker.stop() == 0
    assert {task.callbacks for task in sandbox.tasks} == {1}
    assert sandbox.stats.model_inputs == len(ids)
    for event in ("breaker.opened", "delivery.deferred", "task.released", "poll.failed"):
        assert worker.events(event) == []


#: the daemon with a poll loop that may hang for 3 s instead of a minute
SHORT_TICKS = """
from ai_task_processor.engine import scheduler, status
from ai_task_processor.cli import main as cli
status.LONGEST_TICK_S, scheduler.TICK_S = 3.0, 0.5
raise SystemExit(cli.main(["run"]))
"""


async def test_health_does_not_complain_about_a_stop(sandbox: Sandbox, tmp_path: Path, free_port: int) -> None:
    """Asked while the process was stopped for longer than the poll loop may hang: 200 as soon as it goes on."""
    settings = {**sandbox.environment(), "DATA_DIR": str(tmp_path / "data"), "METRICS_PORT": str(free_port)}
    async with started(tmp_path, settings, sys.executable, "-c", SHORT_TICKS) as process:
        await eventually(lambda: sandbox.stats.polls > 0, timeout=30)
        reader, writer = await asyncio.open_connection("127.0.0.1", free_port)
        await asyncio.sleep(0.2)
        for _ in range(3):
            process.send_signal(signal.SIGSTOP)
            writer.write(b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n")
            await asyncio.sleep(4)
            process.send_signal(signal.SIGCONT)
            assert (await reader.readuntil(b"}\n")).startswith(b"HTTP/1.1 200 OK\r\n")
        writer.close()


def has_handler(process: Process) -> bool:
    """Does a handler for SIGTERM stand?"""
    status = Path(f"/proc/{process.pid}/status").read_text()
    return bool(int(status.split("SigCgt:")[1].split()[0], 16) & SIGTERM_IN_MASK)


def has_loaded(process: Process, library: str) -> bool:
    return library in Path(f"/proc/{process.pid}/maps").read_text()


@pytest.mark.parametrize("moment", ["", "pydantic_core", "uvloop"], ids=["at once", "while it loads", "late"])
@pytest.mark.parametrize(
    "command",
    [(*COMMAND, "run"), (sys.executable, RUN_PY), (f"{sys.prefix}/bin/ai-task-processor", "run")],
    ids=["module", "run.py", "script"],
)
async def test_a_signal_that_comes_early_is_not_lost(
    sandbox: Sandbox, command: tuple[str, ...], moment: str, tmp_path: Path
) -> None:
    """The handlers stand before the first large library is loaded; what they remember drains the daemon.

    SIGHUP never ends it, however early: it means new secrets, and none have been read.
    """
    settings = {**sandbox.environment(), "DATA_DIR": str(tmp_path / "data")}
    log = tmp_path / "log"
    with log.open("w") as stderr:
        async with started(tmp_path, settings, *command, stderr=stderr) as process:
            await eventually(lambda: has_handler(process))
            assert not has_loaded(process, "pydantic_core")
            await eventually(lambda: has_loaded(process, moment))
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert await exit_code(process) == 0
    assert "drain.started" in log.read_text()


@pytest.mark.parametrize(("command", "code"), [("doctor", 143), ("sandbox", 0), ("demo", 130)])
async def test_other_commands_end_by_an_early_signal(command: str, code: int, tmp_path: Path) -> None:
    """Each in its usual way, as process one, too."""
    port = ["--port", "0"] if command == "sandbox" else []
    async with started(tmp_path, {}, *COMMAND, command, *port) as process:
        await eventually(lambda: has_handler(process))
        process.send_signal(signal.SIGTERM)
        assert await exit_code(process) == code


@contextmanager
def pipe(*, read: bool) -> Any:
    """The writing end of a pipe that nobody reads, or whose reader has gone away."""
    reader, end = os.pipe()
    if not read:
        os.close(reader)
    try:
        yield end
    finally:
        os.close(end)
        if read:
            os.close(reader)


async def test_a_log_that_nobody_reads_stops_nothing(sandbox: Sandbox, tmp_path: Path, free_port: int) -> None:
    """stderr into a pipe that is full after 300 lines, at DEBUG: tasks, probes and SIGTERM work as ever."""
    settings = {**sandbox.environment(), "DATA_DIR": str(tmp_path / "data"), "METRICS_PORT": str(free_port)}
    settings["LOG_LEVEL"] = "DEBUG"
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(1_000)]
    with pipe(read=True) as end:
        async with started(tmp_path, settings, *COMMAND, "run", stderr=end) as process:
            await sandbox.tasks.settled(ids, timeout=60)
            probe = await run_command(tmp_path, {"METRICS_PORT": str(free_port)}, "healthcheck")
            assert probe.code == 0, probe.err
            process.send_signal(signal.SIGTERM)
            assert await exit_code(process) == 0


@asynccontextmanager
async def without(
    streams: str, directory: Path, settings: Mapping[str, str], *arguments: str
) -> AsyncIterator[Process]:
    """A command with these standard streams closed, or, when they are ``gone``, with pipes whose reader went away."""
    gone, _, names = streams.rpartition("gone ")
    async with AsyncExitStack() as stack:
        command = (*COMMAND, *arguments)
        if gone or streams.startswith("gone"):
            given = {name: stack.enter_context(pipe(read=False)) for name in names.split()}
        else:
            closed = " ".join(CLOSED[name] for name in names.split())
            command, given = ("sh", "-c", f'exec "$@" {closed}', "sh", *command), {}
        yield await stack.enter_async_context(started(directory, settings, *command, **given))


@pytest.mark.parametrize("streams", ["stdin stdout stderr", "stdout", "stderr", "gone stdout stderr"])
async def test_exit_codes_do_not_depend_on_the_standard_streams(sandbox: Sandbox, streams: str, tmp_path: Path) -> None:
    """Closed, or with a reader that has gone away: what a command did decides, and its files are not the streams."""
    settings = {**sandbox.environment(), "DATA_DIR": str(tmp_path / "data")}
    ids = [sandbox.tasks.add(text=f"text {number}") for number in range(3)]
    cases = [
        (settings, ["run", "--until-empty"], 0),
        (settings, ["drain"], 0),
        (settings, ["doctor"], 0),
        (settings, ["outbox", "show", "nothing"], 66),
        ({}, ["doctor"], 78),
        ({"METRICS_PORT": "9"}, ["healthcheck"], 1),
        ({}, ["--version"], 0),
        ({}, ["--help"], 0),
        ({}, ["--no-such-thing"], 2),
    ]
    for environment, arguments, code in cases:
        async with without(streams, tmp_path, environment, *arguments) as process:
            assert (arguments, await exit_code(process)) == (arguments, code)
    assert [sandbox.tasks[task_id].callbacks for task_id in ids] == [1, 1, 1]


@pytest.mark.parametrize("streams", ["stderr", "gone stdout stderr"])
async def test_a_drain_that_leaves_something_says_so(
    sandbox: Sandbox, daemon: Start, streams: str, tmp_path: Path
) -> None:
    """75 when a result is left, also when nobody hears of it. A signal ends its patience."""
    sandbox.faults.add("patch", status=503)
    sandbox.tasks.add(text="kept")
    worker = await daemon(SHUTDOWN_GRACE_SECONDS=1)
    await eventually(lambda: sandbox.stats.patches > 0)
    assert await worker.stop() == 0
    patches = sandbox.stats.patches
    async with without(streams, tmp_path, worker.environment, "drain") as process:
        await eventually(lambda: sandbox.stats.patches > patches)
        process.send_signal(signal.SIGTERM)
        assert await exit_code(process) == 75


@pytest.mark.parametrize(("arguments", "code"), [(["--version"], 74), (["doctor"], 78)])
async def test_output_that_is_lost_is_an_error(arguments: list[str], code: int, tmp_path: Path) -> None:
    """A full disk is no reader that had enough: 74 with a line, unless the command has a code of its own."""
    full, told = os.open("/dev/full", os.O_WRONLY), tmp_path / "told"
    try:
        with told.open("w") as stderr:
            async with started(tmp_path, {}, *COMMAND, *arguments, stdout=full, stderr=stderr) as process:
                assert await exit_code(process) == code
    finally:
        os.close(full)
    assert ("standard output cannot be written" in told.read_text()) == (code == 74)


@pytest.mark.parametrize(
    ("dotenv", "environment"),
    [
        ("METRICS_PORT={port}\n", {}),
        ("METRICS_PORT=\"{port}\"\nMETRICS_HOST='127.0.0.1' # here\n", {"METRICS_PORT": "", "METRICS_HOST": " "}),
        ("METRICS_PORT=9\nMETRICS_HOST=127.0.0.9\n", {"METRICS_PORT": " {port} ", "METRICS_HOST": "127.0.0.1"}),
        ("export METRICS_PORT={port}\nMETRICS_HOST=0.0.0.0\n", {}),
        ("METRICS_PORT={port}\nnot readable\n", {"METRICS_HOST": "127.0.0.1"}),
    ],
)
async def test_the_health_check_asks_where_the_daemon_listens(
    daemon: Start, tmp_path: Path, dotenv: str, environment: Mapping[str, str]
) -> None:
    """The environment, and below it ``.env`` as the daemon reads it: quotes, empty values, white space, export."""
    worker = await daemon()
    (tmp_path / ".env").write_text(dotenv.format(port=worker.port))
    given = {"METRICS_PORT": ""} | {name: text.format(port=worker.port) for name, text in environment.items()}
    well = await run_command(tmp_path, given, "healthcheck")
    assert (well.code, well.out, well.err) == (0, "ok\n", "")


@pytest.mark.skipif(not socket.has_dualstack_ipv6(), reason="no IPv6 here")
@pytest.mark.parametrize(
    ("listens", "told", "code"),
    [
        ("::", ["::", "0:0:0:0:0:0:0:0", "0.0.0.0", "::1", "127.0.0.1", "localhost", ""], 0),
        ("::1", ["::", "::1", "127.0.0.1", ""], 0),
        ("127.0.0.1", ["::", "0.0.0.0"], 0),
        ("127.0.0.1", ["127.0.0.9", "no-such-host.invalid"], 1),
    ],
)
async def test_the_health_check_finds_the_daemon_on_either_loopback(
    daemon: Start, tmp_path: Path, listens: str, told: list[str], code: int
) -> None:
    """``::`` is both families. The other loopback is asked when nobody answers on the first, another host is not."""
    worker = await daemon(METRICS_HOST=listens)
    for host in told:
        asked = await run_command(tmp_path, {"METRICS_HOST": host, "METRICS_PORT": str(worker.port)}, "healthcheck")
        assert (host, asked.code, asked.err.count("no answer from")) == (host, code, code)
