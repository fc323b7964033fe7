"""The checks of ``doctor``: connection, tables, columns, types and rights; all mistakes at once. Nothing is written."""

from collections.abc import AsyncIterator, Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from ai_task_processor.core.checks import Finding, Listed, Stopwatch, down, ok, shown, warning, wrong
from ai_task_processor.core.errors import Misconfigured, RemoteError, Unauthorized
from ai_task_processor.net.leases import MAX_OWNER, PREFIX
from ai_task_processor.net.postgres import Connection, Database, sql, translated
from ai_task_processor.sources.postgres.profile import PostgresProfile
from ai_task_processor.sources.postgres.statements import table as quoted
from ai_task_processor.sources.postgres.table import LONG, Table

#: tasks read from the head of the table
SAMPLE: Final = 200
_TEXT, _TIME, _JSON = ("S", "E"), ("D",), ("S", "json", "jsonb")
#: by key of the profile: categories or names of types (pg_type.typcategory, typname), and words for them
_TYPES: Final[Mapping[str, tuple[Collection[str], str]]] = {
    "columns.created_at": (_TIME, "a timestamp"),
    "columns.updated_at": (_TIME, "a timestamp"),
    "columns.started_at": (_TIME, "a timestamp"),
    "columns.finished_at": (_TIME, "a timestamp"),
    "columns.completed_at": (_TIME, "a timestamp"),
    "columns.state": (_TEXT, "text or an enumeration"),
    "columns.type": (_TEXT, "text or an enumeration"),
    "columns.owner": (("S",), "text"),
    "columns.attempt": (("N",), "an integer"),
    "columns.cancel": (("B",), "a boolean"),
    "columns.result": (_JSON, "JSON or text"),
    "columns.error": (_JSON, "JSON or text"),
}
_ID_TYPES: Final = {"integer": ("int2", "int4", "int8"), "uuid": ("uuid",), "text": ("S",)}
_READ_ONLY: Final = frozenset({"columns.id", "columns.created_at", "columns.type", "columns.cancel"})

_COLUMNS: Final = b"""
SELECT a.attname, t.typcategory::text, t.typname, a.atttypmod, has_column_privilege(a.attrelid, a.attnum, 'SELECT'),
       has_column_privilege(a.attrelid, a.attnum, 'UPDATE'),
       ARRAY(SELECT e.enumlabel::text FROM pg_enum e WHERE e.enumtypid = t.oid)
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = to_regclass(%s) AND a.attnum > 0 AND NOT a.attisdropped"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column in the database. ``length``: of a varchar, 0 when it has no limit; ``labels``: of an enumeration."""

    category: str
    type: str
    length: int
    readable: bool
    writable: bool
    labels: Collection[str]

    def is_one_of(self, kinds: Collection[str]) -> bool:
        return self.category in kinds or self.type in kinds


def examine(
    table: Table, profile: PostgresProfile, name: str, unverified: str | None
) -> AsyncIterator[Finding | Listed]:
    """Can the tasks be read and claimed, and what is pending?"""
    contents = partial(_contents, table=table, profile=profile, name=name)
    return examined(table.database, partial(_mistakes, profile=profile), contents, f"{profile.table} has", unverified)


async def examined(
    database: Database,
    mistakes_in: Callable[[Connection], AsyncIterator[Finding]],
    contents_of: Callable[[Connection], AsyncIterator[Finding | Listed]],
    subject: str,
    unverified: str | None,
) -> AsyncIterator[Finding | Listed]:
    """The mistakes in tables, or what is in them. ``subject``: the tables with a verb; ``unverified``: a warning."""
    watch = Stopwatch()
    try:
        async with await database.connect() as connection:
            with translated():
                mistakes = [finding async for finding in mistakes_in(connection)]
                if not mistakes:
                    yield ok(f"{subject} every column, and may be changed ({watch})")
                    if unverified:
                        yield warning(unverified)
                    async for found in contents_of(connection):
                        yield found
    except RemoteError as error:
        yield _unreachable(error)
        return
    for finding in mistakes:
        yield finding


def _unreachable(error: RemoteError) -> Finding:
    """The finding for a database that cannot be used."""
    if isinstance(error, Unauthorized):
        return wrong(str(error), "correct user and password in DATABASE_URL, or grant that role its rights")
    if isinstance(error, Misconfigured):
        return wrong(str(error), "correct DATABASE_URL, or the profile")
    return down(str(error), "ask who runs the database, or look at DATABASE_URL")


async def _mistakes(connection: Connection, profile: PostgresProfile) -> AsyncIterator[Finding]:
    columns = await columns_of(connection, profile.table)
    for mistake in _in_table(columns, profile):
        yield mistake
    for key, child in profile.children.items():
        columns = await columns_of(connection, child.table)
        written = {*child.completed, *child.failed, *([child.updated_at] if child.updated_at else [])}
        names = {child.key, *child.order, *child.columns.values(), *written}
        for mistake in lacking(columns, child.table, {f"children.{key}": sorted(names)}, written):
            yield mistake


def _in_table(columns: Mapping[str, Column], profile: PostgresProfile) -> Iterator[Finding]:
    used = dict(profile.column_names())
    written = {name for key, name in used.items() if key.startswith("columns.") and key not in _READ_ONLY}
    yield from lacking(columns, profile.table, {key: [name] for key, name in used.items()}, written)
    types = {**_TYPES, "columns.id": (_ID_TYPES[profile.id_type], f"of id_type {profile.id_type}")}
    for key, (kinds, words) in types.items():
        column = columns.get(used.get(key, ""))
        if column is not None and not column.is_one_of(kinds):
            yield wrong(f"{profile.table}.{used[key]} is {column.type}, not {words}", f"correct {key} in the profile")
    if (owner := columns.get(used["columns.owner"])) and 0 < owner.length < MAX_OWNER:
        text = f"{profile.table}.{used['columns.owner']} has room for {owner.length} characters only"
        yield wrong(text, f"make it varchar(255): an owner id has up to {MAX_OWNER}")
    if (state := columns.get(used["columns.state"])) and state.category == "E":
        labels = {label for _, label in profile.states if label is not None}
        if unknown := sorted(labels - set(state.labels)):
            yield wrong(
                f"{profile.table}.{used['columns.state']} knows no {shown(unknown)}", "correct states in the profile"
            )


def lacking(
    columns: Mapping[str, Column], table: str, used: Mapping[str, Iterable[str]], written: Collection[str]
) -> Iterator[Finding]:
    """Columns that are missing, and rights."""
    if not columns:
        yield wrong(f"there is no table {table}", "correct its name in the profile, or DATABASE_URL")
        return
    found = [(key, name, columns.get(name)) for key, names in used.items() for name in names]
    for key, name, column in found:
        if column is None:
            yield wrong(f"{table} has no column {name}", f"correct {key} in the profile")
    for right, names in (
        ("SELECT", {name for _, name, column in found if column and not column.readable}),
        ("UPDATE", {name for _, name, column in found if column and name in written and not column.writable}),
    ):
        if names:
            yield wrong(f"we may not {right} {table} ({shown(sorted(names))})", f"GRANT {right} ON {table} TO our role")


async def columns_of(connection: Connection, name: str) -> Mapping[str, Column]:
    """The columns of a table by name; none when there is no such table."""
    rows = await (await connection.execute(_COLUMNS, [quoted(name).as_string()])).fetchall()
    return {
        name: Column(category, kind, max(0, modifier - 4) if kind == "varchar" else 0, readable, writable, labels)
        for name, category, kind, modifier, readable, writable, labels in rows
    }


async def _contents(
    connection: Connection, table: Table, profile: PostgresProfile, name: str
) -> AsyncIterator[Finding | Listed]:
    watch = Stopwatch()
    page = await table.sample(connection, SAMPLE)
    why = "its content is no JSON, or longer than 32 MiB"
    yield Listed(page.tasks, page.seen, page.last is None, str(watch), [(id_, why) for id_ in page.invalid])
    if page.invalid:
        text = f"{len(page.invalid)} have a content that cannot be used, and stay pending"
        yield warning(text, "look at content in the profile")
    if (rows := await table.sorted_rows(connection)) > LONG:
        text = f"a claim reads all pending tasks (about {rows}), because there is no index for it"
        yield warning(text, f"ai-task-processor sources prepare {name} shows one")
    if not profile.shared_with_others and (others := await _claims_of_others(connection, profile)):
        text = f"{others} tasks are claimed by workers of another kind, which are not expected here"
        yield warning(text, "set them to pending by hand, or shared_with_others = true in the profile")


async def _claims_of_others(connection: Connection, profile: PostgresProfile) -> int:
    statement = sql.SQL("SELECT count(*) FROM {} WHERE {} = {} AND starts_with({}, {}) IS NOT TRUE").format(
        quoted(profile.table),
        sql.Identifier(profile.columns.state),
        sql.Literal(profile.states.processing),
        sql.Identifier(profile.columns.owner),
        sql.Literal(PREFIX),
    )
    ((count,),) = await (await connection.execute(statement)).fetchall()
    return int(count)
