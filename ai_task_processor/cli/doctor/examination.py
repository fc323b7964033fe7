"""The course of the examination: configuration first, then check by check, each under its deadline."""

import asyncio
import sys
from collections.abc import Callable, Iterable, Mapping
from contextlib import AsyncExitStack
from typing import Final

from rich.console import Console

from ai_task_processor.cli.doctor.diagnosis import mistake
from ai_task_processor.cli.doctor.patient import DEADLINE_S, Patient
from ai_task_processor.cli.doctor.report import Check, Finding, Report, ok, skipped, verdict, warning
from ai_task_processor.core import errors
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.plugins import load_selected
from ai_task_processor.core.settings import Settings
from ai_task_processor.engine.wiring import Assembler
from ai_task_processor.ops import logs, masking
from ai_task_processor.processors.factory import ProcessorFactory
from ai_task_processor.providers.settings import ModelSettings

_TITLES: Final = ("DNS", "connection", "token", "pending list", "model", "clock", "data directory")


def main(environ: Mapping[str, str] | None = None) -> int:
    """Check everything; the exit code: 78 to be mended by an operator, 73 data directory, 69 a remote is down."""
    report = Report(Console(highlight=False, force_terminal=sys.stdout.isatty()))
    try:
        factory = ProcessorFactory()
        settings, _ = load_selected(environ, groups=factory.settings_groups)
        report.mask = masking.Masker(settings.secrets())
        logs.configure(level="CRITICAL", format="auto", secrets=settings.secrets())
        return asyncio.run(_examine(settings, factory, report))
    except errors.ConfigurationError as error:
        for problem in error.problems:
            report.add("configuration", mistake(problem))
        for title in _TITLES:
            report.add(title, skipped("skipped: needs a valid configuration"))
        return report.close(verdict(report.findings))


async def _examine(settings: Settings, factory: ProcessorFactory, report: Report) -> int:
    async with AsyncExitStack() as stack:
        patient = Patient(settings, Assembler(settings, factory).parts(), stack)
        report.add("configuration", ok(f"valid, mode {settings[ModelSettings].mode}"))
        for text in settings.warnings:
            report.add("configuration", warning(text))
        await run(patient.checks(), report.add)
    return report.close(verdict(report.findings, patient.daemon_running))


async def run(
    checks: Iterable[Check], tell: Callable[[str, Finding, str], None], deadline_s: float = DEADLINE_S
) -> None:
    """The checks in their order, each under its deadline; one whose needs did not pass is skipped."""
    unproven: set[str] = set()

    def found(check: Check, finding: Finding) -> None:
        if finding.mark in ("failure", "skipped"):
            unproven.add(check.name)
        tell(check.title, finding, check.subject)

    for check in checks:
        if missing := [need for need in check.needs if need in unproven]:
            found(check, skipped(f"skipped: needs {missing[0]}"))
            continue
        try:
            with Deadline(deadline_s):
                async for finding in check.work():
                    found(check, finding)
        except TimeoutError:
            found(
                check,
                check.late(
                    f"no answer within {deadline_s:g} s", f"overloaded, or behind a firewall? See {check.setting}"
                ),
            )
