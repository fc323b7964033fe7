"""The pending list, fuzzed: any bytes in any chunks are tasks, junk or a named error, and never more than that."""

import asyncio
import json
import re
from collections.abc import AsyncIterator, Mapping, Sequence
from datetime import UTC

import httpx2
import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ai_task_processor.core import codec
from ai_task_processor.core.errors import InvalidAnswer, RemoteError
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.models.task import Task
from ai_task_processor.sources.rest.framing import ArrayFramer, RecordTooLarge
from ai_task_processor.sources.rest.listing import PendingList
from ai_task_processor.sources.rest.page import Page
from ai_task_processor.sources.rest.settings import ApiSettings
from ai_task_processor.sources.rest.wire import Invalid
from tests.mock_http import mock_client
from tests.nest import PROFILE, parse_record

LIMIT = 64
API = ApiSettings(API_BASE_URL="https://api.test", REQUEST_TIMEOUT="5")  # type: ignore[call-arg]  # by the environment's names
PATTERN = API.task_id_pattern

#: pieces that matter to somebody who follows brackets and strings
PIECES = [
    b"[", b"]", b"{", b"}", b'"', b"\\", b",", b":", b" ", b"\n", b"1", b"x", b"\x00", b"\xff", b"\xef\xbb\xbf",
    b"null", b'{"a":1}', b'"]"', b'"\\""', b'"\\\\"', b'{"a":[{"b":{}}]}', b"[[[[]]]]", b'"\xc3\xa9"',
    b"x" * 70, b'"' + b"y" * 70,
]  # fmt: skip
HOSTILE = st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join)
ANY_BYTES = st.binary(max_size=200) | HOSTILE | HOSTILE.map(b"[%b]".__mod__)
CUTS = st.lists(st.integers(0, 40), max_size=40)
Framed = tuple[list[tuple[type, bytes]], str | None]


class RunningX:
    """An admission to which every task of the type ``x`` runs."""

    async def busy(self, task_ids: Sequence[str]) -> Mapping[str, SkipReason]:
        return {}

    async def refuse(self, tasks: Sequence[Task]) -> Sequence[SkipReason | None]:
        return ["running" if task.type == "x" else None for task in tasks]


def chunked(data: bytes, sizes: Sequence[int]) -> list[bytes]:
    """The same bytes in pieces of these sizes, and the rest at once."""
    chunks = []
    for size in sizes:
        chunks.append(data[:size])
        data = data[size:]
    return [*chunks, data]


def framed(chunks: Sequence[bytes], limit: int = LIMIT) -> Framed:
    """The records, and what was complained about. Any other exception is a failure of the test."""
    framer, records = ArrayFramer(limit), []
    try:
        for chunk in chunks:
            for record in framer.feed(chunk):
                records.append((type(record), bytes(record)))
                assert len(record) <= limit
            assert len(framer._record) <= limit  # what it holds on to between two chunks
        framer.finish()
    except InvalidAnswer as error:
        return records, str(error)
    return records, None


@given(data=ANY_BYTES, sizes=CUTS)
@example(data=b"[{]}", sizes=[2])
@example(data=b" \xef\xbb\xbf[1]", sizes=[1])
@example(data=b"\xef\xbb\xbf \xef\xbb\xbf[1]", sizes=[4])
def test_the_chunks_change_nothing(data: bytes, sizes: list[int]) -> None:
    """Valid or not, a list has the same records and the same complaint however it is cut, in bounded memory."""
    assert framed(chunked(data, sizes)) == framed([data]) == framed([data[n : n + 1] for n in range(len(data))])


@given(data=ANY_BYTES, length=st.integers(0, 200))
def test_a_cut_list_is_a_shorter_list(data: bytes, length: int) -> None:
    """What was framed before the bytes ended is what the whole list begins with."""
    whole, cut = framed([data])[0], framed([data[:length]])[0]
    assert whole[: len(cut)] == cut


@given(st.lists(st.text(max_size=20) | st.integers() | st.lists(st.text(max_size=3), max_size=30), max_size=8), CUTS)
def test_a_large_record_takes_nothing_with_it(values: list[object], sizes: list[int]) -> None:
    """Records over the limit are marked, all others are whole, whatever the chunks."""
    written = [json.dumps(value, ensure_ascii=False).encode() for value in values]
    records, complaint = framed(chunked(b"[" + b",".join(written) + b"]", sizes))
    assert complaint is None
    assert [kind is RecordTooLarge for kind, _ in records] == [len(one) > LIMIT for one in written]
    assert [one for kind, one in records if kind is bytes] == [one for one in written if len(one) <= LIMIT]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)
IDS = st.sampled_from(["665f0c0000000000000000aa", "a", "../../admin", "a?x=1", "%2e%2e", "", "a\n", "é"]) | JSON
TIMES = (
    st.datetimes().map(str) | st.from_regex(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,12}(Z|[+-][0-9]{2}:[0-9]{2})") | JSON
)
RECORDS = st.fixed_dictionaries(
    {},
    optional={
        "_id": IDS,
        "type": st.sampled_from(["text-embedding", "text_embedding", "", "x" * 300]) | JSON,
        "state": st.sampled_from(["pending", "succeeded"]) | JSON,
        "content": JSON,
        "createdAt": TIMES,
        "callbackRoute": JSON,
    },
)


@given(RECORDS)
@example({"_id": "a", "type": "t", "createdAt": "0001-01-01T00:00:00+23:59"})
@example({"_id": "a", "type": "t", "createdAt": "9999-12-31T23:59:59-23:59"})
def test_a_record_is_a_task_or_invalid(record: dict[str, object]) -> None:
    """A task has an id that the whole pattern matches, a type, an instant in UTC, and content with a fingerprint."""
    task = parse_record(json.dumps(record).encode(), PATTERN)
    if isinstance(task, Invalid):
        assert task.task_id is None or PATTERN.fullmatch(task.task_id)
        return
    assert PATTERN.fullmatch(task.id)
    assert task.id == record["_id"]
    assert task.type
    if task.created_at is not None:
        assert task.created_at.tzinfo is UTC
        assert isinstance(task.created_at.timestamp(), float)
    assert len(codec.fingerprint(task.content)) == 32


@given(st.binary(max_size=300) | HOSTILE)
def test_no_bytes_become_a_task_with_a_foreign_id(record: bytes) -> None:
    """Junk between two commas is invalid, or a task like any other."""
    task = parse_record(record, re.compile("[ab]{1,3}"))
    assert isinstance(task, Invalid) or re.fullmatch("[ab]{1,3}", task.id)


def read(chunks: Sequence[bytes], status: int, free: int) -> Page | RemoteError:
    """One poll of an API that answers exactly this, once: then it has nothing more to say."""
    answers = iter([(status, chunks)])

    def answer(_: httpx2.Request) -> httpx2.Response:
        code, body = next(answers, (200, [b"[]"]))
        return httpx2.Response(code, content=sent(body))

    async def sent(body: Sequence[bytes]) -> AsyncIterator[bytes]:
        for chunk in body:
            yield chunk

    async def poll() -> Page:
        client = mock_client(answer, API.base_url, max_answer_bytes=None)
        return await PendingList(API, PROFILE, client, RunningX()).read(free)

    try:
        return asyncio.run(poll())
    except RemoteError as error:
        return error


LISTING = b'[{"_id":"a","type":"t","content":"]\\"}"} , {"_id":"b","type":"t"},\n{"_id":"c","type":"t","content":[{}]}]'


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_list_cut_at_every_byte_yields_its_whole_records(size: int) -> None:
    """As many tasks as had come in full, in order; an error when there was none; complete only at the very end."""
    ends = [LISTING.index(mark) + offset for mark, offset in ((b"} ,", 2), (b"},\n", 1), (b"}]}]", 3))]
    for length in range(1, len(LISTING) + 1):
        page = read(chunked(LISTING[:length], [size] * (length // size)), 200, 4)
        whole = ["a", "b", "c"][: sum(length > end for end in ends)]
        if isinstance(page, Page):
            assert list(page.tasks) == whole != []
            assert page.complete == (length == len(LISTING))
        else:
            assert type(page) is InvalidAnswer
            assert whole == []


@given(
    records=st.lists(RECORDS.map(json.dumps).map(str.encode) | HOSTILE, max_size=6),
    sizes=CUTS,
    status=st.sampled_from([200, 200, 200, 204, 302, 400, 401, 404, 429, 500, 503]),
    free=st.integers(1, 3),
    closing=st.sampled_from([b"]", b"]", b"", b"]]"]),
)
def test_a_poll_brings_tasks_or_a_named_error(
    records: list[bytes], sizes: list[int], status: int, free: int, closing: bytes
) -> None:
    """Whatever the API lists: at most as many tasks as are free, each under its own id, or a remote's error."""
    page = read(chunked(b"[" + b",".join(records) + closing, sizes), status, free)
    if isinstance(page, Page):
        assert len(page.tasks) <= free
        assert all(isinstance(task, Task) and PATTERN.fullmatch(name) for name, task in page.tasks.items())
        assert all(name == task.id for name, task in page.tasks.items())


@given(bad=RECORDS, sizes=CUTS)
def test_a_good_record_survives_any_remotes(bad: dict[str, object], sizes: list[int]) -> None:
    """Between records of any kind a good one is found, whatever cuts the list."""
    assume(bad.get("_id") != "good")
    one = json.dumps(bad).encode()
    listing = b"[%b,%b,%b]" % (one, b'{"_id":"good","type":"text_embedding","content":"x"}', one)
    page = read(chunked(listing, sizes), 200, 4)
    if isinstance(page, RemoteError):
        pytest.fail(str(page))
    assert page.tasks["good"].content == "x"
    assert page.complete
