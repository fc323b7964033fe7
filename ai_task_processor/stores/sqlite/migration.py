"""A file of schema 1 becomes one of schema 2: everything is copied into a new file, which then takes its place.

Copied, because the key of a record changes, and because ``salvage`` counts on where a new file has its first pages.
A process that is killed at any moment leaves either the old file or the whole new one.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ai_task_processor.ops.logs import get_logger
from ai_task_processor.stores.sqlite import schema

_PARTIAL = ".migrating"

log = get_logger(__name__)


def migrate(old: sqlite3.Connection, path: Path) -> None:
    """Closes ``old``. Nobody else may have the file open. Raises ``sqlite3.Error`` and ``OSError``."""
    with closing(old):
        # Leaving WAL empties the log, and fails while a command still reads: a log must not outlive its database.
        old.execute("PRAGMA journal_mode = DELETE")
    partial = path.with_name(path.name + _PARTIAL)
    remove(partial)
    try:
        os.close(os.open(partial, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
        with closing(sqlite3.connect(partial, isolation_level=None)) as new:
            new.execute("PRAGMA synchronous = FULL")
            schema.create(new, partial)
            copied = schema.copy_first(new, path)
    except BaseException:
        remove(partial)
        raise
    partial.replace(path)
    sync(path.parent)
    log.info("outbox.migrated", schema=schema.VERSION, records=copied)


def remove(path: Path) -> None:
    """A database that was never finished."""
    for suffix in ("", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sync(directory: Path) -> None:
    """Names are on disk, too."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
