"""A file of schema 1 becomes one of schema 2: everything is copied into a new file, which then takes its place.

Copied, because the key of a record changes, and because ``salvage`` counts on where a new file has its first pages.
A process that is killed at any moment leaves either the old file or the whole new one.
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
    """Closes ``old``. Raises ``OutboxLocked`` while somebody else reads it, ``sqlite3.Error`` and ``OSError``."""
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
