"""The launcher: imports the daemon once, and forks a process of its own for every incarnation.

Orders come as lines of JSON on stdin, and each child's pid and end go back on stdout. A start takes
milliseconds that way instead of seconds, so that a run has time for its kills. Nothing but imports is
shared, and importing the product does nothing.
"""

import json
import os
import select
import signal
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))

import openai
import uvloop

from ai_task_processor import providers
from ai_task_processor.cli import main as cli
from ai_task_processor.core import settings
from ai_task_processor.engine import daemon as app
from ai_task_processor.engine import wiring as assembly
from ai_task_processor.ops import logs
from ai_task_processor.providers import openai_api
from tests.chaos import hooks
from tests.chaos.bugs import BUGS
from tests.chaos.launcher import POINTS, Order

#: what the daemon would import while it starts and at its first model call
IMPORTED = (app, assembly, logs, openai, openai_api, providers, settings, uvloop)


def run(order: Order) -> int:
    """The daemon's whole life, in a process of its own."""
    os.chdir(order.directory)
    os.environ.clear()
    os.environ.update(order.environment)
    name, _, number = order.kill_at.partition(":")
    if name not in ("", *POINTS):
        raise SystemExit(f"chaos: there is no kill point {name!r}")
    hooks.KillPoints(name, int(number or 0)).install()
    hooks.Surroundings(Path(order.control)).install()
    hooks.sign(order.incarnation)
    if order.open_s:
        hooks.shorten_circuits(*order.open_s)
    if order.bug:
        BUGS[order.bug]()
    return cli.main(["run"])


def fork(order: Order) -> int:
    """The pid of a new process that carries out the order."""
    pid = os.fork()
    if pid:
        return pid
    code = 70
    try:
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(log, 1)
        os.dup2(log, 2)
        code = run(order)
    except SystemExit as error:
        os.write(2, f"{error}\n".encode())
    finally:
        os._exit(code)


def say(**words: Any) -> None:
    os.write(1, json.dumps(words).encode() + b"\n")


def reap(children: set[int]) -> None:
    """Tell of every child that has ended; negative codes are signals."""
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return
        if not pid:
            return
        children.discard(pid)
        say(ended=pid, code=os.waitstatus_to_exitcode(status))


def main() -> None:
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    signal.set_wakeup_fd(writing)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    orders = os.fdopen(0, "rb", buffering=0)  # what a buffer holds select does not see
    children: set[int] = set()
    say(ready=True)
    while True:
        readable, _, _ = select.select([0, reading], [], [])
        if reading in readable:
            os.read(reading, 4096)
            reap(children)
        if 0 in readable:
            line = orders.readline()
            if not line:
                break
            children.add(pid := fork(Order(**json.loads(line))))
            say(started=pid)
    for pid in children:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
