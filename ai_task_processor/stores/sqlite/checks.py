"""The checks of ``doctor`` for the data directory."""

import errno
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping
from pathlib import Path
from typing import Final

from pydantic import ByteSize

from ai_task_processor.core.checks import Finding, aside, halves, ok, shown, unusable, warning
from ai_task_processor.core.errors import DataDirectoryError
from ai_task_processor.stores.sqlite import directory, inspection, schema

PROBE_BYTES: Final = 2**16
_DEAD: Final = "see `ai-task-processor outbox list --dead`"


async def examine(path: Path, max_bytes: int, source: str) -> AsyncIterator[Finding]:
    """Whether it can be written, whether a daemon runs on it, and its records. Creates the directory, and no file."""
    try:
        findings = await aside(lambda: list(_look_at(path, max_bytes, source)))
    except (OSError, DataDirectoryError) as error:
        findings = [unusable_directory(error, path)]
    for finding in findings:
        yield finding


def _look_at(path: Path, max_bytes: int, source: str) -> Iterator[Finding]:
    directory.prepare(path)
    with tempfile.TemporaryFile(dir=path) as file:
        file.write(bytes(PROBE_BYTES))
        file.flush()
        os.fsync(file.fileno())
    daemon, free = inspection.daemon_running(path), shutil.disk_usage(path).free
    records: Counter[tuple[str, str]] = Counter()
    if inspection.exists(path):
        records.update((summary.source, summary.state) for summary in inspection.iter_records(path))
        if not daemon:
            # A reader leaves SQLite's -wal and -shm behind; a writer deletes them, even without a request.
            inspection.leave_request(path, "retry", ())
    used = sum(file.stat().st_size for file in path.glob(f"{schema.DATABASE}*"))
    free_text = f"{ByteSize(free).human_readable()} free"
    yield ok(f"{path} can be written, {free_text}, {'a' if daemon else 'no'} daemon is running on it", daemon=daemon)
    if free < (growth := max_bytes - used):
        text = f"{free_text}, but the outbox may grow by {ByteSize(growth).human_readable()}"
        yield warning(text, "make room, or lower OUTBOX_MAX_BYTES")
    yield from contents(records, source)


def contents(records: Mapping[tuple[str, str], int], source: str) -> Iterator[Finding]:
    """Findings about the records, counted by (source, state)."""
    own = {state: count for (of, state), count in records.items() if of == source}
    if waiting := own.get("waiting"):
        yield ok(f"results that wait for delivery: {waiting}")
    if dead := own.get("dead"):
        yield warning(f"dead letters: {dead}", f"{_DEAD}, then retry or drop them")
    if quarantined := own.get("quarantined"):
        remedy = f"{_DEAD}; when the cause is gone, `outbox retry` lets them start again"
        yield warning(f"tasks that killed the process: {quarantined}", remedy)
    foreign = {of: count for (of, state), count in records.items() if of != source and state == "waiting"}
    if foreign:
        text = f"results of other sources, kept but not delivered: {sum(foreign.values())} ({shown(sorted(foreign))})"
        yield warning(text, "set TASK_SOURCE to their source to deliver them, or drop them with `outbox drop`")


def unusable_directory(error: OSError | DataDirectoryError, path: Path) -> Finding:
    """Why the data directory cannot be used, with a remedy."""
    if isinstance(error, DataDirectoryError):
        text, remedy = halves(str(error))
        return unusable(text, remedy if "DATA_DIR" in remedy else f"DATA_DIR: {remedy}")
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return unusable(f"the file system of {path} is full", "make room, or change DATA_DIR")
    reason = error.strerror or type(error).__name__
    return unusable(f"{path} cannot be written ({reason})", "make DATA_DIR a directory that this user may write to")
