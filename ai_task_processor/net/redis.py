"""Redis through redis-py: a client, and errors in our classes. The URL and values never become part of a message."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from ai_task_processor.core.deadline import Deadline, lost_cancellation_raised
from ai_task_processor.core.errors import (
    ConfigurationError,
    Misconfigured,
    RemoteError,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.settings import NetworkSettings
from ai_task_processor.net.redis_settings import RedisSettings

try:
    from redis import asyncio as library
    from redis import exceptions
    from redis.asyncio.retry import Retry
    from redis.backoff import NoBackoff
    from redis.credentials import CredentialProvider
except ImportError as missing:
    _remedy = "pip install 'ai-task-processor[redis]'"
    raise ConfigurationError(f"REDIS_URL needs a library that is not installed: {_remedy}") from missing

Client = library.Redis

#: seconds to connect, for a few commands, and the longest that a command may wait for an element
CONNECT_S, COMMAND_S, BLOCK_S = 5.0, 10.0, 5.0
_DENIED: Final = (exceptions.AuthenticationError, exceptions.NoPermissionError)


class _Credentials(CredentialProvider):
    """Those that were read last, for each connection."""

    def __init__(self, current: Callable[[], RedisSettings]) -> None:
        self._current = current

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        return self._current().credentials or ("",)


def connect(current: Callable[[], RedisSettings], network: NetworkSettings) -> Client:
    """A client with a pool of its own, which the caller closes. It connects when it is first used.

    ``current`` returns the settings as they were read last.
    """
    url = current().address
    more: dict[str, Any] = {"credential_provider": _Credentials(current)} if current().credentials else {}
    if url.startswith("rediss://"):
        more |= {"ssl_check_hostname": True, "ssl_ca_certs": network.ca_bundle and str(network.ca_bundle)}
        if network.client_cert_file is not None:
            more["ssl_certfile"] = str(network.client_cert_file)
            more["ssl_keyfile"] = str(network.client_key_file or network.client_cert_file)
        if network.client_key_password is not None:
            more["ssl_password"] = network.client_key_password.get_secret_value()
    client: Client = library.Redis.from_url(
        url,
        decode_responses=True,
        protocol=2,
        socket_connect_timeout=CONNECT_S,
        # No socket_timeout: with it, cancellations are lost in asyncio.wait_for before Python 3.12.
        retry=Retry(NoBackoff(), 0),
        **more,
    )
    return client


@contextmanager
def translated() -> Iterator[None]:
    """Around commands: the library's errors become ``RemoteError``, also when there is no answer in time."""
    try:
        with lost_cancellation_raised(), Deadline(COMMAND_S):
            yield
    except _DENIED as error:
        raise Unauthorized("Redis refuses us: correct user and password in REDIS_URL") from error
    except (exceptions.TimeoutError, TimeoutError) as error:
        raise Transient("no answer of Redis in time") from error
    except (exceptions.ConnectionError, OSError) as error:
        raise Unsent(f"Redis cannot be reached ({type(error.__cause__ or error).__name__})") from error
    except exceptions.ResponseError as error:
        word = str(error).split(" ", 1)[0]
        raise _answered(word) from error
    except exceptions.RedisError as error:
        raise Transient(f"Redis fails ({type(error).__name__})") from error


def _answered(word: str) -> RemoteError:
    """The error for an error code of Redis, the first word of its message."""
    if word in ("NOAUTH", "WRONGPASS", "NOPERM"):
        return Unauthorized(f"Redis refuses us ({word}): correct user and password in REDIS_URL")
    if word == "WRONGTYPE":
        return Misconfigured("a key of the queue in Redis is of another type: correct the names in the profile")
    return Transient(f"Redis answers {word if word.isupper() and word.isalpha() else 'an error'}")


async def asked(client: Client, *words: str | int) -> Any:
    """The answer to a command. Inside ``translated``."""
    return await client.execute_command(*words)  # type: ignore[no-untyped-call]  # the library's own
