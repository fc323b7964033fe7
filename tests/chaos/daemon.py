"""One incarnation of the daemon, in a process of its own. The launcher's server imports this module once."""

import os
import sys
from pathlib import Path

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


def run(order: Order) -> None:
    """The daemon's whole life. An interrupt from the terminal is for the supervisor alone."""
    os.setsid()
    log = os.open(order.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    for target, source in ((0, os.open(os.devnull, os.O_RDONLY)), (1, log), (2, log)):
        os.dup2(source, target)
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
    sys.exit(cli.main(["run"]))
