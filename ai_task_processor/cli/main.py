"""The command line. Exit codes follow sysexits: 78 configuration, 75 try again, 73 data directory, 70 a bug of ours."""

import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Final

from ai_task_processor import __version__
from ai_task_processor.core import process
from ai_task_processor.core.errors import AiTaskProcessorError, ConfigurationError, DataDirectoryError, OutboxLocked

if TYPE_CHECKING:
    import argparse

    from ai_task_processor.engine.daemon import Daemon

EX_OK, EX_FAILED, EX_USAGE, EX_SOFTWARE, EX_CANTCREAT, EX_TEMPFAIL, EX_CONFIG = 0, 1, 2, 70, 73, 75, 78
EX_INTERRUPTED = 130

Command = Callable[["argparse.Namespace"], int]

_CHECK: Final = """\
Validate a profile, then read its pending tasks with the present settings, and show what becomes of them:
the task as a processor gets it, the processor that would take it, and what would be sent for its outcome.
Nothing is claimed, marked or reported, and DATA_DIR is not touched.
"""
_CHECK_EPILOG: Final = """\
A profile of your own, from first to last:
  ai-task-processor sources show agents-playground > shop.toml    a built-in one to begin with
  API_BASE_URL=https://shop.example.com ai-task-processor sources check ./shop.toml
  TASK_SOURCE=./shop.toml ai-task-processor run

Exit codes: 0 it works, 69 a remote is down, 78 the profile or a setting is wrong.
"""
_PROCESS_EPILOG: Final = """\
The task is a record as the selected source (TASK_SOURCE) lists it, or {"type": "word_count", "content": {"text": "…"}}.
The report, as it would be sent, goes to standard output; time, models, calls and tokens go to standard error.
Nothing is claimed, stored or reported. The settings of source, store and sinks are not needed.

Exit codes: 0 succeeded, 1 failed, 66 the file cannot be read, 69 a remote is down, 75 the processor asked for a
retry, 78 a setting is wrong or the file is no task.

Examples:
  ai-task-processor process task.json
  echo '{"type": "text_embedding", "content": {"text": "hello"}}' | ai-task-processor process -
"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit code. Without ``argv`` it reads the command line and guards the streams."""
    if argv is None:
        return process.guarded(lambda: main(sys.argv[1:]))
    parser = _parser()
    if not argv:
        parser.print_help(sys.stderr)
        return EX_USAGE
    arguments = parser.parse_args(argv)
    command: Command = arguments.command
    try:
        _prepare_for_signals(command)
        return command(arguments)
    except ConfigurationError as error:
        for problem in error.problems:
            _complain(problem)
        return EX_CONFIG
    except OutboxLocked as error:
        return _complain(str(error), EX_TEMPFAIL)
    except DataDirectoryError as error:
        return _complain(str(error), EX_CANTCREAT)
    except KeyboardInterrupt:
        return EX_INTERRUPTED


def _prepare_for_signals(command: Command) -> None:
    """Commands with own handlers get early signals when those are installed; the others end as usual."""
    if command in (_sandbox, _demo):
        process.restore_interrupt()
    elif command not in (_run, _drain):
        process.end_by_signals()


def _parser() -> "argparse.ArgumentParser":
    import argparse

    from ai_task_processor.cli import config, control, help_texts
    from ai_task_processor.cli.outbox.arguments import add_arguments as outbox_arguments
    from ai_task_processor.cli.parser import Parser

    raw = argparse.RawDescriptionHelpFormatter
    parser = Parser(
        prog="ai-task-processor",
        description="Polls a task API, processes AI tasks, and keeps every result until it is acknowledged.",
        epilog=help_texts.MAIN,
        formatter_class=raw,
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def add(name: str, command: Command, help_text: str) -> "argparse.ArgumentParser":
        description, examples = f"{help_text[:1].upper()}{help_text[1:]}.", help_texts.EXAMPLES.get(name)
        child = commands.add_parser(name, help=help_text, description=description, epilog=examples, formatter_class=raw)
        child.set_defaults(command=command)
        return child

    run = add("run", _run, "poll, process and deliver until stopped (SIGTERM drains, a second one leaves at once)")
    run.add_argument("--until-empty", action="store_true", help="leave when nothing that can be processed is pending")
    demo = add("demo", _demo, "watch the daemon work through 300 texts and 40 verification requests of a sandbox")
    demo.add_argument("--keep", action="store_true", help="go on afterwards, to look around, until Ctrl-C")
    add("doctor", _doctor, "check configuration and remotes, and name the remedy for what is wrong")
    config.add_arguments(
        add("config", _config, "show the settings in effect and where they come from, without secrets")
    )
    add("drain", _drain, "deliver what the outbox holds and claim nothing; exits 75 when something is left")
    outbox = add("outbox", _outbox, "show stored results, retry or drop them, also beside a running daemon")
    outbox_arguments(outbox)
    one = add("process", _process, "run one task through its processor and print the result; nothing is reported")
    _add_process_arguments(one)
    new = add("new", _new, "write the files of a package of your own, with its test")
    _add_new_actions(new)
    types = add("types", _types, "look at prompt types, and try one on a single task")
    _add_type_actions(types)
    sources = add("sources", _sources, "look at sources of tasks, and try a profile without reporting anything")
    _add_source_actions(sources)
    sandbox = add("sandbox", _sandbox, "run token endpoint, task API, model API and Wikidata in one local server")
    profiles = ("aletheia", "agents-playground", "due-soon")
    sandbox.add_argument("--profile", choices=profiles, default="aletheia", help="whose API it plays (%(default)s)")
    sandbox.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    sandbox.add_argument("--port", type=int, default=8080, help="port to listen on (default: %(default)s)")
    _add_status_options(
        add("status", _status, "show what the daemon does and what it waits for; 1 when it is not ready")
    )
    control.add_commands(add)
    add("healthcheck", _healthcheck, "ask the daemon on this machine for its health; 1 when it is not well")
    return parser


def _add_process_arguments(parser: "argparse.ArgumentParser") -> None:
    import argparse

    parser.epilog, parser.formatter_class = _PROCESS_EPILOG, argparse.RawDescriptionHelpFormatter
    parser.add_argument("file", metavar="FILE", help="one task as JSON; - for standard input")
    parser.add_argument("--json", action="store_true", help="one JSON object: report, models, calls, tokens, time")


def _add_new_actions(parser: "argparse.ArgumentParser") -> None:
    actions = parser.add_subparsers(title="kinds", metavar="KIND", dest="kind", required=True)
    child = actions.add_parser("processor", help="a processor for one type of task, that the daemon finds by itself")
    child.add_argument("name", metavar="NAME", help="the task type: word-count makes word-count-processor")
    child.add_argument("--directory", metavar="DIR", help="where to write it (default: ./NAME-processor)")


def _add_type_actions(parser: "argparse.ArgumentParser") -> None:
    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    actions.add_parser("list", help="one line for each prompt type, of TASK_TYPES and built in")
    actions.add_parser("show", help="one prompt type, as JSON").add_argument("name", metavar="TYPE")
    trial = actions.add_parser("try", help="run one task against the model and print its result; nothing is reported")
    trial.add_argument("name", metavar="TYPE")
    trial.add_argument("file", metavar="FILE", help="the content of the task, or a whole task, as JSON; - for stdin")


def _add_source_actions(parser: "argparse.ArgumentParser") -> None:
    import argparse

    actions = parser.add_subparsers(title="actions", metavar="ACTION", dest="action", required=True)
    listing = actions.add_parser("list", help="every source: its kind and its usual types; * is the selected one")
    listing.add_argument("--json", action="store_true", help="one JSON object a line")
    show = actions.add_parser("show", help="the profile of a source, and (on stderr) the settings that it reads")
    show.add_argument("name", metavar="SOURCE", help="the name of a source, or the path of a profile")
    check = actions.add_parser(
        "check",
        help="validate a profile, and show what it makes of the pending tasks; nothing is reported",
        description=_CHECK,
        epilog=_CHECK_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    named = "the name of a source, or the path of a profile (default: TASK_SOURCE)"
    check.add_argument("name", metavar="SOURCE", nargs="?", help=named)
    check.add_argument("--json", action="store_true", help="one JSON object")
    actions.add_parser("schema", help="the JSON Schema of profiles, for editors")
    prepare = actions.add_parser("prepare", help="show the SQL that makes a table of PostgreSQL a faster source")
    prepare.add_argument("name", metavar="SOURCE", help="the name of a source, or the path of a profile")
    prepare.add_argument("--apply", action="store_true", help="execute it, too")


def _add_status_options(parser: "argparse.ArgumentParser") -> None:
    parser.epilog = f"{parser.epilog}\nExit codes: 0 it is ready, 1 it is not, 69 no daemon answers."
    parser.add_argument("--url", help="a daemon elsewhere: http://HOST:PORT (default: METRICS_HOST and METRICS_PORT)")
    parser.add_argument("--json", action="store_true", help="what /status answers")
    parser.add_argument("--watch", action="store_true", help="show it again and again until Ctrl-C, which ends with 0")
    parser.add_argument("--interval", type=float, default=1.0, metavar="SECONDS", help="of --watch (default: 1)")


def _run(arguments: "argparse.Namespace") -> int:
    return _live(lambda daemon: daemon.run(until_empty=arguments.until_empty))


def _drain(_arguments: "argparse.Namespace") -> int:
    return _live(lambda daemon: daemon.deliver())


def _live(life: Callable[["Daemon"], Coroutine[None, None, int]]) -> int:
    """Load settings, configure logs, run the daemon. An unexpected error is logged in one line; the exit code is 70."""
    import asyncio
    import signal

    import uvloop

    from ai_task_processor.core.plugins import load_selected
    from ai_task_processor.core.reading import load_settings
    from ai_task_processor.engine.daemon import Daemon
    from ai_task_processor.engine.wiring import assemble
    from ai_task_processor.ops import crash_hooks, logs, tracing
    from ai_task_processor.processors.factory import ProcessorFactory

    # SIGHUP means new secrets. Before the loop handles it, it can be ignored: the secrets are read below.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    process.raise_descriptor_limit()
    factory = ProcessorFactory()
    settings, selected = load_selected(groups=factory.settings_groups, chats=factory.chats_with)
    logs.configure(level=settings.log.level, format=settings.log.format, secrets=settings.secrets())
    crash_hooks.install()
    log = logs.get_logger("ai_task_processor")
    tracing.start(settings.trace, __version__)
    for warning in settings.warnings:
        log.warning("settings.warned", reason=warning)

    async def work() -> int:
        read = partial(load_settings, groups=settings.components, defaults=settings.defaults)
        return await life(Daemon(assemble(settings, selected, factory, read)))

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        try:
            code = runner.run(work())
        except (AiTaskProcessorError, KeyboardInterrupt):
            raise
        except BaseException as error:
            # A plug-in's SystemExit is a crash, too: its code is not ours.
            log.critical("daemon.crashed", exc_info=error)
            code = EX_SOFTWARE
        # Everything is closed. A normal exit would wait for threads: a name lookup that hangs and
        # cannot be cancelled, or one that a plug-in has left running.
        logs.flush()
        os._exit(code)


def _demo(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import demo

    return demo.main(keep=arguments.keep)


def _doctor(_arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import doctor

    return doctor.main()


def _outbox(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli.outbox.main import main as outbox

    return outbox(arguments)


def _process(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import process as process_command

    return process_command.main(arguments)


def _new(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import new

    return new.main(arguments)


def _types(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import types

    return types.main(arguments)


def _sources(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import sources

    return sources.main(arguments)


def _sandbox(arguments: "argparse.Namespace") -> int:
    """Serve until Ctrl-C or SIGTERM, which needs a handler: PID 1 of a container ignores it otherwise."""
    import asyncio
    import signal

    from ai_task_processor.sandbox import serve
    from ai_task_processor.sandbox.due_soon import serve as serve_due_soon

    start = serve_due_soon if arguments.profile == "due-soon" else partial(serve, profile=arguments.profile)

    async def work() -> None:
        serving = asyncio.create_task(start(arguments.host, arguments.port, announce=_say))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, serving.cancel)
        if process.early_signals():
            serving.cancel()
        await serving

    with suppress(KeyboardInterrupt, asyncio.CancelledError):
        asyncio.run(work())
    return EX_OK


def _status(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import healthcheck, status

    return status.main(arguments, healthcheck.ops_settings())


def _config(arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import config

    return config.main(arguments)


def _healthcheck(_arguments: "argparse.Namespace") -> int:
    from ai_task_processor.cli import healthcheck

    return healthcheck.main()


def _complain(text: str, code: int = EX_FAILED) -> int:
    print(f"ai-task-processor: {text}", file=sys.stderr)
    return code


def _say(text: str) -> None:
    print(text, flush=True)
