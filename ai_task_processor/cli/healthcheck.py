"""``ai-task-processor healthcheck``: asks the daemon on this machine for its health, without heavy imports.

The container's health check: the image has no curl, and this runs every 15 seconds. Host and port come from where the
daemon reads them: the environment, ``.env``, the ``settings`` of the profile.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from typing import Final

EX_OK, EX_FAILED = 0, 1
TIMEOUT_S: Final = 3.0
HOST, PORT, SOURCE = "METRICS_HOST", "METRICS_PORT", "TASK_SOURCE"
#: what the daemon calls itself in its answers
SERVER: Final = "ai-task-processor"


def main() -> int:
    """Ask; returns 0, or 1 after one sentence on stderr."""
    given = ops_settings()
    host, port = given.get(HOST, "127.0.0.1"), given.get(PORT, "8001")
    problem = _asked(host, int(port)) if _is_port(port) else _no_port(port)
    if problem:
        print(f"ai-task-processor: {problem}", file=sys.stderr)
        return EX_FAILED
    print("ok", flush=True)
    return EX_OK


def _is_port(text: str) -> bool:
    return text.isascii() and text.isdigit() and 0 < int(text[:6]) < 65536


def _no_port(text: str) -> str:
    if text.isascii() and text.isdigit() and not int(text):
        return "METRICS_PORT is 0, so that the daemon takes a free port: set it to the port that is to be asked"
    return "METRICS_PORT must be a whole number from 1 to 65535 here: correct it"


def _asked(host: str, port: int) -> str:
    """What is wrong with the daemon; empty when it is healthy."""
    from http.client import HTTPConnection, HTTPException

    problems = []
    for target in local_addresses(host):
        connection = HTTPConnection(target, port, timeout=TIMEOUT_S)
        try:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            text = answer.read(500).decode(errors="replace").strip()
        except (OSError, HTTPException, ValueError) as error:
            problems.append(f"no answer from {target}:{port}: {error}")
            continue
        if answer.getheader("Server") != SERVER:
            return f"something else than the daemon answers at {target}:{port}: look at METRICS_PORT"
        return "" if answer.status == 200 else text
    return problems[0]


def local_addresses(host: str) -> Sequence[str]:
    """The addresses at which a local daemon that listens on ``host`` may answer; loopback of its family first."""
    if host in ("0.0.0.0", "127.0.0.1"):  # noqa: S104 - compared with, not bound to
        return "127.0.0.1", "::1"
    if host == "::1" or set(host) <= {":", "0"}:
        return "::1", "127.0.0.1"
    return (host,)


def ops_settings() -> Mapping[str, str]:
    """The daemon's host and port, from the same places as its settings, without their slow parser."""
    given = {name: text for name in (HOST, PORT, SOURCE) if (text := os.environ.get(name, "").strip())}
    if not {HOST, PORT} <= given.keys() and os.path.exists(".env"):  # noqa: PTH110 - pathlib takes as long as the whole check
        from pathlib import Path

        from ai_task_processor.core import environment

        given = environment.filled(environment.read_dotenv(Path(".env")).texts) | given
    source = given.get(SOURCE, "")
    return _profile(source) | given if source.endswith(".toml") and not {HOST, PORT} <= given.keys() else given


def _profile(path: str) -> dict[str, str]:
    """The settings in a profile of the user; those that are built in set neither host nor port."""
    import tomllib

    try:
        with open(path, "rb") as file:  # noqa: PTH123 - pathlib, again
            found = tomllib.load(file).get("settings")
    except (OSError, ValueError):
        return {}  # the daemon reports it
    return {name: text for name, text in found.items() if isinstance(text, str)} if isinstance(found, dict) else {}
