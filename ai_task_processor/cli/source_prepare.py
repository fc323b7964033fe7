"""``ai-task-processor sources prepare``: indexes and a trigger that make a table of PostgreSQL a faster source."""

import argparse
import asyncio
import sys

from ai_task_processor.cli.sources import found_source
from ai_task_processor.core.errors import ConfigurationError, RemoteError
from ai_task_processor.core.reading import load_settings
from ai_task_processor.net.postgres_settings import DatabaseSettings
from ai_task_processor.sources.postgres.source import PostgresSource

EX_OK, EX_UNAVAILABLE = 0, 69


def main(arguments: argparse.Namespace) -> int:
    """Show the SQL, and execute it when asked to; returns the exit code."""
    _, source = found_source(arguments.name)
    if not issubclass(source, PostgresSource):
        raise ConfigurationError(f"the source {arguments.name!r} is no table of PostgreSQL: nothing needs preparation")
    from ai_task_processor.net.postgres import Database
    from ai_task_processor.sources.postgres import preparation

    for statement, meaning in source.preparation():
        print(f"-- {meaning}\n{statement};", flush=True)
    if not arguments.apply:
        return EX_OK
    settings = load_settings(groups=(DatabaseSettings,))
    database = Database.build(lambda: settings[DatabaseSettings], settings.network)
    try:
        asyncio.run(preparation.apply(database, source.preparation()))
    except RemoteError as error:
        print(f"ai-task-processor: {error}", file=sys.stderr)
        return EX_UNAVAILABLE
    print("-- done", flush=True)
    return EX_OK
