"""Answers of remotes, and the error for each status that is not a success. Pure."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import Protocol
from urllib.parse import urljoin, urlsplit

from ai_task_processor.core.errors import Misconfigured, RemoteError, Throttled, Transient, Unauthorized

MAX_RETRY_AFTER_S = 900.0
_HOST = re.compile(r"[A-Za-z0-9._:-]{1,253}")
#: the settings that hold the URLs of services
_SETTINGS = {
    "the task API": "API_BASE_URL",
    "the token endpoint": "OAUTH2_TOKEN_URL",
    "the model API": "OPENAI_BASE_URL",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. ``headers`` have lower-case names; a compressed refusal has no ``content``."""

    status_code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    url: str = ""

    @property
    def is_success(self) -> bool:
        return 200 <= self.status_code < 300

    @property
    def is_server_error(self) -> bool:
        return 500 <= self.status_code < 600


class Head(Protocol):
    """The part of an answer that classifies a refusal; a streamed one has it, too."""

    @property
    def status_code(self) -> int: ...
    @property
    def headers(self) -> Mapping[str, str]: ...
    @property
    def url(self) -> str: ...


def status_error(answer: Head, service: str, *, setting: str = "") -> RemoteError:
    """The error for a refusing status, when the body does not say that it is about one task.

    ``setting``: the variable that holds the URL (known for the usual services).
    """
    status = answer.status_code
    text = f"{service} answered {status}"
    # A date in Retry-After is relative to the remote's clock: the local one may be wrong.
    now = _date(answer.headers.get("date", "")) or datetime.now(UTC)
    delay_s = retry_after_s(answer.headers.get("retry-after"), now)
    if status == HTTPStatus.TOO_MANY_REQUESTS or (status == HTTPStatus.SERVICE_UNAVAILABLE and delay_s is not None):
        return Throttled(text, status=status, retry_after_s=delay_s)
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in (HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_EARLY):
        return Transient(text, status=status)
    if status in (HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN):
        return Unauthorized(text, status=status)
    if 300 <= status < 400:
        location = answer.headers.get("location", "")
        where = _redirection(answer.url, location, setting or _SETTINGS.get(service, "its URL"))
        return Misconfigured(f"{text}, {where}", status=status)
    return Misconfigured(text, status=status)


def _redirection(asked: str, location: str, setting: str) -> str:
    """Where a redirect points, by scheme and host only, and what to change."""
    try:
        old = urlsplit(asked)
        new = urlsplit(urljoin(asked, location.strip()))
        host = new.hostname or ""
        place = f"{new.scheme}://{f'[{host}]' if ':' in host else host}" + (f":{new.port}" if new.port else "")
    except ValueError:
        return f"a redirect that cannot be read: correct {setting}"
    if not location.strip() or new.scheme not in ("http", "https") or not _HOST.fullmatch(host):
        return f"a redirect to nowhere: correct {setting}"
    if host != old.hostname:
        return f"a redirect to {place}: correct {setting}"
    if new.scheme == "https" and old.scheme != "https":
        return f"a redirect to {place}: use https in {setting}"
    return f"a redirect to another path or port of {place}: correct {setting}"


def retry_after_s(value: str | None, now: datetime) -> float | None:
    """Seconds in a Retry-After header (RFC 9110 §10.2.3: seconds or a date), at most 900; None for anything else."""
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        when = _date(value)
        if when is None:
            return None
        seconds = max((when - now).total_seconds(), 0.0)
    return min(seconds, MAX_RETRY_AFTER_S) if 0.0 <= seconds < float("inf") else None


def _date(text: str) -> datetime | None:
    try:
        when = parsedate_to_datetime(text)
        return when.astimezone(UTC) if when.tzinfo else when.replace(tzinfo=UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
