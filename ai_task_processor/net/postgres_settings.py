"""The setting of a PostgreSQL database, and what it means to libpq. Needs no driver."""

from collections.abc import Iterable, Mapping
from typing import Annotated, Final
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from pydantic import BeforeValidator, SecretStr

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import Group, setting
from ai_task_processor.core.settings import NetworkSettings

#: SQLAlchemy's names of drivers are understood, because the API beside often has its URL in that form
SCHEMES: Final = frozenset(
    {"postgresql", "postgres", "postgresql+asyncpg", "postgresql+psycopg2", "postgresql+psycopg"}
)
#: parameters of asyncpg's dialect that libpq does not know; its ``ssl`` is libpq's ``sslmode``
_ASYNCPG: Final = frozenset({"prepared_statement_cache_size", "prepared_statement_name_func", "async_fallback"})
_EXAMPLE: Final = "postgresql://user:password@db.example.com:5432/name"


def _first_host(parts: SplitResult) -> SplitResult:
    """The first host of a URL, which may have several."""
    return urlsplit("//" + parts.netloc.rpartition("@")[2].partition(",")[0])


def _dsn(text: str) -> str:
    """A URL that libpq understands."""
    scheme, _, rest = text.partition("://")
    if scheme not in SCHEMES or not rest:
        raise ValueError(f"must be a URL like {_EXAMPLE}")
    try:
        parts = urlsplit(f"postgresql://{rest}")
        _ = _first_host(parts).port
        query = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
    except ValueError:
        raise ValueError(f"must be a URL like {_EXAMPLE}, with %40 for an @ in the password") from None
    if scheme == "postgresql+asyncpg":
        query = [("sslmode" if name == "ssl" else name, value) for name, value in query if name not in _ASYNCPG]
    words = urlencode(query, safe="/", quote_via=quote)
    return f"postgresql://{parts.netloc}{parts.path}{'?' if words else ''}{words}"


class DatabaseSettings(Group):
    """A PostgreSQL database."""

    section = "PostgreSQL"

    url: Annotated[SecretStr, BeforeValidator(_dsn)] = setting(
        "DATABASE_URL",
        f"a URL like {_EXAMPLE}",
        ...,
        note="For the source task-conversations, and other tables.",
    )

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url.get_secret_value())

    @property
    def _query(self) -> Mapping[str, str]:
        return dict(parse_qsl(self._parts.query))

    @property
    def place(self) -> str | None:
        """``postgresql://host:port``, without credentials; None for a Unix socket."""
        first, query = _first_host(self._parts), self._query
        host = first.hostname or query.get("host", "").partition(",")[0]
        if not host or host.startswith("/"):
            return None
        return f"postgresql://{f'[{host}]' if ':' in host else host}:{first.port or query.get('port', 5432)}"

    @property
    def reach(self) -> str | None:
        """The kind of network to the server: ``private``, ``public``; None on this machine."""
        return None if self.place is None else syntax.plain_http(self.place.replace("postgresql", "http", 1))

    def tls(self, network: NetworkSettings) -> Mapping[str, str]:
        """The parameters of TLS, 1.2 at least. libpq reads the files again for each connection.

        The URL's own come first. Without them the server is verified on public hosts, and on private ones when
        ``CA_BUNDLE`` is set; otherwise TLS is used if the server offers it, without verification.
        """
        given, bundle, key = self._query, network.ca_bundle, network.client_key_file or network.client_cert_file
        verified = self.reach == "public" or (self.reach == "private" and bundle is not None)
        mode = given.get("sslmode") or ("verify-full" if verified else "prefer")
        password = network.client_key_password
        wanted = {
            "sslmode": mode,
            # Where it is set, libpq verifies, whatever the mode.
            "sslrootcert": str(bundle or "system") if mode.startswith("verify-") else None,
            "sslcert": network.client_cert_file and str(network.client_cert_file),
            "sslkey": key and str(key),
            "sslpassword": password.get_secret_value() if password else None,
        }
        return {name: value for name, value in wanted.items() if value and name not in given}

    def unverified(self, network: NetworkSettings) -> str | None:
        """A line about a server whose identity is not verified, with the remedy; None when there is no such risk."""
        if self.reach is None or {**self._query, **self.tls(network)}["sslmode"].startswith("verify-"):
            return None
        remedy = "sslmode=verify-full in the URL" if "sslmode" in self._query else "CA_BUNDLE"
        return f"DATABASE_URL leads to a {self.reach} host whose identity is not verified: set {remedy}"

    def secrets(self) -> Iterable[str]:
        """The password alone, too, percent-encoded and decoded."""
        passwords = {self._parts.password or "", self._query.get("password", "")}
        return [*super().secrets(), *passwords, *map(unquote, passwords)]
