"""``ai-task-processor process FILE``: one task through its processor; the result is printed and reported nowhere."""

import argparse
import asyncio
import json
import sys
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from ai_task_processor.cli import bodies, task_file, trial
from ai_task_processor.cli.trial import Trial
from ai_task_processor.core.errors import AiTaskProcessorError, RemoteError
from ai_task_processor.models.task import Completed, Failed, Outcome, Released, Task
from ai_task_processor.ops import logs

EX_OK, EX_FAILED, EX_NOINPUT, EX_UNAVAILABLE, EX_TEMPFAIL = 0, 1, 66, 69, 75


def main(arguments: argparse.Namespace) -> int:
    """Process the task of the file; returns the exit code."""
    settings, selected, factory = trial.load()
    try:
        value = task_file.read_json(arguments.file)
    except OSError as error:
        return complain(f"{arguments.file}: {error.strerror}", EX_NOINPUT)
    source = selected.source.load()
    task = task_file.task_in(value, arguments.file, source)
    with configured_logs(settings):
        ended = asyncio.run(tried(trial.bench(settings, selected, factory), task))
    report = None
    if not isinstance(ended.outcome, Released):
        outcome, report = bodies.as_reported(source, ended.outcome)
        ended = replace(ended, outcome=outcome)
    explain(ended)
    if arguments.json:
        print(json.dumps(_document(ended, report), ensure_ascii=False), flush=True)
    elif report is not None:
        print(bodies.for_terminal(report) if sys.stdout.isatty() else report.decode(), flush=True)
        print(_summary(ended), file=sys.stderr)
    return exit_code(ended.outcome)


@contextmanager
def configured_logs(settings: Any) -> Iterator[None]:
    """Log warnings only, and mask secrets."""
    logs.configure(level="WARNING", format=settings.log.format, secrets=settings.secrets())
    try:
        yield
    finally:
        logs.flush()


async def tried(bench: trial.Bench, task: Task) -> Trial:
    """Run one task, with a sign of life on a terminal. Raises ``ConfigurationError`` when nothing takes it."""
    processor = bench.processor(task)
    with working(f"{type(processor).__name__} works on {task.type}"):
        return await bench.run(task, processor)


@contextmanager
def working(what: str) -> Iterator[None]:
    """Show on a terminal that something goes on."""
    console = Console(stderr=True, highlight=False, markup=False)
    if not console.is_terminal or console.is_dumb_terminal:
        yield
        return
    with console.status(what):
        yield


def explain(ended: Trial) -> None:
    """Say on standard error what is not in the report: a remote's error, a traceback, answers that are made up."""
    if ended.made_up:
        complain("OPENAI_API_KEY is the placeholder: the answer is made up, no model is called")
    match ended.outcome:
        case Released():
            remote = isinstance(ended.error, RemoteError)
            complain(f"a remote: {ended.outcome.reason}" if remote else ended.outcome.reason)
        case Failed(failure) if failure.code == "processor_error" and ended.error is not None:
            if not isinstance(ended.error, AiTaskProcessorError):
                traceback.print_exception(ended.error)
            complain(f"{failure.message}; the daemon tries a task three times before it ends failed")


def exit_code(outcome: Outcome | Released) -> int:
    match outcome:
        case Completed():
            return EX_OK
        case Released(_, reason):
            return EX_TEMPFAIL if reason == _RETRY else EX_UNAVAILABLE
        case _:
            return EX_FAILED


#: the reason of ``engine.outcome`` for a ``Retry``
_RETRY: Final = "the processor asked for more time"


def _document(ended: Trial, report: bytes | None) -> Mapping[str, object]:
    return {
        "state": _state(ended.outcome),
        "type": str(ended.task.type),
        "processor": type(ended.processor).__name__,
        **({"reason": ended.outcome.reason} if isinstance(ended.outcome, Released) else {}),
        "report": None if report is None else json.loads(report),
        "models": _models(ended),
        "calls": len(ended.calls),
        **measured(ended),
    }


def measured(ended: Trial) -> Mapping[str, object]:
    """Tokens, seconds, and the cost where there is a price table."""
    usage = ended.usage
    figures: dict[str, object] = {
        "prompt_tokens": usage.prompt_tokens,
        "cached_tokens": usage.cached_tokens,
        "completion_tokens": usage.completion_tokens,
        "seconds": round(ended.seconds, 2),
    }
    if ended.prices is not None and not ended.made_up:
        figures |= {"cost": None if ended.cost is None else round(ended.cost, 9), "currency": ended.prices.currency}
    return figures


def _state(outcome: Outcome | Released) -> str:
    return {Completed: "succeeded", Failed: "failed", Released: "released"}[type(outcome)]


def _models(ended: Trial) -> list[str]:
    return list(dict.fromkeys(call.model for call in ended.calls))


def _summary(ended: Trial) -> str:
    parts = [f"{_state(ended.outcome)} by {type(ended.processor).__name__} in {ended.seconds:.2f} s"]
    if ended.calls:
        usage, calls = ended.usage, "1 call" if len(ended.calls) == 1 else f"{len(ended.calls)} calls"
        prompt = f"{usage.prompt_tokens} prompt ({usage.cached_tokens} cached)"
        parts += [", ".join(_models(ended)), calls, f"tokens: {prompt}, {usage.completion_tokens} completion"]
    else:
        parts.append("no model was called")
    if ended.prices is not None and ended.cost is not None:
        parts.append(f"{ended.cost:.6f} {ended.prices.currency}")
    return "; ".join(parts)


def complain(text: str, code: int = EX_FAILED) -> int:
    print(f"ai-task-processor: {text}", file=sys.stderr)
    return code
