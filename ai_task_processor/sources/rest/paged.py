"""Reads a list whose answers are objects, or that comes in pages: page by page, until there are enough tasks."""

import re
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any
from urllib.parse import urlencode, urljoin

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer
from ai_task_processor.core.pointer import keys, resolve
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import deadline
from ai_task_processor.sources.rest.listing import PendingList, parameters
from ai_task_processor.sources.rest.page import Page

#: a list with more pages is not read to its end
MOST_PAGES = 10_000
#: the rel=next of a Link header (RFC 8288 §3)
_NEXT_LINK = re.compile(r"<([^<>]*)>[^<]*;\s*rel\s*=\s*\"?(?:[^\";,]*\s)?next(?:[\s\";,]|$)", re.IGNORECASE)


class PagedList(PendingList):
    """``PendingList`` for such lists. It has no candidates: each page is one bounded answer."""

    async def read(self, free: int) -> Page:
        """At most ``free`` tasks that may start now. Raises ``RemoteError``."""
        page, limit = Page(), free + await self._in_the_way()
        async with deadline(self._settings.request_timeout_s):
            while True:
                page = Page(bytes_read=page.bytes_read, listed=page.listed)
                async with aclosing(self._pages(limit, page)) as pages:
                    async for raws in pages:
                        for inspected in await self._inspector.of_objects(raws):
                            if len(page.tasks) < free:
                                self._filling.consider(inspected, page, page)
                        if len(page.tasks) == free:
                            break
                    else:
                        page.complete = self._part.paging != "limit" or page.seen < limit
                if page.tasks or page.complete:
                    break
                limit *= 2
        if page.complete:
            self._filling.oddities.whole(page)
        if self._metrics is not None:
            self._metrics.records_listed(page.listed)
        self.last_page = page
        return page

    async def answers(self) -> None:
        """Check that the list can be read: its first page. Raises ``RemoteError``."""
        async with deadline(self._settings.request_timeout_s), aclosing(self._pages(1, Page())) as pages:
            await anext(pages)

    async def _pages(self, limit: int, page: Page) -> AsyncGenerator[Sequence[Any], None]:
        """The records of one page after another."""
        part, first = self._part, 0
        size = limit if part.paging == "limit" else part.page_size
        asked: dict[str, str | int] = {} if part.limit is None else {part.limit: size}
        place = {"page": part.first_page, "offset": 0}.get(part.paging, 0)
        url = self._url(asked, **{getattr(part, part.paging): place} if part.paging in ("page", "offset") else {})
        for _ in range(MOST_PAGES):
            answer = await self._get(url)
            document, raws = self._read(answer)
            page.bytes_read += len(answer.content)
            page.listed += len(raws)
            yield raws
            first = first or len(raws)
            match part.paging:
                case "page" | "offset":
                    # An API may give fewer than were asked for, but then on every page.
                    if len(raws) < max(first, 1):
                        return
                    place += 1 if part.paging == "page" else len(raws)
                    following = self._url(asked, **{getattr(part, part.paging): place})
                case "cursor":
                    cursor = resolve(document, keys(part.next))
                    if cursor in (None, "", False):
                        return
                    following = self._url(asked, **{part.cursor: cursor})
                case "link":
                    found = _NEXT_LINK.search(answer.headers.get("Link", ""))
                    if found is None:
                        return
                    following = urljoin(url, found[1])
                case _:
                    return
            if following == url:
                raise InvalidAnswer("the list names the same page as the next one")
            url = following

    def _url(self, asked: dict[str, str | int], **place: str | int) -> str:
        query = urlencode(parameters(self._part.query, {**asked, **place}))
        return self._settings.base_url + self._part.path + ("?" + query if query else "")

    async def _get(self, url: str) -> Answer:
        started_at, status = time.perf_counter(), None
        try:
            answer = await self._client.exchange("GET", url, timeout_s=self._settings.request_timeout_s)
            status = answer.status_code
        finally:
            if self._metrics is not None:
                took_s = time.perf_counter() - started_at
                self._metrics.api_request(endpoint=self._part.path, method="GET", status_code=status, duration_s=took_s)
        if not answer.is_success:
            raise status_error(answer, "the task API")
        return answer

    def _read(self, answer: Answer) -> tuple[object, Sequence[Any]]:
        """The document of an answer, and its array of records."""
        if not answer.content.strip():
            return None, ()
        try:
            document = codec.loads(answer.content)
        except ValueError as error:
            raise InvalidAnswer("the list is not valid JSON") from error
        raws = resolve(document, keys(self._part.items))
        if not isinstance(raws, list):
            raise InvalidAnswer(f"the list has no array at {self._part.items or 'its root'}")
        return document, raws
