"""Runs the checks in order: configuration, servers, components, clocks, store, running daemon."""

import asyncio
import sys
import traceback
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Final

from rich.console import Console

from ai_task_processor.cli.doctor import checks
from ai_task_processor.cli.doctor.report import Report, summary
from ai_task_processor.core.checks import Check, Finding, Listed, Remote, down, ok, skipped, warning, wrong
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import ConfigurationError, RemoteError
from ai_task_processor.core.plugins import load_selected
from ai_task_processor.engine.wiring import Parts, assemble
from ai_task_processor.ops import logs, masking
from ai_task_processor.processors.factory import ProcessorFactory

DEADLINE_S: Final = 10.0


def main(environ: Mapping[str, str] | None = None) -> int:
    """Check everything; returns the exit code: 78 wrong configuration, 73 store unusable, 69 a remote is down."""
    report = Report(Console(highlight=False, force_terminal=sys.stdout.isatty()))
    examine(report, partial(_check, report), environ)
    return report.close(summary(report.findings))


def examine(
    report: Report,
    work: Callable[[Parts], Awaitable[None]],
    environ: Mapping[str, str] | None = None,
    add: Callable[[str, Finding], None] | None = None,
) -> None:
    """Do this work with all parts of the daemon; each mistake of the configuration is a finding."""
    add = add or report.add
    try:
        factory = ProcessorFactory()
        settings, selected = load_selected(environ, groups=factory.settings_groups, chats=factory.chats_with)
        report.mask = masking.Masker(settings.secrets())
        logs.configure(level="CRITICAL", format="auto", secrets=settings.secrets())

        async def assembled() -> None:
            parts = assemble(settings, selected, factory)
            try:
                await work(parts)
            finally:
                for _, client in parts.services.clients:
                    await client.aclose()

        asyncio.run(assembled())
    except ConfigurationError as error:
        for problem in error.problems:
            add("configuration", checks.mistake(problem))
        add("everything else", skipped("skipped: needs a valid configuration"))


async def _check(report: Report, parts: Parts) -> None:
    names = parts.settings.parts
    mode = "none" if parts.provider is None else parts.provider.name
    report.add("configuration", ok(f"valid, source {names.task_source}, store {names.store}, mode {mode}"))
    for text in (*parts.settings.warnings, *parts.factory.warnings):
        report.add("configuration", warning(text))
    if (cert := parts.settings.network.client_cert_file) is not None:
        report.add("configuration", checks.own_certificate(cert, parts.clock.now()))

    def describe(seen: Listed) -> Iterator[Finding]:
        return checks.listed(seen, lambda task: parts.factory.find(task) is not None)

    await run(checks_of(parts), report.add, describe)


def checks_of(parts: Parts) -> Iterator[Check]:
    """All checks, each after those it depends on; the clock check late, when most servers have answered."""
    network, now = parts.settings.network, parts.clock.now
    store, *others = parts.components
    components = [*others, store]
    ask = parts.faults.ask
    remotes = [remote for component in components for remote in ask(Remote, component, "remotes")]
    for url, client in parts.services.clients:
        client.observe = partial(checks.note, [remote for remote in remotes if remote.url == url], now)
    for remote in remotes:
        yield Check("DNS", partial(checks.resolve, remote, network), remote.setting, (), remote.name, remote)
    for remote in remotes:
        title, work = "TLS" if remote.url.startswith("https:") else "connection", partial(checks.connect, remote)
        yield Check(title, partial(work, network, now), remote.setting, (remote,), remote.name, remote)
    for component in others:
        yield from ask(Check, component, "checks")
    yield Check("clock", partial(checks.clocks, remotes), "NTP")
    yield from ask(Check, store, "checks")
    if parts.settings.ops.metrics_port:
        yield Check("daemon", partial(checks.beside, parts.services, components, parts.faults), "METRICS_PORT")
    yield Check("plug-ins", partial(checks.failed, parts.faults), "TASK_SOURCE, STORE, SINKS or EMBEDDING_PROVIDER")


async def run(
    todo: Iterable[Check],
    report: Callable[[str, Finding, str], None],
    describe: Callable[[Listed], Iterable[Finding]] = lambda _: (),
    deadline_s: float = DEADLINE_S,
) -> None:
    """Run the checks, each with a deadline, and ``report`` (title, finding, subject); skip those with failed needs.

    ``describe`` makes findings of the tasks that a source has.
    """
    unproven: dict[object, Check] = {}

    def found(check: Check, finding: Finding) -> None:
        if finding.mark in ("failure", "skipped"):
            unproven.setdefault(check.proves or check, check)
        report(check.title, finding, check.subject)

    for check in todo:
        try:
            if missing := [unproven[need] for need in check.needs if need in unproven]:
                found(check, skipped(f"skipped: needs {missing[0]}"))
                continue
            with Deadline(deadline_s):
                async for seen in check.work():
                    for finding in describe(seen) if isinstance(seen, Listed) else (seen,):
                        found(check, finding)
        except TimeoutError:
            remedy = f"overloaded, or behind a firewall? See {check.setting}"
            found(check, check.late(f"no answer within {deadline_s:g} s", remedy))
        except RemoteError as error:
            found(check, down(str(error), f"look at {check.setting}"))
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the boundary of one check, perhaps a plug-in's
            at = traceback.extract_tb(error.__traceback__)[-1]
            text = f"this check cannot be made ({type(error).__name__} in {at.filename}, line {at.lineno})"
            found(check, wrong(text, f"look at {check.setting}, or tell whoever wrote this check"))
