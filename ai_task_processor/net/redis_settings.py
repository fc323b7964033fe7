"""The setting of a Redis server. Needs no driver."""

from collections.abc import Iterable, Iterator
from typing import Annotated, Final
from urllib.parse import SplitResult, unquote, urlsplit

from pydantic import BeforeValidator, SecretStr

from ai_task_processor.core import syntax
from ai_task_processor.core.groups import Group, insecure_allowed, setting

_EXAMPLE: Final = "redis://:password@redis.example.com:6379/0"


def _place(parts: SplitResult) -> str | None:
    """``redis://host:port``, without credentials; None for a Unix socket."""
    if parts.scheme == "unix":
        return None
    host = parts.hostname or "localhost"
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{parts.port or 6379}"


def _reach(parts: SplitResult) -> str | None:
    """The kind of network that unencrypted commands cross; None for TLS and on this machine."""
    place = _place(parts)
    return None if place is None else syntax.plain_http(place.replace("redis://", "http://", 1))


def _url(text: str) -> str:
    """A URL that redis-py understands."""
    try:
        parts = urlsplit(text)
        number = parts.path.strip("/")
        known = parts.scheme == "unix" or (not number or (number.isdigit() and len(number) < 6))
        if parts.scheme not in ("redis", "rediss", "unix") or not known or parts.query or parts.fragment:
            raise ValueError
        syntax.endpoint_url(f"http://{parts.netloc.rpartition('@')[2] or 'localhost'}")
    except ValueError:
        raise ValueError(f"must be a URL like {_EXAMPLE}, or rediss://… for TLS, percent-encoded") from None
    if _reach(parts) == "public" and not insecure_allowed():
        raise ValueError(
            "must use rediss, because redis shows credentials and data on the way; ALLOW_INSECURE_HTTP=true permits it"
        )
    return text


class RedisSettings(Group):
    """A Redis server."""

    section = "Task runner and S3"

    url: Annotated[SecretStr, BeforeValidator(_url)] = setting(
        "REDIS_URL",
        f"a URL like {_EXAMPLE}",
        ...,
        note="For the queues of the source task-runner; rediss:// for TLS.",
    )

    @property
    def _parts(self) -> SplitResult:
        return urlsplit(self.url.get_secret_value())

    @property
    def place(self) -> str | None:
        """``redis://host:port``, without credentials; None for a Unix socket."""
        return _place(self._parts)

    @property
    def credentials(self) -> tuple[str] | tuple[str, str] | None:
        """User and password, or the password alone; None when there is none."""
        user, password = unquote(self._parts.username or ""), unquote(self._parts.password or "")
        return (user, password) if user and password else (password,) if password else None

    @property
    def address(self) -> str:
        """The URL without credentials."""
        scheme, _, rest = self.url.get_secret_value().partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    def warnings(self) -> Iterator[str]:
        if reach := _reach(self._parts):
            yield f"REDIS_URL is not encrypted to a {reach} host: credentials and data can be read on the way"

    def secrets(self) -> Iterable[str]:
        """The password alone, too, percent-encoded and decoded."""
        password = self._parts.password or ""
        return [*super().secrets(), password, unquote(password)]
