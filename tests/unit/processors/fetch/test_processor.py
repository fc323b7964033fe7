"""What may be fetched, and what a failure means: over a client that is a table."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, cast

import pytest
from structlog.testing import capture_logs

from ai_task_processor.core.errors import CircuitOpen, InvalidAnswer, RemoteError, TaskError, Transient, Unsent
from ai_task_processor.models.task import Task
from ai_task_processor.net.pages import NoSuchHost, PageAnswer, PageClient, PageTooLarge, PrivateAddress
from ai_task_processor.processors.base import ProcessorContext
from ai_task_processor.processors.fetch import processor as module
from ai_task_processor.processors.fetch.processor import FetchProcessor
from ai_task_processor.testing.context import processor_context
from tests.helpers import services
from tests.unit.conftest import FakeClock

PAGE = b"<title>T</title><article>hello</article>"
HTML = {"Content-Type": "text/html"}


class Web:
    """Answers by URL; ``asked``: each request, and whether its host counted as named."""

    def __init__(self) -> None:
        self.pages: dict[str, PageAnswer | Exception] = {}
        self.asked: list[tuple[str, bool]] = []

    def add(self, url: str, body: bytes = PAGE, status: int = 200, **headers: str) -> None:
        named = {name.replace("_", "-"): text for name, text in headers.items()}
        self.pages[url] = PageAnswer(status, {**HTML, **named}, url, body)

    async def get(self, url: str, *, named: bool) -> PageAnswer:
        self.asked.append((url, named))
        page = self.pages[url]
        if isinstance(page, Exception):
            raise page
        return page


@pytest.fixture
def web() -> Web:
    return Web()


Make = Callable[..., FetchProcessor]


@pytest.fixture
def make(web: Web, clock: FakeClock) -> Make:
    def made(**environ: str) -> FetchProcessor:
        processor = FetchProcessor()
        shared = services(environ, FetchProcessor, clock=clock)
        processor.configure(shared.settings)
        context: ProcessorContext = processor_context(clock=clock, wait_s=100.0, services=shared)
        processor.equip(context.__class__(**{**_fields(context), "settings": shared.settings}))
        processor._client = cast("PageClient", web)
        return processor

    return made


def _fields(context: ProcessorContext) -> Mapping[str, Any]:
    return {name: getattr(context, name) for name in context.__dataclass_fields__}


def task(url: object = "https://a.example/", attempt: int = 1, **content: object) -> Task:
    return Task(id="t", type="fetch_url", content={"url": url, **content}, attempt=attempt)


async def failure(processor: FetchProcessor, given: Task) -> tuple[str, str]:
    with pytest.raises(TaskError) as raised:
        await processor.process(given)
    return raised.value.code, raised.value.message


async def test_the_result(make: Make, web: Web) -> None:
    """Head and text, a summary with the host, and the HTML when it is asked for."""
    web.add("https://a.example/x/?b=1&a=2")
    output = {
        "text": "Title: T\nAuthor: \nPublished: \nURL: https://a.example/x?a=2&b=1\n\nhello",
        "summary": "Fetched and extracted content from a.example",
    }
    given = task("https://A.example/x/?b=1&a=2#part")
    assert (await make().process(given)).output == output
    given = task("https://A.example/x/?b=1&a=2#part", store_raw_html=True, reader_mode=False)
    assert (await make().process(given)).output == {**output, "html": PAGE.decode()}


@pytest.mark.parametrize(
    "content",
    [None, 5, "https://a.example/", [], {}, {"url": None}, {"url": 5}, {"url": "https://a.example/", "reader_mode": 1},
     {"url": "https://a.example/", "store_raw_html": "yes"}],
)  # fmt: skip
async def test_content_that_breaks_its_rules(make: Make, content: object) -> None:
    code, message = await failure(make(), Task(id="t", type="fetch_url", content=content))
    assert (code, message.partition(":")[0]) == ("task_rejected_invalid_params", "invalid_params")


@pytest.mark.parametrize(
    ("allowlist", "url", "asked"),
    [
        ("*", "https://a.example/", [("https://a.example/", False)]),
        ("a.example", "https://A.Example./", [("https://a.example/", True)]),
        ("*,127.0.0.1", "http://2130706433/", [("http://127.0.0.1/", True)]),
        ("BÜCHER.example", "https://xn--bcher-kva.example/", [("https://xn--bcher-kva.example/", True)]),
        ("::1", "http://[0:0::1]/", [("http://[::1]/", True)]),
        ("a.example", "https://b.a.example/", []),
        ("a.example", "https://a.example.evil.example/", []),
    ],
)
async def test_the_allowlist(make: Make, web: Web, allowlist: str, url: str, asked: list[tuple[str, bool]]) -> None:
    """Hosts count as a whole; only a host that is named, not by ``*``, may have a private address."""
    for known, _ in asked:
        web.add(known)
    processor = make(FETCH_DOMAIN_ALLOWLIST=allowlist)
    if asked:
        await processor.process(task(url))
    else:
        code, message = await failure(processor, task(url))
        assert (code, message.partition(":")[0]) == ("task_rejected_invalid_params", "fetch_domain_not_allowed")
    assert web.asked == asked


@pytest.mark.parametrize(
    ("location", "reason"),
    [
        ("http://169.254.169.254/latest/", "fetch_domain_not_allowed"),
        ("//localhost/", "fetch_domain_not_allowed"),
        ("file:///etc/passwd", "invalid_url"),
        ("https://user@b.example/", "invalid_url"),
    ],
)
async def test_redirects_are_checked_like_the_first_address(make: Make, web: Web, location: str, reason: str) -> None:
    web.add("https://a.example/", b"", 302, Location=location)
    for private in ("http://169.254.169.254/latest/", "https://localhost/"):
        web.pages[private] = PrivateAddress()
    code, message = await failure(make(), task())
    assert (code, message.partition(":")[0]) == ("task_rejected_invalid_params", reason)
    assert all(named is False for _, named in web.asked)


async def test_a_redirect_leaves_the_hosts_that_are_named(make: Make, web: Web) -> None:
    """A named host cannot send the daemon to another one that is not."""
    web.add("https://a.example/", b"", 301, Location="https://b.example/")
    code, message = await failure(make(FETCH_DOMAIN_ALLOWLIST="a.example"), task())
    assert (code, message.partition(":")[0]) == ("task_rejected_invalid_params", "fetch_domain_not_allowed")


async def test_redirects_are_bounded(make: Make, web: Web) -> None:
    for number in range(20):
        web.add(f"https://a.example/{number}", b"", 302, Location=f"/{number + 1}")
    web.add("https://a.example/10")
    assert (await make().process(task("https://a.example/0"))).output
    web.add("https://a.example/10", b"", 302, Location="/11")
    assert await failure(make(), task("https://a.example/0")) == ("fetch_failed", "too many redirects")


async def codes(processor: FetchProcessor, times: int, given: Task | None = None) -> list[str]:
    """How each of several attempts at a task ends."""
    found = []
    for _ in range(times):
        try:
            await processor.process(given or task())
            found.append("ok")
        except TaskError as error:
            found.append(error.code)
        except RemoteError as error:
            found.append(type(error).__name__)
    return found


@pytest.mark.parametrize(
    ("status", "ends"),
    [
        (404, ["fetch_failed"]),
        (403, ["fetch_failed"]),
        (410, ["fetch_failed"]),
        (304, ["fetch_failed"]),
        (503, ["Transient", "Transient", "fetch_failed"]),
        (500, ["Transient", "Transient", "fetch_failed"]),
        (429, ["Throttled", "Throttled", "fetch_failed"]),
    ],
)
async def test_statuses(make: Make, web: Web, status: int, ends: list[str]) -> None:
    """A page that is gone fails at once, a server that fails at the third attempt."""
    web.add("https://a.example/", b"", status)
    assert await codes(make(), len(ends)) == ends


@pytest.mark.parametrize(
    ("error", "ends"),
    [
        (NoSuchHost("no address"), ["fetch_failed"]),
        (Transient("connection refused"), ["Transient", "Transient", "fetch_failed"]),
        (InvalidAnswer("no HTTP"), ["InvalidAnswer", "InvalidAnswer", "fetch_failed"]),
        (PageTooLarge("too large"), ["artifact_size_exceeded"]),
        (Unsent("no route"), ["Unsent"] * 5 + ["CircuitOpen"] * 5),
    ],
)
async def test_failures(make: Make, web: Web, error: RemoteError, ends: list[str]) -> None:
    """Where our own network may be at fault, no number of attempts fails a task."""
    web.pages["https://a.example/"] = error
    assert await codes(make(), len(ends)) == ends


async def test_a_source_may_allow_fewer_attempts(make: Make, web: Web) -> None:
    web.add("https://a.example/", b"", 503)
    given = replace(task(), attempt_limit=1)
    assert await codes(make(), 1, given) == ["fetch_failed"]


async def test_what_was_no_attempt_at_the_page_does_not_count(make: Make, web: Web) -> None:
    """A task that waited for our network for long has its three attempts nevertheless; a success forgets failures."""
    web.add("https://a.example/", b"", 503)
    processor = make()
    assert await codes(processor, 2, task(attempt=50)) == ["Transient", "Transient"]
    web.add("https://a.example/")
    assert await codes(processor, 1) == ["ok"]
    web.add("https://a.example/", b"", 503)
    assert await codes(processor, 3) == ["Transient", "Transient", "fetch_failed"]


async def test_an_unreachable_host_fails_when_another_is_reached(make: Make, web: Web, clock: FakeClock) -> None:
    """Then it is not our network."""
    processor = make()
    web.pages["https://a.example/"] = Unsent("no connection in time")
    web.add("https://b.example/", b"", 404)
    assert await codes(processor, 3) == ["Unsent"] * 3
    clock.advance(1)
    assert await codes(processor, 1, replace(task("https://b.example/"), id="other")) == ["fetch_failed"]
    assert await codes(processor, 1) == ["fetch_failed"]


async def test_a_wait_for_the_circuit_is_no_failure(make: Make, web: Web, clock: FakeClock) -> None:
    """Whatever was reached meanwhile."""
    processor = make()
    web.pages["https://a.example/"] = Unsent("no route")
    assert await codes(processor, 5) == ["Unsent"] * 5
    clock.advance(1)
    processor._answered_at = clock.monotonic()
    assert await codes(processor, 1) == ["CircuitOpen"]


async def test_an_outage_opens_the_circuit(make: Make, web: Web) -> None:
    """Nothing is claimed then; one page that answers, with whatever, closes it."""
    processor = make(CIRCUIT_BREAKER_THRESHOLD="3")
    web.pages["https://a.example/"] = Unsent("no route")
    with capture_logs() as logs:
        for _ in range(3):
            assert processor.hold_s() == 0
            with pytest.raises(Unsent):
                await processor.process(task())
    assert [line["service"] for line in logs if line["event"] == "breaker.opened"] == ["fetch"]
    assert processor.hold_s() > 0
    with pytest.raises(CircuitOpen):
        await processor.process(task())


@pytest.mark.parametrize(
    ("body", "content_type", "code"),
    [
        (b"<nav>x</nav>", "text/html", "no_extractable_text"),
        (b"", "text/html", "no_extractable_text"),
        (b"%PDF-1.7", "application/pdf", "no_extractable_text"),
        (b"plain \n\n text", "text/plain; charset=utf-8", ""),
        (b"untold", "", ""),
    ],
)
async def test_pages_without_text(make: Make, web: Web, body: bytes, content_type: str, code: str) -> None:
    """A page that has none is no success."""
    web.add("https://a.example/", body, Content_Type=content_type)
    if code:
        assert (await failure(make(), task()))[0] == code
    else:
        output: Any = (await make().process(task())).output
        assert output["text"].endswith(tidy(body))


def tidy(body: bytes) -> str:
    return "\n".join(" ".join(line.split()) for line in body.decode().splitlines() if line.strip())


async def test_limits(make: Make, web: Web, monkeypatch: pytest.MonkeyPatch) -> None:
    """A result over the limit, and work over its time, end the task with the codes of the contract."""
    web.add("https://a.example/", b"x" * 700_000)
    code, _ = await failure(make(TASK_MAX_ARTIFACT_MB="1"), task(store_raw_html=True))
    assert code == "artifact_size_exceeded"

    async def never(url: str, *, named: bool) -> PageAnswer:
        await asyncio.sleep(10)
        raise AssertionError

    processor = make(TASK_MAX_RUNTIME_SECONDS="0.01")
    monkeypatch.setattr(web, "get", never)
    assert (await failure(processor, task()))[0] == "task_runtime_exceeded"
    monkeypatch.setattr(module, "TIMEOUT_S", 0.01)
    assert await codes(make(), 3) == ["TimedOut", "TimedOut", "fetch_failed"]
