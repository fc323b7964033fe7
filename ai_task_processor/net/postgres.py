"""PostgreSQL through psycopg: a pool for short transactions, connections of their own, errors in our classes.

Every session is set up alike: Read Committed whatever the database's default, UTC, bounds for statements, locks and
forgotten transactions. Nothing is prepared on the server, so that a pooler like PgBouncer may stand in between. The
URL, parameters and rows never become part of a message.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final

from ai_task_processor.core.deadline import Deadline, lost_cancellation_raised
from ai_task_processor.core.errors import (
    Ambiguous,
    ConfigurationError,
    Misconfigured,
    RemoteError,
    TimedOut,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.postgres_settings import DatabaseSettings

try:
    import psycopg
    from psycopg import sql as sql  # noqa: PLC0414 - for those who compose statements
    from psycopg.conninfo import conninfo_to_dict, make_conninfo
    from psycopg_pool import AsyncConnectionPool, PoolTimeout
except ImportError as missing:
    _remedy = "pip install 'ai-task-processor[postgres]'"
    raise ConfigurationError(f"DATABASE_URL needs a driver that is not installed: {_remedy}") from missing

Connection = psycopg.AsyncConnection[tuple[Any, ...]]

#: seconds to connect, and to get a connection of the pool
CONNECT_S, POOL_S = 10, 10.0
#: seconds for one statement, and for a whole use of a connection
STATEMENT_S, USE_S = 30.0, 40.0
#: settings of every session. A row lock of somebody else is waited for a while; one of ours ends when the process
#: stalls inside a transaction.
_SESSION: Final[Mapping[str, str]] = {
    "TimeZone": "UTC",
    "default_transaction_isolation": "read committed",
    "statement_timeout": f"{STATEMENT_S:g}s",
    "lock_timeout": "5s",
    "idle_in_transaction_session_timeout": "10s",
}
_SET_UP: Final = "SELECT " + ", ".join(["set_config(%s, %s, false)"] * len(_SESSION))
#: parameters that the URL may have itself; a server that vanished is noticed after 20 s
_DEFAULTS: Final[Mapping[str, Any]] = {
    "application_name": "ai-task-processor",
    "connect_timeout": CONNECT_S,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 2,
    "tcp_user_timeout": 20_000,
}
#: words of a refused connection, whose SQLSTATE libpq does not tell
_REFUSED: Final[Mapping[str, type[RemoteError]]] = {
    "authentication": Unauthorized,
    "pg_hba.conf": Unauthorized,
    "role ": Unauthorized,
    "permission denied": Unauthorized,
    "not currently accepting": Unsent,
    "database ": Misconfigured,
}


class DataRefused(Misconfigured):
    """The database refuses these very values: a type, a constraint or a trigger. ``detail`` names the constraint."""


class Database:
    """One database. ``connections``: the most that the pool holds; it opens them when they are needed."""

    def __init__(self, conninfo: Callable[[], str], *, connections: int) -> None:
        self._conninfo = conninfo
        self._connections = connections
        self._pool: AsyncConnectionPool[Connection] | None = None
        # What it says of failures is in our errors; its messages have host and user.
        logging.getLogger("psycopg").setLevel(logging.CRITICAL)

    @classmethod
    def build(
        cls, current: Callable[[], DatabaseSettings], network: NetworkSettings, *, connections: int = 1
    ) -> "Database":
        """``current`` returns the settings as they were read last.

        Raises ``ConfigurationError`` when libpq does not understand ``DATABASE_URL``.
        """

        def conninfo() -> str:
            settings = current()
            given = conninfo_to_dict(settings.url.get_secret_value())
            return make_conninfo(**{**_DEFAULTS, **settings.tls(network), **given})

        try:
            conninfo()
        except psycopg.ProgrammingError as error:
            remedy = "correct its parameters, and percent-encode special characters of the password"
            raise ConfigurationError(f"DATABASE_URL is not understood by libpq: {remedy}") from error
        return cls(conninfo, connections=connections)

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[None]:
        """Around the use of the pool. Does not connect."""
        async with AsyncConnectionPool(
            self._conninfo,
            connection_class=psycopg.AsyncConnection[tuple[Any, ...]],
            kwargs={"autocommit": True, "prepare_threshold": None},
            min_size=0,
            max_size=self._connections,
            open=False,
            configure=_set_up,
            check=AsyncConnectionPool.check_connection,
            timeout=POOL_S,
            reconnect_timeout=POOL_S,
        ) as self._pool:
            yield

    @asynccontextmanager
    async def connection(self, *, writes: bool) -> AsyncIterator[Connection]:
        """A connection of the pool, in autocommit.

        ``writes``: when the connection is lost, it is unknown whether a statement was applied. Raises ``RemoteError``.
        """
        if self._pool is None:
            raise Unsent("the database is not open")
        with translated(writes=writes), _deadline(writes=writes):
            try:
                connection = await self._pool.getconn()
            except PoolTimeout:
                await (await self.connect()).close()  # says why there is none
                raise Unsent("all connections to PostgreSQL are in use") from None
            try:
                yield connection
            except asyncio.CancelledError:
                await connection.close()  # its statement may still run
                raise
            finally:
                await self._pool.putconn(connection)

    async def connect(self) -> Connection:
        """A connection of its own, in autocommit; the caller closes it. Raises ``RemoteError``."""
        with translated(connecting=True), _deadline():
            connection = await psycopg.AsyncConnection.connect(
                self._conninfo(), autocommit=True, prepare_threshold=None
            )
            try:
                await _set_up(connection)
            except BaseException:
                await connection.close()
                raise
        return connection


async def _set_up(connection: Connection) -> None:
    await connection.execute(_SET_UP, [text for setting in _SESSION.items() for text in setting])


@contextmanager
def _deadline(*, writes: bool = False) -> Iterator[None]:
    try:
        with Deadline(USE_S):
            yield
    except TimeoutError as error:
        raise (TimedOut if writes else Transient)("no answer of PostgreSQL in time") from error


@contextmanager
def translated(*, writes: bool = False, connecting: bool = False) -> Iterator[None]:
    """Around calls of psycopg: its errors become ``RemoteError``."""
    try:
        with lost_cancellation_raised():
            yield
    except psycopg.Error as error:
        raise (_not_connected(error) if connecting else _failed(error, writes=writes)) from error


def _not_connected(error: psycopg.Error) -> RemoteError:
    """For a connection that could not be made. The words after the last ``failed:`` are the server's or libpq's."""
    words = " ".join(str(error).rpartition("failed: ")[2].split("\n")[0].split()).removeprefix("FATAL: ").strip()
    kind = next((kind for word, kind in _REFUSED.items() if word in words), Unsent)
    return kind(f"PostgreSQL cannot be reached: {words}" if kind is Unsent else f"PostgreSQL refuses us: {words}")


def _failed(error: psycopg.Error, *, writes: bool) -> RemoteError:
    state = error.sqlstate or ""
    # The messages of class 42 are about names of the schema; others may contain values.
    words = f": {error.diag.message_primary}" if state.startswith("42") else ""
    text = f"PostgreSQL answers {state} ({type(error).__name__}){words}"
    if state == "42501":
        return Unauthorized(text)
    if state.startswith(("42", "3D", "3F", "0A")):
        return Misconfigured(text)
    if state.startswith(("22", "23", "44", "P0")):
        refused = DataRefused(text)
        refused.detail = f"constraint {name}" if (name := error.diag.constraint_name) else ""
        return refused
    if state and not state.startswith(("08", "57P")):
        return Transient(text)  # it was rolled back
    lost = "the connection to PostgreSQL was lost"
    return (Ambiguous if writes else Transient)(f"{lost} ({state})" if state else lost)
