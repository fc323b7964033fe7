"""The command line of ``outbox``. Imports nothing heavy: every command builds this parser."""

import argparse
import re
from typing import Final

#: retries per minute of many records, unless the operator says otherwise: ten a second disturb no API
PER_MINUTE: Final = 600
_SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86_400}
_SPAN: Final = re.compile(r"(?:\d{1,9}[smhd])+")
_REQUESTS: Final = (
    ("retry", "deliver these records again at once, let these quarantined tasks start again"),
    ("drop", "forget these records: a task that is still listed is then processed again"),
)
_EPILOG: Final = "Exit codes: 0 done, 1 not confirmed, 64 nothing is chosen or --yes is missing, 66 an unknown TASK_ID."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the actions of ``outbox``."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="the records: state, attempts, age, next try, and why they are here")
    _add_filters(listing)
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    show = actions.add_parser("show", help="one record with its result")
    show.add_argument("task_id", metavar="TASK_ID")
    show.add_argument("--json", action="store_true", help="as JSON, on a terminal too")
    for action, meaning in _REQUESTS:
        request = actions.add_parser(action, help=meaning, epilog=_EPILOG)
        request.add_argument("task_ids", metavar="TASK_ID", nargs="*")
        request.add_argument("--all", action="store_true", help="every record")
        _add_filters(request)
        request.add_argument("--dry-run", action="store_true", help="list these records; change nothing")
        request.add_argument("--yes", action="store_true", help="do not ask for a confirmation")
        if action == "retry":
            text = f"spread many retries: so many per minute (default: {PER_MINUTE})"
            request.add_argument("--per-minute", type=_rate, default=PER_MINUTE, metavar="N", help=text)


def _add_filters(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--dead", action="store_true", help="dead letters and quarantined tasks only")
    parser.add_argument("--type", action="append", default=[], metavar="TYPE", help="of this task type; repeatable")
    parser.add_argument("--reason", metavar="TEXT", help="whose reason contains this, in upper or lower case")
    parser.add_argument(
        "--older-than", type=seconds_of, metavar="SPAN", help="finished longer ago than this: 30m, 2h, 1d"
    )


def seconds_of(text: str) -> float:
    """Seconds of a span such as ``30m`` or ``1d12h``. Raises ``ArgumentTypeError``."""
    if not _SPAN.fullmatch(text):
        raise argparse.ArgumentTypeError(f"{text[:20]!r} is no span of time: write it like 45s, 30m, 2h or 1d")
    return float(sum(int(part[:-1]) * _SECONDS[part[-1]] for part in re.findall(r"\d+[smhd]", text)))


def _rate(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 1_000_000:
        raise argparse.ArgumentTypeError("must be a whole number from 1 to 1000000")
    return int(text)
