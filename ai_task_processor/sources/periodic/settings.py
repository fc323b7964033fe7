"""The settings of periodic sources."""

from typing import Annotated

from pydantic import SecretStr

from ai_task_processor.core.groups import Group, Printable, Seconds, Url, setting


class PeriodicSettings(Group):
    """The API with the list. The secret is what the headers of a profile take as ``{secret}``."""

    section = "Task API"

    base_url: Url = setting(
        "API_BASE_URL",
        "the base URL of the task API",
        ...,
        example="https://api.example.com",
    )
    request_timeout_s: Seconds = setting("REQUEST_TIMEOUT", "seconds for one request to the task API, in total", "30")
    secret: Annotated[SecretStr, Printable] | None = setting(
        "API_SECRET",
        "the secret that the task API takes in a header",
        note="For example x-internal-secret of due-soon.",
    )
