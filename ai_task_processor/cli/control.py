"""``pause``, ``resume`` and ``log-level``: change the running daemon through its ops port, with ``CONTROL_TOKEN``.

Larger modules are imported where they are used: every command, the health check too, makes these parsers.
"""

import argparse
import re
import sys
from collections.abc import Callable, Mapping
from typing import Any, Final

from ai_task_processor.core.errors import ConfigurationError

EX_OK, EX_FAILED, EX_UNAVAILABLE = 0, 1, 69
TIMEOUT_S: Final = 10.0
MAX_BYTES: Final = 2**20
_UNITS: Final = {"": 1, "s": 1, "m": 60, "h": 3600}


def add_commands(add: Callable[..., argparse.ArgumentParser]) -> None:
    """``add``: makes the parser of a command."""
    pause = add("pause", _pause, "let the running daemon claim nothing more, also after a restart, until resume")
    pause.add_argument("--reason", default="", metavar="TEXT", help="what /status, /ready and the log say about it")
    add("resume", _resume, "end the pause of the running daemon")
    level = add("log-level", _log_level, "show or set the log level of the running daemon, until its next start")
    level.add_argument("level", nargs="?", metavar="LEVEL", help="DEBUG, INFO, WARNING, ERROR or CRITICAL")
    level.add_argument(
        "--for", dest="seconds", type=duration_s, metavar="TIME", help="then LOG_LEVEL again: 90s, 15m, 2h"
    )


def duration_s(text: str) -> float:
    """``15m`` in seconds. Raises ``ArgumentTypeError``."""
    found = re.fullmatch(r"(\d{1,6})([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError("must be a time such as 90s, 15m or 2h")
    return float(found[1]) * _UNITS[found[2]]


def _pause(arguments: argparse.Namespace) -> int:
    return _change("/pause", {"reason": arguments.reason}, _paused)


def _resume(_arguments: argparse.Namespace) -> int:
    return _change("/resume", {}, lambda _: "resumed: tasks are claimed again")


def _log_level(arguments: argparse.Namespace) -> int:
    if arguments.level is None:
        return _told(*_asked("GET", "/status", None), lambda body: str(body.get("log_level")))
    query = {"level": arguments.level} | ({} if arguments.seconds is None else {"seconds": f"{arguments.seconds:g}"})
    until = "its next start" if arguments.seconds is None else f"{arguments.seconds:g} s from now"
    return _change("/log-level", query, lambda body: f"the daemon logs {body.get('log_level')} until {until}")


def _paused(body: Mapping[str, Any]) -> str:
    reason = body["paused"]["reason"]
    since = f"paused since {body['paused']['since']}{f': {reason}' if reason else ''}"
    return (
        f"{since}\nNothing more is claimed; what runs ends and is delivered. ai-task-processor resume ends the pause."
    )


def _change(path: str, query: Mapping[str, str], say: Callable[[Mapping[str, Any]], str]) -> int:
    from urllib.parse import urlencode

    from ai_task_processor.core.reading import load_group
    from ai_task_processor.core.settings import OpsSettings

    token = load_group(OpsSettings).control_token
    if token is None:
        remedy = "set it to one secret for the daemon and for this command (openssl rand -hex 32)"
        raise ConfigurationError(f"CONTROL_TOKEN is missing: {remedy}")
    status, body = _asked("POST", f"{path}?{urlencode(query, errors='replace')}", token.get_secret_value())
    if status == 401:
        raise ConfigurationError(
            "CONTROL_TOKEN is not that of the daemon: correct it here, or send SIGHUP to the daemon"
        )
    if status == 404:
        raise ConfigurationError("CONTROL_TOKEN is not set for the daemon: set it there, and restart the daemon")
    return _told(status, body, say)


def _told(status: int, body: Mapping[str, Any], say: Callable[[Mapping[str, Any]], str]) -> int:
    if status == 200:
        print(say(body))
        return EX_OK
    print(f"ai-task-processor: {body.get('error', f'the daemon answers {status}')}", file=sys.stderr)
    return EX_UNAVAILABLE if status == 0 else EX_FAILED


def _asked(method: str, target: str, token: str | None) -> tuple[int, Mapping[str, Any]]:
    """The daemon's status and JSON; 0 and the reason when none answers."""
    from http.client import HTTPConnection, HTTPException

    from ai_task_processor.cli.healthcheck import local_addresses
    from ai_task_processor.core.reading import load_group
    from ai_task_processor.core.settings import OpsSettings

    ops, problem = load_group(OpsSettings), ""
    headers = {} if token is None else {"Authorization": f"Bearer {token}"}
    for host in local_addresses(ops.metrics_host):
        connection = HTTPConnection(host, ops.metrics_port, timeout=TIMEOUT_S)
        try:
            connection.request(method, target, headers=headers)
            answer = connection.getresponse()
            return answer.status, _json(answer.read(MAX_BYTES))
        except (OSError, HTTPException) as error:
            problem = problem or f"no daemon answers at {host}:{ops.metrics_port} (METRICS_HOST, METRICS_PORT): {error}"
        finally:
            connection.close()
    return 0, {"error": problem}


def _json(body: bytes) -> Mapping[str, Any]:
    from ai_task_processor.core import codec

    try:
        document = codec.loads(body)
    except ValueError:
        document = None
    return document if isinstance(document, dict) else {"error": "what answers there is no daemon of this version"}
