"""Migrates a file of schema 1 to schema 2: copies everything into a new file, and renames it over the old one.

A copy, because the key of a record changes, and because ``salvage`` relies on the first pages of a new file.
A kill at any moment leaves either the old file or the complete new one.
"""

import os
import sqlite3
from contextlib import closing
from pathlib import Path

from ai_task_processor.core.errors import OutboxLocked
from ai_task_processor.ops.logs import get_logger
from ai_task_processor.stores.sqlite import schema

_PARTIAL = ".migrating"

log = get_logger(__name__)


def migrate(old: sqlite3.Connection, path: Path) -> None:
    """Migrate and close ``old``. Raises ``OutboxLocked`` while another process reads it, SQLite errors, ``OSError``."""
    with closing(old):
        try:
            # Leaving WAL empties the log, which must not outlive its database. SQLite waits 5 s for readers to end.
            old.execute("PRAGMA journal_mode = DELETE")
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY:
                raise
            text = "must be brought up to date, and another process has it open: end that process, and start again"
            raise OutboxLocked(f"{path} {text}") from error
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
    """Delete an incomplete database."""
    for suffix in ("", "-journal"):
        path.with_name(path.name + suffix).unlink(missing_ok=True)


def sync(directory: Path) -> None:
    """Make renames in the directory durable."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
