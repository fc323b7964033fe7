"""Look-ups in Wikidata: what counts as found, what is kept, and that silence is never "no such entity"."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from ai_task_processor import __version__
from ai_task_processor.core.errors import (
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    Throttled,
    Transient,
    Unauthorized,
)
from ai_task_processor.net.resilience import Gate
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat.aletheia.wikidata import FOUND_S, MISSING_S, OUTCOMES, Entity, Wikidata
from ai_task_processor.processors.disk_cache import DiskCache
from ai_task_processor.sandbox.claims import PEOPLE, STREETS, TOPICS, UNKNOWN
from ai_task_processor.sandbox.wikidata import WikidataApi
from tests.mock_http import mock_client

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

URL = "https://wiki.test/w/api.php"
Reply = Callable[[httpx2.Request], httpx2.Response]


class World:
    """The sandbox's Wikidata behind a client; ``replies`` go first."""

    def __init__(self, clock: "FakeClock") -> None:
        self.clock = clock
        self.api = WikidataApi()
        self.replies: list[httpx2.Response] = []
        self.always: httpx2.Response | None = None
        self.requests: list[httpx2.Request] = []
        self.metrics = Metrics(version="0", provider="none", services=["wikidata"])
        self.gate = Gate("wikidata", threshold=5, clock=clock, metrics=self.metrics)
        self.counted = self.metrics.counter("wikidata_requests_total", "Requests.", outcome=OUTCOMES)
        self.cache = DiskCache(None, lambda: clock.now().timestamp())
        self.wikidata = Wikidata(URL, mock_client(self.answer, URL), self.gate, self.cache, clock, self.counted)

    def answer(self, request: httpx2.Request) -> httpx2.Response:
        self.requests.append(request)
        if self.replies or self.always is not None:
            reply = self.replies.pop(0) if self.replies else self.always
            assert reply is not None
            return httpx2.Response(reply.status_code, headers=reply.headers, content=reply.content)
        body = self.api.answer(dict(request.url.params)).body
        assert isinstance(body, bytes)
        return httpx2.Response(200, content=body)

    def outcomes(self, outcome: str) -> float | None:
        return self.metrics.value("wikidata_requests_total", outcome=outcome)


@pytest.fixture
async def world(clock: "FakeClock") -> AsyncIterator[World]:
    made = World(clock)
    yield made
    await made.cache.aclose()


def reply(status: int, content: object = "", **headers: str) -> httpx2.Response:
    body = content if isinstance(content, str) else json.dumps(content)
    return httpx2.Response(
        status, content=body, headers={name.replace("_", "-"): text for name, text in headers.items()}
    )


async def test_a_person(world: World) -> None:
    """The first hit that is a person, with all that the upstream stores; two requests, and none the next time."""
    name = STREETS[0].name
    found = await world.wikidata.person(name)
    assert found == Entity("Q900002", name, "known as Q900002", [f"{name} (BR)"], ["Q5"], 3, 7)
    search, entities = (dict(request.url.params) for request in world.requests)
    assert search | {"search": name, "language": "en", "limit": "5", "format": "json"} == search
    assert entities["ids"] == "Q900101|Q900002"
    assert world.requests[0].headers["User-Agent"].startswith(f"ai-task-processor/{__version__} (")
    assert await world.wikidata.person(f" {name.upper()}\n") == found
    assert len(world.requests) == 2
    assert world.outcomes("ok") == 2


async def test_what_several_look_up_at_once_is_requested_once(world: World) -> None:
    people = await asyncio.gather(*(world.wikidata.person(STREETS[0].name) for _ in range(5)))
    topics = await asyncio.gather(*(world.wikidata.topic(TOPICS[1].name) for _ in range(5)))
    assert len({person.id for person in people if person}) == len(set(topics)) == 1
    assert len(world.requests) == 2 + 1


@pytest.mark.parametrize("person", PEOPLE, ids=lambda each: each.name)
async def test_who_counts_as_a_person(world: World, person: Any) -> None:
    """A human, a public company, an online newspaper."""
    found = await world.wikidata.person(person.name)
    assert found is not None
    assert found.id == person.id


@pytest.mark.parametrize("name", [UNKNOWN, TOPICS[0].name, "", " \n", "x" * 300])
async def test_who_does_not(world: World, name: str) -> None:
    """Nobody of that name, or something else of that name; kept, but not for as long."""
    assert await world.wikidata.person(name) is None
    asked = len(world.requests)
    assert await world.wikidata.person(name) is None
    assert len(world.requests) == asked
    world.clock.advance(MISSING_S + 1)
    assert await world.wikidata.person(name) is None
    assert len(world.requests) == 2 * asked


async def test_a_topic(world: World) -> None:
    """The first hit in Portuguese; found ones are kept for long."""
    assert await world.wikidata.topic("vacinação") == TOPICS[1].id
    assert world.requests[0].url.params["language"] == "pt"
    assert await world.wikidata.topic("Nada disso") is None
    world.clock.advance(MISSING_S + 1)
    assert await world.wikidata.topic("Vacinação") == TOPICS[1].id
    assert len(world.requests) == 2
    world.clock.advance(FOUND_S)
    await world.wikidata.topic("Vacinação")
    assert len(world.requests) == 3


async def test_counts(world: World) -> None:
    """By id, fifty at once; what is no id is not asked for, what does not exist is left out."""
    ids = [PEOPLE[0].id, PEOPLE[2].id, "Q777", "nonsense", "Q0", "Q1|Q2", PEOPLE[0].id]
    expected = {PEOPLE[0].id: (41, 210), PEOPLE[2].id: (120, 333)}
    assert await world.wikidata.counts(ids) == expected
    assert await world.wikidata.counts(ids) == expected
    assert [request.url.params["ids"] for request in world.requests] == [f"{PEOPLE[0].id}|{PEOPLE[2].id}|Q777"]
    await world.wikidata.counts([f"Q{number}" for number in range(1, 102)])
    assert [len(request.url.params["ids"].split("|")) for request in world.requests[1:]] == [50, 50, 1]


async def test_an_entity_that_was_merged(world: World) -> None:
    """It stands under its new id, and says which one it was; an empty object comes as an empty array, too."""
    merged = {"id": "Q9", "redirects": {"from": "Q8", "to": "Q9"}, "claims": [], "sitelinks": [], "aliases": []}
    world.always = reply(200, {"entities": {"Q9": merged}})
    assert await world.wikidata.counts(["Q8"]) == {"Q8": (0, 0)}


async def test_a_deprecated_statement_does_not_count(world: World) -> None:
    claim = {"mainsnak": {"datavalue": {"value": {"id": "Q5"}}}, "rank": "deprecated"}
    world.replies = [
        reply(200, {"search": [{"id": "Q8"}]}),
        reply(
            200, {"entities": {"Q8": {"id": "Q8", "claims": {"P31": [claim, {"mainsnak": {"snaktype": "novalue"}}]}}}}
        ),
    ]
    assert await world.wikidata.person("Ana") is None


BUSY: dict[str, object] = {"error": {"code": "ratelimited", "info": "x"}}
REFUSALS: list[tuple[httpx2.Response, type[RemoteError], str]] = [
    (reply(429), Throttled, "throttled"),
    (reply(200, BUSY), Throttled, "throttled"),
    (reply(200, {"error": {"code": "maxlag"}}), Throttled, "throttled"),
    (reply(503), Transient, "server_error"),
    (reply(200, {"error": {"code": "internal_api_error_X"}}), Transient, "server_error"),
    (reply(200, {"error": "x"}), Transient, "server_error"),
    (reply(403), Unauthorized, "refused"),
    (reply(404), Misconfigured, "refused"),
    (reply(301, location="https://elsewhere.test/"), Misconfigured, "refused"),
    (reply(200, "<html>"), InvalidAnswer, "invalid_answer"),
    (reply(200, []), InvalidAnswer, "invalid_answer"),
]


@pytest.mark.parametrize(("refusal", "kind", "outcome"), REFUSALS)
@pytest.mark.parametrize("call", ["person", "topic", "counts"])
async def test_a_refusal_is_an_error_and_not_kept(
    world: World, refusal: httpx2.Response, kind: type[RemoteError], outcome: str, call: str
) -> None:
    """Never "no such entity", however often it comes; afterwards the look-up is made anew."""
    world.always = refusal
    look_up: Any = getattr(world.wikidata, call)
    wanted = [PEOPLE[0].id] if call == "counts" else PEOPLE[0].name if call == "person" else TOPICS[0].name
    with pytest.raises(RemoteError) as caught:
        await look_up(wanted)
    assert isinstance(caught.value, kind | CircuitOpen)
    assert (world.outcomes(outcome) or 0) >= 1
    world.always = None
    world.clock.advance(1_000)
    assert await look_up(wanted)


@pytest.mark.parametrize(
    "content",
    [{}, {"search": {}}, {"search": ["Q1"]}, {"entities": []}, {"entities": {"Q900001": []}}, {"entities": {}}],
)
async def test_an_answer_without_what_was_asked_for(world: World, content: object) -> None:
    """A half answer is no answer: an entity that is not there at all was not looked up."""
    world.always = reply(200, content)
    with pytest.raises(InvalidAnswer):
        await world.wikidata.topic("Saúde")
    world.gate.due()
    with pytest.raises((InvalidAnswer, CircuitOpen)):
        await world.wikidata.counts(["Q900001"])


async def test_a_short_wait_is_waited(world: World) -> None:
    """Retry-After of a second, or one failure: the look-up goes on within the slot."""
    world.replies = [reply(429, retry_after="1")]
    before = world.clock.monotonic()
    assert await world.wikidata.topic("Saúde") == TOPICS[0].id
    assert 1 <= world.clock.monotonic() - before < 5
    world.replies = [reply(503)]
    assert await world.wikidata.topic("Economia") == TOPICS[3].id
    assert len(world.requests) == 4


async def test_a_long_wait_is_the_tasks(world: World) -> None:
    """The error names the delay; until then nothing is asked, and the hold says so."""
    world.replies = [reply(429, retry_after="60")]
    with pytest.raises(Throttled) as caught:
        await world.wikidata.topic("Saúde")
    assert caught.value.retry_after_s == 60
    assert world.wikidata.hold_s() == pytest.approx(60)
    with pytest.raises(CircuitOpen) as held:
        await world.wikidata.person("Ana Souza")
    assert held.value.retry_after_s == pytest.approx(60)
    assert len(world.requests) == 1
    world.clock.advance(61)
    assert world.wikidata.hold_s() == 0
    assert await world.wikidata.topic("Saúde") == TOPICS[0].id


async def test_a_pause_ends_with_one_request(world: World) -> None:
    """Without a pause nothing is asked; afterwards one search, whose failure is the answer."""
    await world.wikidata.awake()
    assert world.requests == []
    world.replies = [reply(429, retry_after="60"), reply(429, retry_after="60")]
    with pytest.raises(Throttled):
        await world.wikidata.topic("Saúde")
    world.clock.advance(61)
    with pytest.raises(Throttled):
        await world.wikidata.awake()
    world.clock.advance(121)
    await world.wikidata.awake()
    assert (world.gate.reason, len(world.requests)) == (None, 3)


async def test_an_outage_opens_the_circuit(world: World) -> None:
    """After a few failures nothing is asked for a while."""
    world.always = reply(503)
    for _ in range(20):
        with pytest.raises(RemoteError):
            await world.wikidata.topic("Saúde")
    assert world.gate.state == "open"
    assert len(world.requests) < 20


async def test_what_doctor_says(world: World) -> None:
    """A search is answered, or the setting to correct."""
    check = world.wikidata.check()
    (finding,) = [each async for each in check.work()]
    assert (finding.mark, check.setting) == ("ok", "WIKIDATA_URL")  # type: ignore[union-attr]
    world.always = reply(404)
    (finding,) = [each async for each in check.work()]
    assert (finding.code, "WIKIDATA_URL" in finding.remedy) == (78, True)  # type: ignore[union-attr]
