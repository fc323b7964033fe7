"""Wikidata as a remote: people and topics by name, counts by id, kept on disk.

Only ``wbsearchentities`` and ``wbgetentities`` of the Action API are used, one request at a time for each task and few
for the process, as https://www.mediawiki.org/wiki/API:Etiquette asks. An answer says that there is no such entity;
a refusal, a 429 or silence never does: then a ``RemoteError`` is raised and the task waits.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from http import HTTPStatus
from typing import Any, Self
from urllib.parse import urlencode

from ai_task_processor import __version__
from ai_task_processor.core import codec
from ai_task_processor.core.checks import Check, Finding, Remote, Stopwatch, ok, refused
from ai_task_processor.core.errors import (
    CircuitOpen,
    InvalidAnswer,
    Misconfigured,
    RemoteError,
    Throttled,
    Transient,
    Unauthorized,
)
from ai_task_processor.core.ports import Clock
from ai_task_processor.net.answers import Answer, status_error
from ai_task_processor.net.client import HttpClient
from ai_task_processor.net.resilience import Gate, Retries
from ai_task_processor.net.services import Services
from ai_task_processor.processors.chat.aletheia.shapes import MAX_NAME, tidy
from ai_task_processor.processors.disk_cache import DiskCache

SERVICE = "wikidata"
CACHE_FILE = "wikidata.db"
#: people are looked up in English, topics and areas in the language of the upstream
PEOPLE_LANGUAGE, TOPICS_LANGUAGE = "en", "pt"
#: who counts as a person: a human, a public company, an online newspaper (values of "instance of", P31)
PEOPLE = frozenset({"Q5", "Q891723", "Q1153191"})
INSTANCE_OF = "P31"
HITS = 5
#: what is searched to see whether there is an answer
PROBE = "Brasil"
#: ids in one request, by the API's limit
IDS_AT_ONCE = 50
ENTITY_ID = re.compile(r"Q[1-9]\d{0,11}")
#: how long an entity that was found is kept, and that there is none, seconds
FOUND_S, MISSING_S = 30 * 86_400.0, 86_400.0
#: requests at once, and seconds for one
REQUESTS_AT_ONCE, TIMEOUT_S = 4, 15.0
#: a longer wait for Wikidata releases the task, seconds
LONGEST_WAIT_S = 5.0
#: attempts after the first, and the base of the backoff
RETRIES, BACKOFF = 2, 2.0
#: larger answers are parsed in a thread
LARGE_BYTES = 2**19
MAX_ALIASES = 20
USER_AGENT = f"ai-task-processor/{__version__} (headless task worker; looks up people and topics)"
#: codes of errors that come with status 200 (https://www.mediawiki.org/wiki/API:Errors_and_warnings)
_BUSY = frozenset({"ratelimited", "maxlag", "readonly"})
OUTCOMES = ("ok", "throttled", "refused", "server_error", "invalid_answer", "network_error")


@dataclass(frozen=True, slots=True)
class Entity:
    """``kinds``: the ids of "instance of". ``sitelinks``, ``statements``: how many it has."""

    id: str
    label: str
    description: str
    aliases: Sequence[str]
    kinds: Sequence[str]
    sitelinks: int
    statements: int

    @classmethod
    def read(cls, entity_id: str, answered: Mapping[str, Any]) -> Self:
        """From ``wbgetentities``. An empty object may be written as an empty array there."""
        claims, sitelinks = _mapping(answered.get("claims")), _mapping(answered.get("sitelinks"))
        return cls(
            id=entity_id,
            label=_worded(_mapping(answered.get("labels")).get(PEOPLE_LANGUAGE)),
            description=_worded(_mapping(answered.get("descriptions")).get(PEOPLE_LANGUAGE)),
            aliases=list(filter(None, map(_worded, _list(answered.get("aliases"), PEOPLE_LANGUAGE))))[:MAX_ALIASES],
            kinds=[kind for claim in _list(claims, INSTANCE_OF) if (kind := _kind(claim))],
            sitelinks=len(sitelinks),
            statements=sum(len(values) for values in claims.values() if isinstance(values, list)),
        )


class Wikidata:
    """Look-ups by the endpoint ``url``, a whole ``api.php``. Every look-up raises ``RemoteError``."""

    def __init__(self, url: str, client: HttpClient, gate: Gate, cache: DiskCache, clock: Clock, counted: Any) -> None:
        self.remote = Remote("Wikidata API", "WIKIDATA_URL", url)
        self._url = url
        self._client = client
        self._gate = gate
        self._cache = cache
        self._clock = clock
        self._counted = counted
        self._retries = Retries(RETRIES, BACKOFF)
        self._turn = asyncio.Semaphore(REQUESTS_AT_ONCE)

    @classmethod
    def build(cls, services: Services, url: str) -> Self:
        file = None if services.directory is None else services.directory / CACHE_FILE
        return cls(
            url,
            services.client(url, REQUESTS_AT_ONCE),
            services.gate(SERVICE),
            DiskCache(file, lambda: services.clock.now().timestamp()),
            services.clock,
            services.metrics.counter("wikidata_requests_total", "Requests to Wikidata, by outcome.", outcome=OUTCOMES),
        )

    async def aclose(self) -> None:
        await self._client.aclose()
        await self._cache.aclose()

    def hold_s(self) -> float:
        """Seconds until a request may be made; 0 when one may now."""
        return self._gate.wait_s()

    async def awake(self) -> None:
        """After a pause: one request shows whether it is over, before a model is paid. Raises ``RemoteError``."""
        if self._gate.reason is not None:
            await self._search(PROBE, TOPICS_LANGUAGE)

    def check(self) -> Check:
        """For ``doctor``: one search."""
        return Check("connection", self._searched, self.remote.setting, (self.remote,), self.remote.name)

    async def _searched(self) -> AsyncIterator[Finding]:
        watch = Stopwatch()
        try:
            found = await self._search(PROBE, TOPICS_LANGUAGE)
        except RemoteError as error:
            remedies: Mapping[type[Exception], str] = {Unauthorized: "correct WIKIDATA_URL, or set it to off"}
            yield refused(error, self.remote, remedies)
        else:
            yield ok(f"a search is answered, with {len(found)} entities ({watch})")

    # --- look-ups

    async def person(self, name: str) -> Entity | None:
        """The first entity of that name that is a person in the widest sense (``PEOPLE``); None when there is none."""
        key = f"person {tidy(name).casefold()}"
        async with self._cache.filling(key):
            known, value = await self._cache.get(key)
            if known and value is None:
                return None
            if known and isinstance(value, dict) and value.keys() == {field.name for field in fields(Entity)}:
                return Entity(**value)
            entities = await self._entities(await self._search(name, PEOPLE_LANGUAGE))
            found = next((entity for entity in entities.values() if not PEOPLE.isdisjoint(entity.kinds)), None)
            await self._keep(key, None if found is None else asdict(found))
            return found

    async def topic(self, name: str) -> str | None:
        """The id of the first entity of that name; None when there is none."""
        key = f"topic {TOPICS_LANGUAGE} {tidy(name).casefold()}"
        async with self._cache.filling(key):
            known, value = await self._cache.get(key)
            if not known:
                value = next(iter(await self._search(name, TOPICS_LANGUAGE)), None)
                await self._keep(key, value)
        return value if isinstance(value, str) else None

    async def counts(self, ids: Iterable[str]) -> Mapping[str, tuple[int, int]]:
        """Sitelinks and statements by id; ids that do not exist are left out."""
        found, asked = dict[str, tuple[int, int]](), list[str]()
        for entity_id in dict.fromkeys(filter(ENTITY_ID.fullmatch, ids)):
            known, value = await self._cache.get(f"counts {entity_id}")
            if not known:
                asked.append(entity_id)
            elif isinstance(value, list):
                found[entity_id] = value[0], value[1]
        for start in range(0, len(asked), IDS_AT_ONCE):
            some = asked[start : start + IDS_AT_ONCE]
            entities = await self._entities(some)
            for entity_id in some:
                entity = entities.get(entity_id)
                if entity is not None:
                    found[entity_id] = entity.sitelinks, entity.statements
                await self._keep(f"counts {entity_id}", found.get(entity_id))
        return found

    async def _keep(self, key: str, value: object) -> None:
        await self._cache.put(key, value, for_s=MISSING_S if value is None else FOUND_S)

    async def _search(self, name: str, language: str) -> Sequence[str]:
        """The ids of the first hits, best first."""
        name = tidy(name)
        if not name or len(name) > MAX_NAME:
            return ()
        answer = await self._asked(
            action="wbsearchentities", search=name, language=language, uselang=language, type="item", limit=str(HITS)
        )
        hits = answer.get("search")
        if not isinstance(hits, list) or not all(isinstance(hit, dict) for hit in hits):
            raise InvalidAnswer("Wikidata answered a search without hits")
        ids = [hit.get("id") for hit in hits]
        return [entity_id for entity_id in ids if isinstance(entity_id, str) and ENTITY_ID.fullmatch(entity_id)][:HITS]

    async def _entities(self, ids: Sequence[str]) -> Mapping[str, Entity]:
        """Those that exist, in the order of ``ids``; one that was merged into another stands under the old id."""
        if not ids:
            return {}
        answer = await self._asked(
            action="wbgetentities",
            ids="|".join(ids),
            props="labels|descriptions|aliases|claims|sitelinks",
            languages=PEOPLE_LANGUAGE,
        )
        found = answer.get("entities")
        if not isinstance(found, dict) or not all(isinstance(each, dict) for each in found.values()):
            raise InvalidAnswer("Wikidata answered no entities")
        by_id = {_mapping(each.get("redirects")).get("from", key): each for key, each in found.items()}
        if not by_id.keys() >= set(ids):
            raise InvalidAnswer("Wikidata left out entities")
        return {
            entity_id: Entity.read(str(by_id[entity_id].get("id", entity_id)), by_id[entity_id])
            for entity_id in ids
            if "missing" not in by_id[entity_id]
        }

    # --- requests

    async def _asked(self, **parameters: str) -> Mapping[str, Any]:
        """One request, repeated while that takes a few seconds only."""
        failures, ends_at = 0, self._clock.monotonic() + LONGEST_WAIT_S
        url = f"{self._url}?{urlencode({**parameters, 'format': 'json', 'formatversion': '2'})}"
        while True:
            try:
                async with self._turn:
                    answer = await self._gate.call(lambda: self._once(url))
            except CircuitOpen as error:
                failure: RemoteError = error
                wait_s = error.retry_after_s
            except RemoteError as error:
                failures += 1
                again_s = self._retries.again_in_s(failures) if error.retryable else None
                failure, wait_s = error, None if again_s is None else max(again_s, self._gate.wait_s())
            else:
                self._retries.earn()
                return answer
            if wait_s is None or self._clock.monotonic() + wait_s > ends_at:
                raise failure
            await self._clock.sleep(wait_s)

    async def _once(self, url: str) -> Mapping[str, Any]:
        outcome = "network_error"
        try:
            answer = await self._client.exchange("GET", url, headers={"User-Agent": USER_AGENT}, timeout_s=TIMEOUT_S)
            parsed = await _parsed(answer)
            outcome = "ok"
        except RemoteError as error:
            outcome = _outcome(error)
            raise
        finally:
            self._counted(outcome).inc()
        return parsed


async def _parsed(answer: Answer) -> Mapping[str, Any]:
    if not answer.is_success:
        raise status_error(answer, "Wikidata", setting="WIKIDATA_URL")
    large = len(answer.content) > LARGE_BYTES
    try:
        parsed = await asyncio.to_thread(codec.loads, answer.content) if large else codec.loads(answer.content)
    except ValueError:
        parsed = None
    if not isinstance(parsed, dict):
        raise InvalidAnswer("Wikidata did not answer JSON")
    if "error" in parsed:
        raise _error(_mapping(parsed["error"]).get("code"), answer)
    return parsed


def _error(code: object, answer: Answer) -> RemoteError:
    """The error for a code that came with status 200."""
    shown = code if isinstance(code, str) and re.fullmatch(r"[\w-]{1,40}", code) else "an error"
    text = f"Wikidata answered {shown}"
    if code in _BUSY:  # with the Retry-After of a 429, if there is one
        return status_error(replace(answer, status_code=HTTPStatus.TOO_MANY_REQUESTS), f"{text}, as if it")
    return Transient(text)


def _outcome(error: RemoteError) -> str:
    for kind, outcome in (
        (Throttled, "throttled"),
        (InvalidAnswer, "invalid_answer"),
        (Transient, "server_error"),
        (Unauthorized | Misconfigured, "refused"),
    ):
        if isinstance(error, kind):
            return outcome
    return "network_error"


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _list(value: object, key: str) -> Sequence[Any]:
    found = _mapping(value).get(key)
    return found if isinstance(found, list) else ()


def _worded(value: object) -> str:
    text = _mapping(value).get("value")
    return tidy(text) if isinstance(text, str) else ""


def _kind(claim: object) -> str | None:
    snak = _mapping(_mapping(claim).get("mainsnak"))
    kind = _mapping(_mapping(snak.get("datavalue")).get("value")).get("id")
    return kind if isinstance(kind, str) and _mapping(claim).get("rank") != "deprecated" else None
