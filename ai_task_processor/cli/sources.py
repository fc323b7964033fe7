"""``ai-task-processor sources …``: what makes a source faster."""

import argparse
import asyncio
import sys

from ai_task_processor.core import plugins
from ai_task_processor.core.errors import ConfigurationError, RemoteError
from ai_task_processor.core.settings import load_settings
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.sources.postgres.source import PostgresSource

EX_OK, EX_UNAVAILABLE = 0, 69


def main(arguments: argparse.Namespace) -> int:
    """Carry out the action; returns the exit code."""
    actions = {"prepare": _prepare}
    return actions[arguments.action](arguments)


def _prepare(arguments: argparse.Namespace) -> int:
    """Show the SQL of indexes and the trigger of a source, and execute it when asked to."""
    found = plugins.find("sources", arguments.name).load()
    if not issubclass(found, PostgresSource):
        raise ConfigurationError(f"the source {arguments.name!r} is no table of PostgreSQL: nothing needs preparation")
    from ai_task_processor.net.postgres import Database
    from ai_task_processor.sources.postgres import preparation

    for statement, meaning in preparation.statements(found.profile):
        print(f"-- {meaning}\n{statement};", flush=True)
    if not arguments.apply:
        return EX_OK
    settings = load_settings(groups=(DatabaseSettings,))
    database = Database.build(lambda: settings[DatabaseSettings], settings.network)
    try:
        asyncio.run(preparation.apply(database, found.profile))
    except RemoteError as error:
        print(f"ai-task-processor: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    print("-- done", flush=True)
    return EX_OK
