"""A bad minute, watched by Prometheus: the real daemon against a sandbox in which everything goes wrong once.

What the panels answer about it is kept as JSON, for tests to judge and for ``draw.py`` to draw.
"""

import json
import time
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.verifications import IN_TRIAGE
from tests.bench.machine import free_port
from tests.e2e.conftest import DaemonProcess, _eventually
from tests.ops.prometheus import DAEMON, Prometheus, filled

ROOT = Path(__file__).parents[2]
WAKE_TOKEN = "a-token-of-the-tests"
SETTINGS = {
    "WAKE_TOKEN": WAKE_TOKEN,
    "POLLING_INTERVAL_SECONDS": "1",
    "CIRCUIT_BREAKER_THRESHOLD": "2",
    "CONCURRENCY_LIMIT": "8",
    "MAX_RETRIES": "1",
    "ENABLED_TASK_TYPES": "text_embedding,identifying_data,defining_topics,defining_impact_area,defining_severity,"
    "sentiment,summarize,search",
    "BRAVE_API_KEY": "a-key-of-the-tests",
    "SUMMARY_CHUNK_TOKENS": "1000",
}
PROMPT_TYPE = """
type = "sentiment"
instructions = "How does the author feel?"
result = "sentiment"
schema = {type = "object", required = ["sentiment"], properties.sentiment.enum = ["good", "bad"]}
"""
PRICES = """
[models."gpt-4.1-mini"]
prompt = 400
completion = 1600
[models."text-embedding-3-small"]
prompt = 20
"""


@dataclass(frozen=True, slots=True)
class Asked:
    """One query of one panel, and the series that answered: labels and points. ``name``: board, panel, legend."""

    name: str
    query: str
    series: list[dict[str, Any]] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What Prometheus knows after the run. ``fired``: the alerts that fired at any time in it."""

    targets: list[dict[str, Any]]
    rules: list[dict[str, Any]]
    metrics: set[str]
    fired: set[str]
    asked: list[Asked]


def questions() -> list[Asked]:
    """Every query of every board, the marks on the graphs included."""
    found = []
    for file in sorted((ROOT / "grafana/dashboards").glob("*.json")):
        board = json.loads(file.read_text())
        for panel in board["panels"]:
            name = f"{file.stem}: {panel['title']}"
            found += [Asked(f"{name}: {one['legendFormat']}", one["expr"]) for one in panel.get("targets", ())]
        notes = board["annotations"]["list"]
        found += [Asked(f"{file.stem}: {note['name']}: {note['titleFormat']}", note["expr"]) for note in notes]
    return found


class Incident:
    """The run: each fault is in force until Prometheus has seen what it does."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._sandbox = Sandbox(api_latency_s=0.005, model_latency_s=0.05)
        self._port = free_port()
        self._runs = 0

    async def report(self) -> Report:
        async with self._sandbox, Prometheus(self._directory, self._port) as self._prometheus:
            began = time.time()
            daemon = await self._started()
            try:
                await self._good_times(daemon)
                await self._bad_tasks(daemon)
                await self._claims(daemon)
                await self._bad_answers(daemon)
                await self._limits()
                await self._bad_deliveries_and_model()
                await self._bad_polls_and_tokens()
                daemon = await self._crash(daemon)
                return await self._collected(began)
            finally:
                await daemon.kill()
                assert daemon.surprises() == []

    async def _started(self) -> DaemonProcess:
        directory = self._directory / f"daemon{self._runs}"
        directory.mkdir()
        self._runs += 1
        (types := self._directory / "types.toml").write_text(PROMPT_TYPE)
        (prices := self._directory / "prices.toml").write_text(PRICES)
        given = {"DATA_DIR": str(self._directory / "data"), "TASK_TYPES": str(types), "METRICS_PORT": str(self._port)}
        given["MODEL_PRICES"] = str(prices)
        given["BRAVE_URL"] = f"{self._sandbox.url}/sandbox/stats"  # JSON without hits
        daemon = await DaemonProcess(directory, {**self._sandbox.environment(), **given, **SETTINGS}).start()
        await self._seen(f'up{{job="{DAEMON}"}}')
        return daemon

    async def _good_times(self, daemon: DaemonProcess) -> None:
        """Tasks of all three models, texts that come again, calls for a poll, and one task that was found late."""
        models = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")
        await self._seen("ai_task_processor_token_expiry_timestamp_seconds")
        for round_ in range(3):
            ids = [self._sandbox.tasks.add(f"text {n}", model=models[n % 3]) for n in range(30)]
            late = f"2024-01-01T00:00:0{round_}.000Z"
            ids.append(self._sandbox.tasks.add(f"late {round_}", raw={"createdAt": late}))
            await daemon.wake(WAKE_TOKEN)
            await self._sandbox.tasks.settled(ids, timeout=30)
            done = await daemon.metric('deliveries_total{outcome="acknowledged"}')
            await self._seen(f'ai_task_processor_deliveries_total{{outcome="acknowledged"}} >= bool {done}')

    async def _bad_tasks(self, daemon: DaemonProcess) -> None:
        """A text that is refused among good ones, an unknown type, tasks without a text, a result that is refused."""
        tasks = self._sandbox.tasks
        tasks.add("of no known type", type="no_such_type")
        tasks.add("[[refuse]] this one")
        tasks.add(content={"no": "text"})
        tasks.add(type="sentiment", content={"no": "text"})
        refused = tasks.add("refused at delivery")
        self._sandbox.faults.add("patch", status=400, task_id=refused)
        for number in range(6):
            tasks.add(f"beside it {number}")
        await daemon.wake(WAKE_TOKEN)
        await self._seen(
            "ai_task_processor_dead_letters",
            'sum(ai_task_processor_tasks_processed_total{status="failed"})',
            'ai_task_processor_tasks_skipped_total{reason="unknown_type"}',
            "ai_task_processor_batch_isolations_total",
        )

    async def _bad_answers(self, daemon: DaemonProcess) -> None:
        """A chat model whose answers often do not fit the schema, or stand in prose; texts to summarize in parts, and
        long ones that come again."""
        self._sandbox.chat.behave({"wrong": 0.4, "prose": 0.3})
        for round_ in range(3):
            ids = [self._sandbox.tasks.add(f"answer {round_} {number}", type="sentiment") for number in range(16)]
            ids.append(self._sandbox.tasks.add(f"{round_} " + "word " * 3_000, type="summarize"))
            ids.append(self._sandbox.tasks.add("long " * 1_000, type="sentiment"))
            await daemon.wake(WAKE_TOKEN)
            await self._sandbox.tasks.settled(ids, timeout=30)
            await self._seen(f"sum(ai_task_processor_model_answers_total) >= bool {self._sandbox.chat.calls}")

    async def _claims(self, daemon: DaemonProcess) -> None:
        """Requests through their chain of five tasks, while the circuit of Wikidata opens once; and a search."""
        search = self._sandbox.tasks.add(type="search", content={"query": "tides"})
        self._sandbox.faults.add("wikidata", status=503, times=2)
        self._sandbox.verifications.add_claims(12)
        await daemon.wake(WAKE_TOKEN)
        requests = self._sandbox.verifications.requests.values()
        await _eventually(lambda: all(request.status == IN_TRIAGE for request in requests), timeout=60)
        await self._sandbox.tasks.settled([search], timeout=30)
        await self._seen(
            'sum(ai_task_processor_wikidata_requests_total{outcome!="ok"})',
            'sum(ai_task_processor_search_requests_total{outcome="ok"})',
            f"sum(ai_task_processor_model_answers_total) >= bool {self._sandbox.chat.calls}",
        )

    async def _limits(self) -> None:
        """The API lists everything whatever is asked for, and the model takes two calls a second without saying so."""
        self._sandbox.api.limit = "ignored"
        self._sandbox.model.limit(requests_per_minute=120, depth=2, announced=False)
        ids = [self._sandbox.tasks.add(f"while calls are limited {number}") for number in range(400)]
        await self._seen(
            "max(ai_task_processor_read_ahead_tasks)",
            "max(ai_task_processor_model_waiting_calls)",
            "max(ai_task_processor_model_pace_calls_per_second)",
            "max(ai_task_processor_model_throttled_total)",
            'sum(ai_task_processor_model_requests_total{outcome="throttled"})',
        )
        self._sandbox.model.limit()
        self._sandbox.api.limit = "honoured"
        await self._sandbox.tasks.settled(ids, timeout=60)

    async def _bad_deliveries_and_model(self) -> None:
        """Deliveries get lost and fail, and the model is away: two circuits open."""
        faults, tasks = self._sandbox.faults, self._sandbox.tasks
        faults.add("patch", reset=True, after=True, times=1)
        deliveries = faults.add("patch", status=503)
        ids = [tasks.add(f"while deliveries fail {number}") for number in range(8)]
        await self._seen("ai_task_processor_ambiguous_deliveries_total")
        await self._seen('ai_task_processor_circuit_breaker_state{service="api_delivery"} > bool 0')
        model = faults.add("model", status=503)
        ids += [tasks.add(f"while the model is away {number}") for number in range(4)]
        await self._seen('ai_task_processor_circuit_breaker_state{service="model"} > bool 0')
        await self._seen("max(ai_task_processor_outbox_oldest_age_seconds)")
        deliveries.times, model.times = deliveries.hits, model.hits
        await tasks.settled(ids, timeout=60)

    async def _bad_polls_and_tokens(self) -> None:
        """A list that is throttled, unreadable and away; then every token is revoked and none can be had."""
        faults, tokens = self._sandbox.faults, self._sandbox.tokens
        faults.add("pending", status=429, headers={"Retry-After": "1"}, times=1)
        faults.add("pending", content="no JSON", times=1)
        faults.add("pending", status=503, times=1)
        await self._seen('ai_task_processor_circuit_breaker_state{service="api_poll"} > bool 0')
        away = faults.add("token", status=503)
        tokens.revoke()
        await self._seen('ai_task_processor_circuit_breaker_state{service="token"} > bool 0')
        away.times = away.hits
        await self._seen("min(ai_task_processor_ready)")

    async def _crash(self, daemon: DaemonProcess) -> DaemonProcess:
        """SIGKILL while results wait; a daemon finds them whose client and whose API key are refused at first."""
        faults, tasks = self._sandbox.faults, self._sandbox.tasks
        hung = faults.add("patch", hang=True)
        ids = [tasks.add(f"before the crash {number}") for number in range(4)]
        await self._seen("ai_task_processor_outbox_records >= bool 4")
        await daemon.kill()
        assert daemon.surprises() == []
        hung.times = hung.hits
        faults.add("token", status=401, times=1)
        faults.add("model", status=401, times=1)
        ids.append(tasks.add("after the crash"))
        daemon = await self._started()
        await self._seen("ai_task_processor_results_recovered_total")
        await tasks.settled(ids, timeout=90)
        await self._seen("max(ai_task_processor_ready)")
        await self._seen("sum(ai_task_processor_outbox_records) == bool 0")
        return daemon

    async def _seen(self, *queries: str) -> None:
        """Prometheus knows that none of these is 0, one after the other."""
        for query in queries:
            try:
                await _eventually(partial(self._prometheus.positive, query), timeout=60)
            except TimeoutError:
                raise AssertionError(f"not within 60 s: {query}") from None

    async def _collected(self, began: float) -> Report:
        prometheus, ended = self._prometheus, time.time()
        asked = [replace(one, series=await prometheus.course(filled(one.query), began, ended)) for one in questions()]
        fired = await prometheus.course('ALERTS{alertstate="firing"}', began, ended)
        return Report(
            targets=await prometheus.targets(),
            rules=await prometheus.rules(),
            metrics=await prometheus.metrics(),
            fired={one["labels"]["alertname"] for one in fired},
            asked=asked,
        )
