"""The checks of ``doctor``: tables and rights, queues, bucket, limits. Nothing is written."""

from collections.abc import AsyncIterator, Callable, Mapping
from functools import partial
from typing import Final

from ai_task_processor.core.checks import Finding, Listed, Stopwatch, down, halves, ok, warning, wrong
from ai_task_processor.core.errors import Misconfigured, RemoteError, Unauthorized
from ai_task_processor.core.settings import Settings
from ai_task_processor.net.postgres import Connection
from ai_task_processor.net.redis import Client, asked, translated
from ai_task_processor.net.s3 import Bucket
from ai_task_processor.sources.postgres.checks import SAMPLE, columns_of, examined, lacking
from ai_task_processor.sources.task_runner.profile import TaskRunnerProfile
from ai_task_processor.sources.task_runner.settings import RunSettings
from ai_task_processor.sources.task_runner.table import Rows

#: by table: columns that are read, those that are updated, and whether rows are added
_USED: Final[Mapping[str, tuple[str, str, bool]]] = {
    "tasks": (
        "id type created_at params_json timeout_seconds max_retries cancel_requested",
        "status updated_at result_json error retry_count started_at finished_at",
        False,
    ),
    "runs": ("id run_key started_at", "status finished_at metadata_json", True),
    "artifacts": ("id task_id type content_type path created_at", "", True),
    "metrics": ("id run_id task_id name value created_at", "", True),
}
_MAY_INSERT: Final = b"SELECT has_table_privilege(to_regclass(%s), 'INSERT')"


def tables(
    rows: Rows, profile: TaskRunnerProfile, name: str, unverified: str | None
) -> AsyncIterator[Finding | Listed]:
    """Can the tasks be read and claimed, and what is queued?"""
    contents = partial(_contents, rows=rows, name=name)
    return examined(rows.database, partial(_mistakes, profile=profile), contents, "the four tables have", unverified)


async def _mistakes(connection: Connection, profile: TaskRunnerProfile) -> AsyncIterator[Finding]:
    for key, name in profile.tables:
        read, updated, added = _USED[key]
        columns = await columns_of(connection, name)
        used = [*read.split(), *updated.split()]
        for mistake in lacking(columns, name, {f"tables.{key}": used}, updated.split()):
            yield mistake
        if columns and added and not (await (await connection.execute(_MAY_INSERT, [name])).fetchone() or (True,))[0]:
            yield wrong(f"we may not INSERT into {name}", f"GRANT INSERT ON {name} TO our role")


async def _contents(connection: Connection, rows: Rows, name: str) -> AsyncIterator[Finding | Listed]:
    watch = Stopwatch()
    page = await rows.sample(connection, SAMPLE)
    yield Listed(page.tasks, page.seen, page.last is None, str(watch))
    if (queued := await rows.sorted_rows(connection)) > SAMPLE:
        text = f"a claim reads all queued tasks (about {queued}), because there is no index for it"
        yield warning(text, f"ai-task-processor sources prepare {name} shows one")
    if others := await rows.of_others(connection):
        text = f"{others} tasks are running at workers of another kind, or were left behind by one"
        yield warning(text, "never run two kinds of workers on one queue; set what was left behind to queued by hand")


async def queues(connect: Callable[[], Client], profile: TaskRunnerProfile) -> AsyncIterator[Finding]:
    """Can Redis be used, and are the keys of the types that they should be?"""
    watch, client = Stopwatch(), connect()
    try:
        with translated():
            lengths = [await asked(client, "LLEN", queue.queue) for queue in profile.queues.values()]
            for queue in profile.queues.values():
                await asked(client, "LLEN", queue.processing)
                await asked(client, "SCARD", queue.ids)
        listed = ", ".join(f"{n} in {queue.queue}" for n, queue in zip(lengths, profile.queues.values(), strict=True))
        yield ok(f"{listed} ({watch})")
    except RemoteError as error:
        yield _finding(error, "ask who runs Redis, or look at REDIS_URL")
    finally:
        await client.aclose()


async def bucket(of: Bucket) -> AsyncIterator[Finding]:
    """Can artifacts be stored?"""
    try:
        yield await of.access()
    except RemoteError as error:
        yield _finding(error, "ask who runs S3, or look at S3_ENDPOINT_URL")


async def limits(settings: Settings) -> AsyncIterator[Finding]:
    """Do the limits fit together?"""
    timeout_s, runtime_s = settings.worker.task_timeout_s, settings[RunSettings].max_runtime_s
    if timeout_s < runtime_s:
        text = f"a task may take {timeout_s:g} s here (TASK_TIMEOUT), and {runtime_s:g} s by TASK_MAX_RUNTIME_SECONDS"
        yield warning(text, "set TASK_TIMEOUT to more than TASK_MAX_RUNTIME_SECONDS")
    else:
        yield ok(f"a task may take {runtime_s:g} s")


def _finding(error: RemoteError, otherwise: str) -> Finding:
    text, remedy = halves(str(error))
    kind = wrong if isinstance(error, Unauthorized | Misconfigured) else down
    return kind(text, remedy or otherwise)
