"""``FetchProcessor``: the text of a page.

A page that is gone, or whose server fails three times, ends its task ``failed``. Where the network of this machine may
be at fault the task waits, until another page was reached since its first failure.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Mapping
from http import HTTPStatus
from math import inf
from typing import TYPE_CHECKING, ClassVar
from urllib.parse import urljoin, urlsplit

from pydantic import BaseModel, ConfigDict, StrictBool, StrictStr

from ai_task_processor.core.checks import aside
from ai_task_processor.core.deadline import Deadline
from ai_task_processor.core.errors import CircuitOpen, RemoteError, TaskError, TimedOut, Unsent
from ai_task_processor.models.task import Task, TaskResult, TaskType
from ai_task_processor.net.answers import status_error
from ai_task_processor.processors.base import BaseProcessor
from ai_task_processor.processors.context import ProcessorContext
from ai_task_processor.processors.fetch.settings import FetchSettings
from ai_task_processor.processors.limits import LimitSettings, checked, parsed, rejected, runtime, too_large

if TYPE_CHECKING:
    from ai_task_processor.net.pages import PageAnswer, PageClient
    from ai_task_processor.net.resilience import Gate

FETCH_URL, SERVICE = TaskType.FETCH_URL.value, "fetch"
#: seconds for one page, redirects included, and how many of those
TIMEOUT_S, MAX_REDIRECTS = 20.0, 10
#: share of the task's own time, where that is shorter: then it is the page that was slow, and not the task
WAIT_SHARE = 0.9
#: attempts at a page whose server fails
MAX_ATTEMPTS = 3
#: tasks whose failures are remembered
MAX_FAILING = 10_000
#: larger pages are read one at a time
LARGE_BYTES = 2**19
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: statuses with which a page may come back soon
_PASSING = frozenset({408, 425, 429})
_HTML, _PLAIN = frozenset({"", "text/html", "application/xhtml+xml"}), "text/plain"


class FetchParams(BaseModel):
    """``content`` of the task. The text is always that of a reader's view; ``reader_mode`` changes nothing."""

    model_config = ConfigDict(frozen=True, hide_input_in_errors=True)

    url: StrictStr
    reader_mode: StrictBool = True
    store_raw_html: StrictBool = False


class FetchProcessor(BaseProcessor):
    """Takes ``fetch_url``. It opens connections to hosts that a task names, so it is off until an operator names it."""

    task_types = frozenset({FETCH_URL})
    services = (SERVICE,)
    settings_groups: ClassVar = (FetchSettings, LimitSettings)

    def __init__(self) -> None:
        self._client: PageClient | None = None
        self._gate: Gate | None = None
        self._reading = asyncio.Lock()
        #: by task: how many, and when the first was
        self._failures: OrderedDict[str, tuple[int, float]] = OrderedDict()
        self._answered_at = -inf

    def equip(self, context: ProcessorContext) -> None:
        super().equip(context)
        if context.services is not None:
            self._gate = context.services.gate(SERVICE)

    async def aclose(self) -> None:
        if self._client is not None:
            await self._client.aclose()

    def can_process(self, task: Task) -> bool:
        return task.type in self.task_types

    def hold_s(self) -> float:
        return inf if self._gate is None else self._gate.wait_s()

    async def process(self, task: Task) -> TaskResult:
        limits, params = self.context.settings[LimitSettings], parsed(FetchParams, task.content)
        async with runtime(limits, self.context.wait_s, "the page"):
            page = await self._page(task, params.url)
            return await self._result(page, params, limits)

    # --- the page

    async def _page(self, task: Task, url: str) -> "PageAnswer":
        """The page at the end of the redirects, with status 200. Raises ``TaskError``, ``RemoteError``."""
        from ai_task_processor.net.pages import PageTooLarge, PrivateAddress

        timeout_s = min(TIMEOUT_S, WAIT_SHARE * self.context.wait_s)
        try:
            try:
                with Deadline(timeout_s):
                    page = await self._followed(self._allowed(url))
            except TimeoutError as error:
                raise TimedOut(f"no answer within {timeout_s:g} s") from error
        except PrivateAddress:
            raise rejected(
                "fetch_domain_not_allowed", "the address is private, and FETCH_DOMAIN_ALLOWLIST does not name its host"
            ) from None
        except PageTooLarge:
            raise too_large(self.context.settings[LimitSettings]) from None
        except RemoteError as error:
            if self._is_final(task, error):
                raise TaskError("fetch_failed", str(error)) from error
            raise
        self._failures.pop(task.id, None)
        return page

    async def _followed(self, url: str) -> "PageAnswer":
        for _ in range(MAX_REDIRECTS + 1):
            page = await self._asked(url)
            if page.status_code not in _REDIRECTS or not page.headers.get("Location"):
                if page.status_code != HTTPStatus.OK:
                    raise status_error(page, "the page")
                return page
            url = self._allowed(urljoin(url, page.headers["Location"]))
        raise TaskError("fetch_failed", "too many redirects")

    async def _asked(self, url: str) -> "PageAnswer":
        """One request. The circuit opens when nothing can be reached; a host that refuses is no evidence for that."""
        from ai_task_processor.net.pages import PageClient

        if self._client is None:
            settings = self.context.settings
            slots, max_bytes = settings.worker.concurrency_limit, settings[LimitSettings].max_bytes
            self._client = PageClient(settings.network, connections=slots, max_bytes=max_bytes)
        named = self.context.settings[FetchSettings].names(urlsplit(url).hostname or "")
        gate = self._gate
        assert gate is not None  # noqa: S101 - can_process has checked
        entry = gate.enter()
        try:
            page = await self._client.get(url, named=named)
        except Unsent as error:
            gate.failed(entry, error)
            raise
        finally:
            gate.leave(entry)
        gate.answered(entry)
        self._answered_at = self.context.clock.monotonic()
        return page

    def _allowed(self, text: str) -> str:
        """The URL to request. Raises ``TaskError`` when it must not be requested."""
        from ai_task_processor.processors.fetch.urls import page_url

        try:
            url = page_url(text)
        except ValueError:
            raise rejected("invalid_url", "it must be http or https, without credentials") from None
        if not self.context.settings[FetchSettings].allows(urlsplit(url).hostname or ""):
            raise rejected("fetch_domain_not_allowed", "FETCH_DOMAIN_ALLOWLIST does not name the host")
        return url

    def _is_final(self, task: Task, error: RemoteError) -> bool:
        """Whether the failure is the page's own, for good."""
        from ai_task_processor.net.pages import NoSuchHost

        status, now = error.status or 0, self.context.clock.monotonic()
        if isinstance(error, CircuitOpen):
            return False
        if isinstance(error, NoSuchHost) or (status and status < 500 and status not in _PASSING):
            return True
        earlier, first_at = self._failures.pop(task.id, (0, now))
        last = earlier + 1 >= min(MAX_ATTEMPTS, task.attempt_limit or MAX_ATTEMPTS)
        if last and (not isinstance(error, Unsent) or self._answered_at > first_at):
            return True
        self._failures[task.id] = earlier + 1, first_at
        if len(self._failures) > MAX_FAILING:
            self._failures.popitem(last=False)
        return False

    # --- its text

    async def _result(self, page: "PageAnswer", params: FetchParams, limits: LimitSettings) -> TaskResult:
        """Raises ``TaskError`` (``no_extractable_text``, ``artifact_size_exceeded``)."""
        from ai_task_processor.processors.fetch.text import PageText, decoded, extract, tidied
        from ai_task_processor.processors.fetch.urls import canonical

        full_type = page.headers.get("Content-Type", "")
        kind = full_type.partition(";")[0].strip().lower()

        def read() -> tuple[str, PageText]:
            html = decoded(page.body, full_type)
            return html, PageText(text=tidied(html)) if kind == _PLAIN else extract(html)

        if kind not in _HTML and kind != _PLAIN:
            raise TaskError("no_extractable_text", "the page is neither HTML nor plain text")
        if len(page.body) > LARGE_BYTES:
            async with self._reading:
                html, found = await aside(read)
        else:
            html, found = await aside(read)
        if not found.text:
            raise TaskError("no_extractable_text", "the page has no text")
        head = f"Title: {found.title}\nAuthor: {found.author}\nPublished: {found.published}\nURL: {canonical(page.url)}"
        output: Mapping[str, object] = {
            "text": f"{head}\n\n{found.text}",
            "summary": f"Fetched and extracted content from {urlsplit(page.url).hostname}",
            **({"html": html} if params.store_raw_html else {}),
        }
        return checked(limits, output)
