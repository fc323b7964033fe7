"""Optional objects that make claims cheap and wake-ups fast. Only an operator creates them, with a command."""

from collections.abc import Sequence
from typing import Final

from ai_task_processor.net.postgres import Database, sql, translated
from ai_task_processor.sources.postgres.profile import MAX_NAME, PostgresProfile
from ai_task_processor.sources.postgres.statements import table

PENDING: Final = (
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS {first} ON {table} ({created}, {id}) WHERE {state} = {pending}"
)
PROCESSING: Final = "CREATE INDEX CONCURRENTLY IF NOT EXISTS {second} ON {table} ({owner}) WHERE {state} = {processing}"
CHILDREN: Final = "CREATE INDEX CONCURRENTLY IF NOT EXISTS {name} ON {table} ({key})"
FUNCTION: Final = (
    "CREATE OR REPLACE FUNCTION {function}() RETURNS trigger LANGUAGE plpgsql AS"
    " $$ BEGIN PERFORM pg_notify({channel}, ''); RETURN NULL; END $$"
)
TRIGGER: Final = (
    "CREATE OR REPLACE TRIGGER {trigger} AFTER INSERT OR UPDATE OF {state} ON {table}"
    " FOR EACH ROW WHEN (NEW.{state} = {pending}) EXECUTE FUNCTION {function}()"
)
#: these commands wait for running transactions
UNBOUNDED: Final = b"SELECT set_config(s, '0', false) FROM unnest(ARRAY['statement_timeout', 'lock_timeout']) s"

#: indexes of ours whose creation was broken off
INVALID: Final = b"""
SELECT n.nspname || '.' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE NOT i.indisvalid AND position('_atp_' IN c.relname) > 0 AND c.relowner = to_regrole(current_user)"""


def _named(of: str, suffix: str) -> str:
    """A name in the schema of the table, recognizable as ours."""
    schema, _, name = of.rpartition(".")
    name = f"{name.encode()[: MAX_NAME - len(suffix) - 5].decode(errors='ignore')}_atp_{suffix}"
    return f"{schema}.{name}" if schema else name


def statements(profile: PostgresProfile) -> Sequence[tuple[str, str]]:
    """What to execute, in order, each outside a transaction, and what it is for.

    The indexes are built without blocking writers. Measured with 100,000 pending tasks and claims of one: the first
    makes them ten times as fast. The trigger costs a third of the rate of single inserts.
    """
    columns, states = profile.columns, profile.states
    parts = {
        "table": table(profile.table),
        "created": sql.Identifier(columns.created_at),
        "id": sql.Identifier(columns.id),
        "state": sql.Identifier(columns.state),
        "owner": sql.Identifier(columns.owner),
        "pending": sql.Literal(states.pending),
        "processing": sql.Literal(states.processing),
        "channel": sql.Literal(profile.notify),
        "function": table(_named(profile.table, "notify")),
        "trigger": _index(profile.table, "notify"),
        "first": _index(profile.table, "pending"),
        "second": _index(profile.table, "processing"),
    }
    found = [
        (sql.SQL(PENDING).format(**parts), "claims find the oldest pending tasks without reading the table"),
        (sql.SQL(PROCESSING).format(**parts), "claims of dead processes are found without reading the table"),
    ]
    for key, child in profile.children.items():
        name, of, column = _index(child.table, child.key), table(child.table), sql.Identifier(child.key)
        found.append((sql.SQL(CHILDREN).format(name=name, table=of, key=column), f"{key} are found by their task"))
    if profile.notify is not None:
        found.append((sql.SQL(FUNCTION).format(**parts), "what the trigger does"))
        found.append((sql.SQL(TRIGGER).format(**parts), "new tasks wake the daemons"))
    return [(statement.as_string(), meaning) for statement, meaning in found]


def _index(of: str, suffix: str) -> sql.Identifier:
    """An index and a trigger are in the schema of their table without its name."""
    return sql.Identifier(_named(of, suffix).rpartition(".")[2])


async def apply(database: Database, prepared: Sequence[tuple[str, str]]) -> None:
    """Execute these statements. What exists is left as it is, or replaced. Raises ``RemoteError``."""
    connection = await database.connect()
    with translated():
        async with connection:
            await connection.execute(UNBOUNDED)
            for (invalid,) in await (await connection.execute(INVALID)).fetchall():
                await connection.execute(sql.SQL("DROP INDEX CONCURRENTLY {}").format(table(invalid)))
            for statement, _ in prepared:
                await connection.execute(statement.encode())
