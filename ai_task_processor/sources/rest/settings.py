"""The settings of sources of the kind ``rest``."""

import re
from typing import Annotated

from pydantic import BeforeValidator, SecretStr

from ai_task_processor.core.groups import Bytes, Group, Printable, Seconds, Url, setting


def _pattern(text: str) -> re.Pattern[str]:
    """pydantic's own validator of patterns does not catch ``OverflowError``."""
    try:
        return re.compile(text)
    except (re.error, OverflowError, RecursionError):
        raise ValueError("must be a regular expression in Python's syntax") from None


class ApiSettings(Group):
    """The task API."""

    section = "Task API"

    base_url: Url = setting(
        "API_BASE_URL",
        "the base URL of the task API",
        ...,
        example="https://api.example.com",
    )
    request_timeout_s: Seconds = setting("REQUEST_TIMEOUT", "seconds for one request to the task API, in total", "30")
    task_id_pattern: Annotated[re.Pattern[str], BeforeValidator(_pattern)] = setting(
        "TASK_ID_PATTERN",
        "the regular expression that a whole task id must match",
        "^[A-Za-z0-9][A-Za-z0-9._~-]{0,127}$",
    )
    mark_in_progress: bool = setting(
        "MARK_IN_PROGRESS",
        "true to set tasks to in_progress while they are worked on",
        "false",
        note="A PATCH more for each; it is no claim.",
    )
    read_ahead_bytes: Bytes = setting(
        "READ_AHEAD_BYTES",
        "the memory for tasks of one list that wait for free slots; bytes, or like 16MiB; 0 to list again for each",
        "4MiB",
        ge=0,
        le=2**40,
        note="For an API that lists more than was asked for.",
    )
    read_ahead_s: float = setting(
        "READ_AHEAD_SECONDS",
        "for how many seconds one list may serve free slots; 0 to list again for each",
        "30",
        ge=0,
        le=86400,
    )


class SecretSettings(Group):
    """What a header of the profile takes as ``{secret}``."""

    section = "Task API"

    secret: Annotated[SecretStr, Printable] = setting(
        "API_SECRET",
        "the secret that the task API wants in a header, or API_SECRET_FILE to a file that holds it",
        ...,
        note="For example x-internal-secret of due-soon.",
    )
