"""``ai-task-processor sources check``: what a profile makes of the pending tasks. Nothing is claimed or reported.

The tasks come from the checks of the source, which ``doctor`` runs too; what is sent for an outcome from its ``sends``.
"""

import argparse
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from shlex import quote
from typing import Any, Final

from rich.console import Console

from ai_task_processor.cli.doctor.checks import failed, listed
from ai_task_processor.cli.doctor.main import examine, run
from ai_task_processor.cli.doctor.report import Report, exit_code
from ai_task_processor.cli.sources import sentences
from ai_task_processor.core import plugins
from ai_task_processor.core.checks import Check, Finding, Listed, ok, skipped, warning, wrong
from ai_task_processor.core.errors import ConfigurationError, Rejected
from ai_task_processor.core.reading import load_group
from ai_task_processor.core.settings import PartsSettings
from ai_task_processor.engine.wiring import Parts
from ai_task_processor.models.task import Completed, Failed, Failure, Outcome, Task, TaskResult, TaskType
from ai_task_processor.processors.factory import USUAL_TYPES, ProcessorFactory

#: tasks and records that are shown, keys of their content, and characters of each
SHOWN, KEYS, CHARACTERS = 5, 8, 60
#: the outcomes for which is shown what would be sent
OUTCOMES: Final[Mapping[str, Outcome | None]] = {
    "at the start": None,
    "on success": Completed(TaskResult({"example": "the result"})),
    "on failure": Failed(Failure("example_code", "why it failed")),
}


@dataclass(slots=True)
class Trial:
    """What was found, for people in ``report``, and for programs in the rest."""

    report: Report
    findings: list[Mapping[str, object]] = field(default_factory=list)
    tasks: list[Mapping[str, object]] = field(default_factory=list)
    unusable: list[Mapping[str, str]] = field(default_factory=list)
    sends: list[Mapping[str, object]] = field(default_factory=list)

    def add(self, title: str, finding: Finding, subject: str = "") -> None:
        self.findings.append({"title": title, "mark": finding.mark, "text": finding.text, "remedy": finding.remedy})
        self.report.add(title, finding, subject)


def main(arguments: argparse.Namespace) -> int:
    """Check one source; returns the exit code: 78 its profile or a setting is wrong, 69 a remote is down."""
    trial = Trial(Report(Console(highlight=False, force_terminal=sys.stdout.isatty(), quiet=arguments.json)))
    try:
        name: str = arguments.name or load_group(PartsSettings).task_source
        found = plugins.find("sources", name).load()
    except ConfigurationError as error:
        for problem in sentences(error):
            trial.add("profile", wrong(problem))
    else:
        kind = getattr(getattr(found, "profile", None), "kind", "")
        trial.add("profile", ok(f"valid: {found.name}, of the kind {kind}" if kind else "none: it is a class"))
        environ = {**os.environ, "TASK_SOURCE": name}
        examine(trial.report, partial(_try, trial), environ, trial.add)
    code = exit_code(trial.report.findings)
    if arguments.json:
        shown = {name: getattr(trial, name) for name in ("findings", "tasks", "unusable", "sends")}
        print(trial.report.mask(json.dumps({"code": code, **shown}, ensure_ascii=False, indent=2)), flush=True)
    start = f"TASK_SOURCE={quote(arguments.name)} ai-task-processor run" if arguments.name else "ai-task-processor run"
    end = "Correct what is marked" if code else f"Start with {start}"
    return trial.report.close(f"Nothing was claimed, marked or reported. {end}")


async def _try(trial: Trial, parts: Parts) -> None:
    trial.add("settings", ok("valid"))
    for text in parts.settings.warnings:
        trial.add("settings", warning(text))
    declared = ProcessorFactory().task_types
    _types(trial, parts, declared)
    found: list[Listed] = []

    def describe(seen: Listed) -> Iterable[Finding]:
        found.append(seen)
        return listed(seen, lambda task: parts.factory.find(task) is not None)

    checks = [check for check in parts.faults.ask(Check, parts.source, "checks") if not check.writes]
    await run(checks, trial.add, describe)
    async for finding in failed(parts.faults):
        trial.add("plug-in", finding)
    tasks = [task for each in found for task in each.tasks]
    taken = next((task for task in tasks if parts.factory.find(task) is not None), None)
    for task in tasks[:SHOWN]:
        _show_task(trial, parts, task, declared)
    for task_id, reason in [each for seen in found for each in seen.unusable][:SHOWN]:
        trial.unusable.append({"id": task_id, "reason": reason})
        trial.add("task", warning(f"{task_id or 'a record'} is left pending: {reason}"))
    if found and not sum(each.seen for each in found):
        trial.add("task", warning("nothing is pending, so there is nothing to look at", "add a task, and check again"))
    if len(tasks) > SHOWN:
        trial.report.note("", f"and {len(tasks) - SHOWN} more that were read")
    _show_sends(trial, parts, "TASK_ID" if taken is None else taken.id)


def _types(trial: Trial, parts: Parts, declared: frozenset[str]) -> None:
    """Which types would be taken: those that the settings or the profile name, and those of plug-ins."""
    named = parts.settings.parts.enabled_task_types or parts.settings.usual_types
    names = {*(USUAL_TYPES if named is None else named), *parts.factory.task_types}
    for name in sorted({str(TaskType.named(name)) for name in names}):
        task = Task(id="example", type=TaskType.named(name), content={})
        processor = parts.factory.find(task)
        if processor is not None:
            trial.add("type", ok(f"{name}: {type(processor).__name__}"))
        else:
            trial.add("type", warning(f"{name}: {why_not(task, parts, declared)}"))


def why_not(task: Task, parts: Parts, declared: frozenset[str]) -> str:
    """Why no processor takes a task. ``declared``: the types of all processors, enabled or not."""
    if not parts.settings.parts.takes(task.type):
        return "ENABLED_TASK_TYPES does not name its type"
    for processor in parts.factory.processors:
        if task.type in processor.task_types:
            problems = "; ".join(problem.message for problem in processor.problems())
            return problems or f"{type(processor).__name__} does not take it"
    if task.type in declared:
        return "its type is built in and not enabled: add it to ENABLED_TASK_TYPES, or to types in the profile"
    return "no processor takes its type: write a prompt type (TASK_TYPES), or a processor"


def _show_task(trial: Trial, parts: Parts, task: Task, declared: frozenset[str]) -> None:
    processor = parts.factory.find(task)
    name = None if processor is None else type(processor).__name__
    reason = None if processor is not None else why_not(task, parts, declared)
    created_at = None if task.created_at is None else task.created_at.isoformat(timespec="seconds")
    content = dict(_contents(task.content))
    shown = {"id": task.id, "type": str(task.type), "created_at": created_at}
    trial.tasks.append({**shown, "processor": name, "reason": reason, "content": content})
    text = f"{task.id}: {task.type}, created at {created_at or 'an unknown time'}"
    outcome = f"{name} takes it" if reason is None else f"left pending: {reason}"
    trial.add("task", (ok if reason is None else skipped)(f"{text}; {outcome}"))
    for key, value in content.items():
        trial.report.note("", f"{key} ({value['bytes']} bytes) {value['begins']}")


def _contents(content: object) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """The keys of a content, the size of each value as JSON, and how it begins."""
    values = content if isinstance(content, dict) else {"content": content}
    for key, value in list(values.items())[:KEYS]:
        text = json.dumps(value, ensure_ascii=False, default=str)
        begins = text if len(text) <= CHARACTERS else text[: CHARACTERS - 1] + "…"
        yield str(key)[:CHARACTERS], {"bytes": len(text.encode(errors="replace")), "begins": begins}
    if len(values) > KEYS:
        yield "and", {"bytes": 0, "begins": f"{len(values) - KEYS} further keys"}


def _show_sends(trial: Trial, parts: Parts, task_id: str) -> None:
    sends = getattr(parts.source, "sends", None)
    if sends is None:
        return
    for when, outcome in OUTCOMES.items():
        try:
            found = sends(task_id, outcome)
        except Rejected:
            trial.add("sends", warning(f"the id {task_id} cannot be in a path", "correct TASK_ID_PATTERN"))
            return
        if found is not None:
            request, body = found
            trial.sends.append({"when": when, "request": request, "body": json.loads(body)})
            trial.report.note(when, f"{request} {body.decode()}")
