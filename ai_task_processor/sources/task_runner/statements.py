"""The SQL of a task runner's four tables, composed once for the names in a profile. Values are parameters.

The columns are the API's: times are UTC without a zone, ids are UUIDs as text, and no column has a default.
"""

from collections.abc import Mapping
from typing import Final, LiteralString

from ai_task_processor.net.leases import PREFIX
from ai_task_processor.net.postgres import sql
from ai_task_processor.sources.postgres.statements import table
from ai_task_processor.sources.task_runner.profile import Tables

_NOW: Final = sql.SQL("(clock_timestamp() AT TIME ZONE 'UTC')")
#: of a run: its task, its owner, and the start of the task that it is
_PARTS: Final[Mapping[str, sql.Composable]] = {
    "task": sql.SQL("(r.metadata_json->>'task_id')"),
    "owner": sql.SQL("(r.metadata_json->>'owner')"),
    "start": sql.SQL("substring(r.metadata_json->>'owner' from ':([0-9]{1,9})$')::int"),
    "ours": sql.SQL("starts_with(r.metadata_json->>'owner', {})").format(sql.Literal(PREFIX)),
    "closed": sql.SQL("finished_at = {}, metadata_json = r.metadata_json - 'owner'").format(_NOW),
    "now": _NOW,
}

#: rows to claim, the oldest first; ``Rows`` makes tasks of them
_ROWS: Final = """
WITH picked AS MATERIALIZED ({ids_of})
SELECT t.id, t.type, t.created_at::text, extract(epoch FROM t.created_at)::float8, false, {owner_of},
  CASE WHEN octet_length(t.params_json::text) <= %(most)s THEN t.params_json::text END,
  t.timeout_seconds, t.max_retries, t.retry_count, t.cancel_requested
FROM picked JOIN {tasks} t ON t.id = picked.id ORDER BY t.created_at, t.id"""
_PAGE: Final = """
SELECT id, NULL AS owner FROM {tasks}
WHERE status = 'queued' AND (%(types)s::text[] IS NULL OR type = ANY(%(types)s)){behind}
ORDER BY created_at, id LIMIT %(limit)s{lock}"""
_PROCESSING: Final = """
SELECT r.task AS id, r.owner FROM (SELECT {task} AS task, {owner} AS owner, {start} AS start FROM {runs} r
  WHERE r.status = 'running' AND {ours}) r
JOIN {tasks} t ON t.id = r.task AND t.status = 'running' AND t.retry_count = r.start WHERE r.task = ANY(%(ids)s)"""

#: the last run of each key, whether some run of it has failed, and what the task of a completed one has
_HISTORY: Final = """
WITH of_keys AS (
  SELECT r.*, bool_or(r.status = 'failed') OVER (PARTITION BY r.run_key) AS failed
  FROM {runs} r WHERE r.run_key = ANY(%(keys)s)),
last AS (SELECT DISTINCT ON (r.run_key) r.* FROM of_keys r ORDER BY r.run_key, r.started_at DESC, r.id)
SELECT r.run_key, r.id, r.status = 'running' AND coalesce({ours}, false), r.failed, t.result_json,
  EXISTS (SELECT FROM {artifacts} a WHERE a.type = 'fetch_html' AND t.result_json->'artifact_ids' ? a.id)
FROM last r LEFT JOIN {tasks} t ON r.status = 'completed' AND t.id = {task} AND t.status = 'completed'"""

_CLAIM: Final = """
WITH wanted AS (
  SELECT * FROM unnest(%(ids)s::text[], %(runs)s::text[], %(keys)s::text[], %(starts)s::int[]) w(id, run, key, start)),
claimed AS (
  UPDATE {tasks} t SET status = 'running', started_at = {now}, finished_at = NULL, updated_at = {now},
    retry_count = t.retry_count + 1
  FROM wanted w WHERE t.id = w.id AND t.status = 'queued' AND t.retry_count = w.start - 1
  RETURNING t.id, t.type, t.retry_count, w.run, w.key),
begun AS (
  INSERT INTO {runs}(id, run_key, status, started_at, metadata_json)
  SELECT run, key, 'running', {now},
    jsonb_build_object('task_id', id, 'task_type', type, 'owner', %(nonce)s::text || retry_count::text) FROM claimed)
SELECT id, %(nonce)s::text || retry_count::text FROM claimed"""
_REPEAT: Final = """
UPDATE {tasks} t SET status = 'completed', started_at = {now}, finished_at = {now}, updated_at = {now}, error = NULL,
  retry_count = t.retry_count + 1, result_json = w.result::jsonb
FROM unnest(%(ids)s::text[], %(results)s::text[]) w(id, result) WHERE t.id = w.id AND t.status = 'queued'"""
_CANCEL: Final = """
UPDATE {tasks} SET status = 'cancelled', finished_at = {now}, updated_at = {now}
WHERE id = ANY(%(ids)s) AND status = 'queued'"""
_REJECT: Final = """
WITH wanted AS (SELECT * FROM unnest(%(ids)s::text[], %(runs)s::text[], %(keys)s::text[]) w(id, run, key)),
rejected AS (
  UPDATE {tasks} t SET status = 'failed', started_at = {now}, finished_at = {now}, updated_at = {now},
    error = %(error)s::text, retry_count = t.retry_count + 1
  FROM wanted w WHERE t.id = w.id AND t.status = 'queued' RETURNING t.id, t.type, w.run, w.key)
INSERT INTO {runs}(id, run_key, status, started_at, finished_at, metadata_json)
SELECT run, key, 'failed', {now}, {now}, jsonb_build_object('task_id', id, 'task_type', type) FROM rejected"""

_SEEN: Final = """
SELECT t.type, t.retry_count, t.max_retries, t.timeout_seconds, t.status,
  (SELECT r.status FROM {runs} r WHERE r.id = %(run)s::text) FROM {tasks} t WHERE t.id = %(id)s::text"""
#: the fence: ``retry_count`` grows with each start
_END: Final = """
WITH done AS (
  UPDATE {tasks} SET status = %(state)s::text, updated_at = {now},
    started_at = CASE WHEN %(state)s::text <> 'queued' THEN started_at END,
    finished_at = CASE WHEN %(state)s::text <> 'queued' THEN {now} END,
    error = CASE WHEN %(state)s::text <> 'completed' THEN coalesce(%(error)s::text, error) END,
    result_json = coalesce(%(result)s::jsonb, result_json)
  WHERE id = %(id)s::text AND status = 'running' AND retry_count = %(start)s RETURNING id),
closed AS (
  UPDATE {runs} r SET status = CASE WHEN %(state)s::text = 'completed' THEN 'completed' ELSE 'failed' END, {closed}
  FROM done WHERE r.id = %(run)s::text AND r.status = 'running' RETURNING r.id, r.started_at, r.finished_at),
stored AS (
  INSERT INTO {artifacts}(id, task_id, type, content_type, path, created_at)
  SELECT a.id, done.id, a.type, a.content_type, a.path, {now} + a.number * interval '1 microsecond'
  FROM done, unnest(%(artifacts)s::text[], %(types)s::text[], %(content_types)s::text[], %(paths)s::text[])
    WITH ORDINALITY a(id, type, content_type, path, number)),
measured AS (
  INSERT INTO {metrics}(id, run_id, task_id, name, value, created_at)
  SELECT %(metric)s::text, id, %(id)s::text, 'duration_ms',
    to_jsonb(round(extract(epoch FROM finished_at - started_at) * 1000)::bigint), {now}
  FROM closed WHERE %(measured)s)
SELECT count(*) FROM done"""
#: a run whose task somebody else has changed
_CLOSE: Final = "UPDATE {runs} r SET status = 'failed', {closed} WHERE r.id = ANY(%(runs)s) AND r.status = 'running'"
_RELEASE: Final = """
WITH done AS (
  UPDATE {tasks} SET status = 'queued', updated_at = {now}, started_at = NULL, finished_at = NULL,
    error = CASE WHEN {now} - started_at >= make_interval(secs => least(timeout_seconds, %(most_s)s::float8))
      THEN %(timed_out)s::text ELSE coalesce(%(error)s::text, error) END
  WHERE id = %(id)s::text AND status = 'running' AND retry_count = %(start)s RETURNING id, type),
closed AS (
  UPDATE {runs} r SET status = 'failed', {closed} WHERE r.id = %(run)s::text AND r.status = 'running'
  RETURNING r.id, r.started_at, r.finished_at),
measured AS (
  INSERT INTO {metrics}(id, run_id, task_id, name, value, created_at)
  SELECT %(metric)s::text, id, %(id)s::text, 'duration_ms',
    to_jsonb(round(extract(epoch FROM finished_at - started_at) * 1000)::bigint), {now} FROM closed)
SELECT type FROM done"""

_CLAIMED: Final = """
SELECT id, type, status, retry_count, cancel_requested FROM {tasks} WHERE id = ANY(%(ids)s)"""
#: closes runs whose task is not running any more, because somebody has changed or deleted it
_OWNED: Final = """
WITH stray AS (
  UPDATE {runs} r SET status = 'failed', {closed} WHERE r.status = 'running' AND {ours} AND NOT EXISTS (
    SELECT FROM {tasks} t WHERE t.id = {task} AND t.status = 'running' AND t.retry_count = {start}))
SELECT t.id, {owner} FROM {runs} r
JOIN {tasks} t ON t.id = {task} AND t.status = 'running' AND t.retry_count = {start}
WHERE r.status = 'running' AND {ours}"""
#: The lock is free only when no session of that process is left, and is held until the commit.
_REAP: Final = """
WITH dead AS MATERIALIZED (
  SELECT r.id, {task} AS task, {start} AS start FROM {runs} r
  WHERE r.status = 'running' AND {owner} = ANY(%(owners)s) AND (SELECT pg_try_advisory_xact_lock(%(key)s))),
freed AS (
  UPDATE {tasks} t SET status = 'queued', started_at = NULL, updated_at = {now} FROM dead
  WHERE t.id = dead.task AND t.status = 'running' AND t.retry_count = dead.start RETURNING t.id, t.type),
closed AS (
  UPDATE {runs} r SET status = 'failed', {closed} FROM dead
  WHERE r.id = dead.id AND r.status = 'running' AND (SELECT count(*) FROM freed) >= 0)
SELECT id, type FROM freed"""

#: running tasks without a run of ours
_OTHERS: Final = """
SELECT count(*) FROM {tasks} t WHERE t.status = 'running' AND NOT EXISTS (
  SELECT FROM {runs} r WHERE {task} = t.id AND r.status = 'running' AND {ours})"""

#: tasks of which the index in Redis must know, and those among ``ids`` of which it may
_WAITING: Final = "SELECT id, type FROM {tasks} WHERE status = 'queued' ORDER BY created_at, id LIMIT %(limit)s"
_OPEN: Final = "SELECT id FROM {tasks} WHERE id = ANY(%(ids)s) AND status IN ('queued', 'running')"

#: statements, and what each is for
_INDEXES: Final[Mapping[LiteralString, LiteralString]] = {
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS tasks_atp_queued ON {tasks} (created_at, id) WHERE status = 'queued'": (
        "claims find the oldest queued tasks without reading the table"
    ),
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_atp_key ON {runs} (run_key, started_at)": (
        "claims find equal tasks without reading the table of runs"
    ),
    "CREATE INDEX CONCURRENTLY IF NOT EXISTS runs_atp_running ON {runs} (id) WHERE status = 'running'": (
        "runs of dead processes are found without reading the table of runs"
    ),
}


class RunnerStatements:
    """Attributes are statements, with the parameters that ``Rows`` passes."""

    def __init__(self, tables: Tables) -> None:
        self._names = {name: table(of) for name, of in tables}
        #: rows to claim, by (locked, after a position)
        self.pages = {
            (locked, after): self._rows(self._page(locked=locked, after=after))
            for locked in (False, True)
            for after in (False, True)
        }
        self.page_plan = b"EXPLAIN (FORMAT JSON) " + self._page(locked=False, after=False).as_bytes()
        self.processing = self._rows(self._composed(_PROCESSING))
        self.lock = self._bytes(
            "SELECT id FROM {tasks} WHERE id = ANY(%(ids)s) AND status = 'queued'"
            " ORDER BY id FOR NO KEY UPDATE SKIP LOCKED"
        )
        self.history, self.claim, self.repeat = map(self._bytes, (_HISTORY, _CLAIM, _REPEAT))
        self.cancel, self.reject = map(self._bytes, (_CANCEL, _REJECT))
        self.seen, self.end, self.close, self.release = map(self._bytes, (_SEEN, _END, _CLOSE, _RELEASE))
        self.claimed, self.owned, self.reap = map(self._bytes, (_CLAIMED, _OWNED, _REAP))
        self.waiting, self.open = map(self._bytes, (_WAITING, _OPEN))
        self.others = self._bytes(_OTHERS)

    def _composed(self, text: LiteralString, **parts: sql.Composable) -> sql.Composed:
        return sql.SQL(text).format(**self._names, **_PARTS, **parts)

    def _bytes(self, text: LiteralString) -> bytes:
        return self._composed(text).as_bytes()

    def _page(self, *, locked: bool, after: bool) -> sql.Composed:
        return self._composed(
            _PAGE,
            behind=sql.SQL(" AND (created_at, id) > (%(at)s, %(id)s)" if after else ""),
            lock=sql.SQL(" FOR NO KEY UPDATE SKIP LOCKED" if locked else ""),
        )

    def _rows(self, ids: sql.Composed) -> bytes:
        return self._composed(_ROWS, ids_of=ids, owner_of=sql.SQL("picked.owner")).as_bytes()

    def indexes(self) -> list[tuple[str, str]]:
        """What an operator may execute, each outside a transaction, and what it is for."""
        return [(self._composed(statement).as_string(), meaning) for statement, meaning in _INDEXES.items()]


#: keys of advisory locks that this transaction has now, out of ``keys``
LOCKED: Final = b"SELECT key FROM unnest(%(keys)s::bigint[]) key WHERE pg_try_advisory_xact_lock(key)"
