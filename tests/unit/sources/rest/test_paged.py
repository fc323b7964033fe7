"""Lists in pages, lists inside objects, and lists that begin with the newest: nothing is missed or read for nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx2
import pytest

from ai_task_processor.core.errors import InvalidAnswer, Misconfigured, RemoteError
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.sources.rest import listing
from ai_task_processor.sources.rest.listing import PendingList
from ai_task_processor.sources.rest.paged import PagedList
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.settings import ApiSettings
from tests.mock_http import mock_client

URL = "http://upstream/base"


class Admits:
    """All but some ids."""

    def __init__(self, *refused: str) -> None:
        self.refused = refused

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {task_id: "running" for task_id in task_ids if task_id in self.refused}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return ["unknown_type" if task.id in self.refused else None for task in tasks]


class Upstream:
    """``total`` tasks, in pages of at most ``most``, as ``page`` says."""

    def __init__(self, total: int, page: Callable[["Upstream", Mapping[str, str]], httpx2.Response], most: int = 100):
        self.ids = [str(number) for number in range(total)]
        self.most = most
        self.asked: list[dict[str, str]] = []
        self._page = page

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        assert request.url.path == "/base/jobs"
        self.asked.append(dict(request.url.params))
        return self._page(self, self.asked[-1])

    def slice(self, start: int, size: int) -> list[dict[str, str]]:
        return [{"id": id_} for id_ in self.ids[start : start + min(size, self.most)]]


def whole(upstream: Upstream, _: Mapping[str, str]) -> httpx2.Response:
    return httpx2.Response(200, json={"data": upstream.slice(0, 10**6)})


def limited(upstream: Upstream, asked: Mapping[str, str]) -> httpx2.Response:
    return httpx2.Response(200, json={"data": upstream.slice(0, int(asked["n"]))})


def numbered(upstream: Upstream, asked: Mapping[str, str]) -> httpx2.Response:
    size = int(asked["n"])
    return httpx2.Response(
        200, json={"data": upstream.slice((int(asked["page"]) - 1) * min(size, upstream.most), size)}
    )


def offset(upstream: Upstream, asked: Mapping[str, str]) -> httpx2.Response:
    return httpx2.Response(200, json={"data": upstream.slice(int(asked["offset"]), int(asked["n"]))})


def cursor(upstream: Upstream, asked: Mapping[str, str]) -> httpx2.Response:
    start = int(asked.get("cursor", "0"))
    following = start + 2 if start + 2 < len(upstream.ids) else None
    return httpx2.Response(200, json={"data": upstream.slice(start, 2), "next": following})


def linked(upstream: Upstream, asked: Mapping[str, str]) -> httpx2.Response:
    start = int(asked.get("from", "0"))
    more = start + 2 < len(upstream.ids)
    link = f'<{URL}/jobs?x=1>; rel="prev", </base/jobs?from={start + 2}>; title="a, b"; rel="next"' if more else ""
    return httpx2.Response(200, json={"data": upstream.slice(start, 2)}, headers={"Link": link})


def profile(**part: Any) -> RestProfile:
    return RestProfile.model_validate({
        "kind": "rest", "types": ["echo"], "fields": {"id": "/id"},
        "states": {"pending": "p", "succeeded": "s", "failed": "f"},
        "list": {"path": "/jobs", "items": "/data", "limit": "n", "page_size": 2, **part},
        "report": {"path": "/jobs/{id}", "succeeded": {"r": "{result}"}, "failed": {"e": "{error}"}},
    })  # fmt: skip


def pending(upstream: Any, *refused: str, kind: type[PendingList] = PagedList, **part: Any) -> PendingList:
    client = mock_client(upstream, URL, max_answer_bytes=None)
    settings: Any = {"API_BASE_URL": URL}
    return kind(ApiSettings(**settings), profile(**part), client, Admits(*refused))


WAYS = [
    (whole, {"paging": "none", "query": {"state": "open", "mine": True}}),
    (limited, {"paging": "limit"}),
    (numbered, {"paging": "page"}),
    (offset, {"paging": "offset"}),
    (cursor, {"paging": "cursor", "next": "/next"}),
    (linked, {"paging": "link"}),
]


@pytest.mark.parametrize(("way", "part"), WAYS)
@pytest.mark.parametrize("total", [0, 1, 2, 5, 6])
async def test_all_pages_are_read(way: Any, part: dict[str, Any], total: int) -> None:
    """Those that must not start are skipped, and the list is known to be complete."""
    upstream = Upstream(total, way)
    listed = pending(upstream, "0", "2", **part)
    page = await listed.read(10)
    assert list(page.tasks) == [id_ for id_ in upstream.ids if id_ not in ("0", "2")]
    assert (page.complete, page.seen) == (True, total)


@pytest.mark.parametrize(("way", "part"), WAYS)
async def test_no_more_pages_than_needed(way: Any, part: dict[str, Any]) -> None:
    upstream = Upstream(50, way)
    page = await pending(upstream, **part).read(3)
    assert (list(page.tasks), page.complete) == (["0", "1", "2"], False)
    assert len(upstream.asked) <= 2
    await pending(Upstream(50, way), **part).answers()


async def test_a_limit_grows_past_those_that_must_not_start() -> None:
    upstream = Upstream(20, limited)
    listed = pending(upstream, *map(str, range(10)), paging="limit")
    assert list((await listed.read(2)).tasks) == ["10", "11"]
    assert [asked["n"] for asked in upstream.asked] == ["2", "4", "8", "16"]
    assert list((await listed.read(2)).tasks) == ["10", "11"]
    assert upstream.asked[-1]["n"] == "12", "what was in the way is asked for at once"


@pytest.mark.parametrize("way", ["page", "offset"])
async def test_an_api_that_gives_smaller_pages(way: str) -> None:
    """Two were asked for, and one comes on each page: all pages are read."""
    upstream = Upstream(4, numbered if way == "page" else offset, most=1)
    assert list((await pending(upstream, paging=way).read(10)).tasks) == ["0", "1", "2", "3"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (httpx2.Response(200, text="<html>"), InvalidAnswer, "not valid JSON"),
        (httpx2.Response(200, json={"jobs": []}), InvalidAnswer, "no array at /data"),
        (httpx2.Response(200, json={"data": [], "next": ""}), None, ""),
        (httpx2.Response(204), None, ""),
        (httpx2.Response(500), RemoteError, "500"),
    ],
)
async def test_an_answer_that_is_no_list(answer: httpx2.Response, error: type[Exception] | None, words: str) -> None:
    listed = pending(lambda _: answer, paging="cursor", next="/next")
    if error is None:
        assert (await listed.read(1)).complete
    else:
        with pytest.raises(error, match=words):
            await listed.read(1)


async def test_pages_that_do_not_end() -> None:
    """The same cursor again, and a link to somebody else's server, to which no credentials go."""
    same = pending(lambda _: httpx2.Response(200, json={"data": [], "next": "x"}), paging="cursor", next="/next")
    with pytest.raises(InvalidAnswer, match="same page"):
        await same.read(1)
    link = {"Link": '<https://evil.test/jobs>; rel="next"'}
    with pytest.raises(Misconfigured, match="another server"):
        await pending(lambda _: httpx2.Response(200, json={"data": []}, headers=link), paging="link").read(1)


async def test_a_record_that_is_no_task_is_counted() -> None:
    answer = httpx2.Response(200, json={"data": [{"id": "../x"}, 5, {"id": "a"}]})
    page = await pending(lambda _: answer, paging="none").read(5)
    assert (list(page.tasks), page.skipped["invalid"]) == (["a"], 2)


async def test_the_oldest_of_a_list_that_begins_with_the_newest(monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit grows until the list is whole, and stays so: the oldest go first."""
    monkeypatch.setattr(listing, "NEWEST", 4)
    asked = []

    def newest_first(request: httpx2.Request) -> httpx2.Response:
        asked.append(int(request.url.params["n"]))
        return httpx2.Response(200, json=[{"id": str(number)} for number in reversed(range(10))][: asked[-1]])

    part = {"items": "", "paging": "limit", "order": "newest_first"}
    listed = pending(newest_first, "1", kind=PendingList, **part)
    assert list((await listed.read(3)).tasks) == ["0", "2", "3"]
    assert asked == [4, 16]
    assert list((await listed.read(20)).tasks) == ["0", *map(str, range(2, 10))]
    assert asked[2:] == [20 + 1] or asked[2:] == [20]
