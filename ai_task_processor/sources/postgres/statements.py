"""The SQL of one profile, composed once. Names are always quoted as identifiers; values are parameters.

Words of states are literals, so that the planner recognizes the predicate of a partial index.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal, LiteralString

from ai_task_processor.net.leases import PREFIX
from ai_task_processor.net.postgres import sql
from ai_task_processor.sources.postgres.profile import Children, PostgresProfile

Ending = Literal["completed", "failed", "cancelled"]
_CASTS: Final = {"integer": "bigint", "uuid": "uuid", "text": "text"}

#: Keys of advisory locks that somebody holds, out of ``keys``: sessions of living processes.
HELD: Final = b"""
SELECT ((classid::bigint << 32) | objid::bigint) FROM pg_locks
WHERE locktype = 'advisory' AND objsubid = 1 AND granted
  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())
  AND ((classid::bigint << 32) | objid::bigint) = ANY(%(keys)s::bigint[])"""


def table(name: str) -> sql.Identifier:
    """``table`` or ``schema.table``."""
    return sql.Identifier(*name.split("."))


def _listed(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


class Statements:
    """Attributes are statements, with the parameters that ``Table`` passes."""

    def __init__(self, profile: PostgresProfile) -> None:
        self._profile = profile
        self._columns, self._states = profile.columns, profile.states
        self._table = table(profile.table)
        self._id = sql.Identifier(profile.columns.id)
        self._state = sql.Identifier(profile.columns.state)
        self._owner = sql.Identifier(profile.columns.owner)
        self._cast = sql.SQL(_CASTS[profile.id_type])
        self._ours = self._formatted("{state} = {processing} AND {owner} = %(owner)s")
        #: rows to claim, by (locked, after a position)
        self.pages = {
            (locked, after): self._rows(self._page(locked=locked, after=after))
            for locked in (False, True)
            for after in (False, True)
        }
        self.page_plan = b"EXPLAIN (FORMAT JSON) " + self._page(locked=False, after=False).as_bytes()
        self.processing = self._rows(
            self._formatted("SELECT {id} FROM {table} WHERE {id} = ANY({ids}) AND {state} = {processing}")
        )
        self.claim = self._claim()
        self.cancel_pending = self._formatted(
            "UPDATE {table} SET {set} WHERE {id} = ANY({ids}) AND {state} = {pending}",
            set=self._ended("cancelled"),
        ).as_bytes()
        self.claimed = self._formatted(
            "SELECT {id}::text, {owner}::text, {state} = {processing}, {cancel} FROM {table} WHERE {id} = ANY({ids})",
            cancel=self._optional(self._columns.cancel, "false"),
        ).as_bytes()
        self.end = {ending: self._end(ending) for ending in ("completed", "failed", "cancelled")}
        released = self._set(state=sql.Literal(self._states.pending), updated_at=sql.SQL("now()"), started_at=sql.NULL)
        self.release = self._formatted(
            "UPDATE {table} SET {set} WHERE {id} = {one} AND {ours}", set=released, ours=self._ours
        ).as_bytes()
        self.owned = self._formatted(
            "SELECT {id}::text, {owner}::text FROM {table}"
            " WHERE {state} = {processing} AND starts_with({owner}, {prefix})",
            prefix=sql.Literal(PREFIX),
        ).as_bytes()
        # The lock is free only when no session of that process is left, and is held until the commit.
        self.reap = self._formatted(
            "UPDATE {table} SET {set} WHERE {state} = {processing} AND {owner} = ANY(%(owners)s::text[])"
            " AND (SELECT pg_try_advisory_xact_lock(%(key)s)) RETURNING {id}::text",
            set=released,
        ).as_bytes()

    def _formatted(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        known = {
            "table": self._table,
            "id": self._id,
            "state": self._state,
            "owner": self._owner,
            "pending": sql.Literal(self._states.pending),
            "processing": sql.Literal(self._states.processing),
            "ids": sql.SQL("%(ids)s::{}[]").format(self._cast),
            "one": sql.SQL("%(id)s::{}").format(self._cast),
        }
        return sql.SQL(text).format(**known, **parts)

    def _optional(self, column: str | None, otherwise: LiteralString) -> sql.Composable:
        return sql.SQL(otherwise) if column is None else sql.Identifier(column)

    def _set(self, **values: sql.Composable) -> sql.Composed:
        """``column = value`` for those of these columns that the table has."""
        named = ((getattr(self._columns, key), value) for key, value in values.items())
        return _listed(sql.SQL("{} = {}").format(sql.Identifier(name), value) for name, value in named if name)

    def _page(self, *, locked: bool, after: bool) -> sql.Composed:
        """The ids of the oldest pending tasks. ``locked``: only those that no other transaction has locked, locked."""
        kind = self._columns.type
        conditions = [self._formatted("{state} = {pending}")]
        if kind is not None:
            # A text at the moment: the column may be an enumeration.
            conditions.append(
                sql.SQL("(%(types)s::text[] IS NULL OR {}::text = ANY(%(types)s))").format(sql.Identifier(kind))
            )
        if after:
            conditions.append(self._formatted("({created}, {id}) > (%(at)s, {one})", created=self._created))
        return self._formatted(
            "SELECT {id} FROM {table} WHERE {conditions} ORDER BY {created}, {id} LIMIT %(limit)s{lock}",
            conditions=sql.SQL(" AND ").join(conditions),
            created=self._created,
            # Not FOR UPDATE: that would skip a task into which a child is just being inserted.
            lock=sql.SQL(" FOR NO KEY UPDATE SKIP LOCKED" if locked else ""),
        )

    @property
    def _created(self) -> sql.Identifier:
        return sql.Identifier(self._columns.created_at)

    def _rows(self, ids: sql.Composed) -> bytes:
        """What ``Table`` makes tasks of, for the rows with these ids. MATERIALIZED: otherwise LIMIT may not hold."""
        kind, cancel = self._columns.type, self._columns.cancel
        return self._formatted(
            "WITH picked AS MATERIALIZED ({ids_of})"
            " SELECT t.{id}::text, {type}, t.{created}::text, extract(epoch FROM t.{created})::float8,"
            " {cancel}, t.{owner}::text, CASE WHEN octet_length(x.content) <= %(most)s THEN x.content END"
            " FROM picked JOIN {table} t ON t.{id} = picked.{id}{children}"
            " CROSS JOIN LATERAL (SELECT {content} AS content) x ORDER BY t.{created}, t.{id}",
            ids_of=ids,
            created=self._created,
            type=sql.SQL("NULL") if kind is None else sql.SQL("t.{}::text").format(sql.Identifier(kind)),
            cancel=sql.SQL("false") if cancel is None else sql.SQL("t.{}").format(sql.Identifier(cancel)),
            children=sql.Composed([self._joined(n, child) for n, child in enumerate(self._profile.children.values())]),
            content=self._content(),
        ).as_bytes()

    def _joined(self, number: int, child: Children) -> sql.Composed:
        """The children of all picked tasks, read at once: without an index that is one pass through their table."""
        fields = self._object("c", child.columns.items())
        return sql.SQL(
            " LEFT JOIN (SELECT c.{key} AS parent, json_agg({fields} ORDER BY {order}) AS rows FROM {table} c"
            " WHERE c.{key} IN (SELECT picked.{id} FROM picked) GROUP BY c.{key}) {alias} ON {alias}.parent = t.{id}"
        ).format(
            key=sql.Identifier(child.key),
            fields=fields,
            order=_listed(sql.SQL("c.{}").format(sql.Identifier(name)) for name in child.order),
            table=table(child.table),
            id=self._id,
            alias=sql.Identifier(f"children{number}"),
        )

    def _object(self, alias: str, fields: Iterable[tuple[str, str]], *more: sql.Composable) -> sql.Composed:
        pairs: Sequence[sql.Composable] = [
            sql.SQL("{}, {}").format(sql.Literal(key), sql.Identifier(alias, name)) for key, name in fields
        ]
        return sql.SQL("json_build_object({})").format(_listed([*pairs, *more]))

    def _content(self) -> sql.Composed:
        """The content of a task as the text of a JSON document."""
        content = self._profile.content
        if isinstance(content, str):
            return sql.SQL("{}::text").format(sql.Identifier("t", content))
        children = (
            sql.SQL("{}, coalesce({}.rows, '[]'::json)").format(sql.Literal(key), sql.Identifier(f"children{number}"))
            for number, key in enumerate(self._profile.children)
        )
        return sql.SQL("{}::text").format(self._object("t", content.items(), *children))

    def _claim(self) -> bytes:
        column = self._columns.attempt
        if column is None:
            # Other workers overwrite the owner: then the count begins again.
            before: sql.Composable = sql.SQL("substring(t.{} FROM {})::int").format(
                self._owner, sql.Literal(f"^{PREFIX}.*:([0-9]{{1,6}})$")
            )
        else:
            before = sql.Identifier("t", column)
        attempt = sql.SQL("(coalesce({}, 0) + 1)").format(before)
        now = sql.SQL("now()")
        return self._formatted(
            "WITH picked AS MATERIALIZED (SELECT {id} FROM {table} WHERE {id} = ANY({ids}) AND {state} = {pending}"
            " FOR NO KEY UPDATE SKIP LOCKED)"
            " UPDATE {table} t SET {set} FROM picked WHERE t.{id} = picked.{id} AND t.{state} = {pending}"
            " RETURNING t.{id}::text, t.{owner}::text",
            set=self._set(
                state=sql.Literal(self._states.processing),
                owner=sql.SQL("%(nonce)s || {}::text").format(attempt),
                updated_at=now,
                started_at=now,
                attempt=attempt,
            ),
        ).as_bytes()

    def _ended(self, ending: Ending) -> sql.Composed:
        now, word = sql.SQL("now()"), getattr(self._states, ending) or self._states.failed
        values: dict[str, sql.Composable] = {"state": sql.Literal(word), "updated_at": now, "finished_at": now}
        if ending == "completed":
            values |= {"completed_at": now, "result": sql.Placeholder("result"), "error": sql.NULL}
        elif ending == "failed":
            values["error"] = sql.Placeholder("error")
        return self._set(**values)

    def _end(self, ending: Ending) -> bytes:
        """End a task and update its children in one statement, if the claim still holds; what was there before."""
        children = (
            self._formatted(
                ", {name} AS (UPDATE {children} SET {set} WHERE {key} = {one} AND EXISTS (SELECT FROM done))",
                name=sql.Identifier(f"child{number}"),
                children=table(child.table),
                set=_listed(
                    sql.SQL("{} = {}").format(sql.Identifier(name), value)
                    for name, value in (
                        *((name, sql.Literal(word)) for name, word in getattr(child, ending, {}).items()),
                        *([(child.updated_at, sql.SQL("now()"))] if child.updated_at else []),
                    )
                ),
                key=sql.Identifier(child.key),
            )
            for number, child in enumerate(self._profile.children.values())
            if getattr(child, ending, {})
        )
        return self._formatted(
            "WITH seen AS MATERIALIZED"
            " (SELECT {state}::text AS state, {owner}::text AS owner FROM {table} WHERE {id} = {one}),"
            " done AS (UPDATE {table} SET {set} WHERE {id} = {one} AND {ours} RETURNING {id}){children}"
            " SELECT EXISTS (SELECT FROM done), state, owner FROM seen",
            set=self._ended(ending),
            ours=self._ours,
            children=sql.Composed(list(children)),
        ).as_bytes()
