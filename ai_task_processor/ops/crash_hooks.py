"""Makes a crash a line of the log."""

import asyncio
import re
import sys
import threading
from collections.abc import Callable
from typing import Any

from ai_task_processor.ops.logs import get_logger

log = get_logger(__name__)


def install() -> Callable[[object, dict[str, Any]], None]:
    """Make a crash a log line like any other; the result is for ``loop.set_exception_handler``.

    To be called after ``logs.configure``.
    """

    def thread_crashed(args: threading.ExceptHookArgs) -> None:
        if args.exc_type is not SystemExit:
            log.critical("daemon.crashed", thread=getattr(args.thread, "name", None), exc_info=args.exc_value)

    def loop_caught(_loop: object, context: dict[str, Any]) -> None:
        # The rest of asyncio's message is the repr of an exception, or of a callback with its arguments.
        message = re.split(r"[(<:]", str(context.get("message", "")), maxsplit=1)[0].strip()
        task = context.get("task") or context.get("future")
        name = task.get_name() if isinstance(task, asyncio.Task) else None
        log.error("exception.caught", message=message, task=name, exc_info=context.get("exception"))

    sys.excepthook = lambda _type, error, _trace: log.critical("daemon.crashed", exc_info=error)
    threading.excepthook = thread_crashed
    sys.unraisablehook = lambda args: log.error("exception.caught", exc_info=args.exc_value)
    return loop_caught
