"""The catalogue: complete from the start, closed to whatever comes from outside."""

import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.core.ports import SkipReason
from ai_task_processor.ops.metric_families import PREFIX
from ai_task_processor.ops.metrics import Metrics

MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")

NAMES = """
    polls_total wakeups_total push_connected
    poll_duration_seconds poll_bytes last_successful_poll_timestamp_seconds poll_interval_seconds
    pending_tasks_seen oldest_pending_age_seconds pending_list_complete tasks_skipped_total
    listed_records_total read_ahead_tasks
    tasks_processed_total task_processing_duration_seconds task_wait_seconds task_end_to_end_seconds
    tasks_in_flight slots stuck_tasks
    steps_total deliveries_total outbox_records outbox_oldest_age_seconds outbox_bytes dead_letters
    quarantined_tasks
    results_recovered_total results_lost_total ambiguous_deliveries_total
    model_requests_total model_request_duration_seconds model_tokens_total batch_size batch_isolations_total
    model_ratelimit_remaining model_pace_calls_per_second model_request_rate model_waiting_calls
    model_throttled_total model_batch_cap model_answers_total vector_cache_hits_total vector_cache_saved_tokens_total
    token_requests_total token_refusals_total token_expiry_timestamp_seconds
    api_requests_total api_request_duration_seconds
    circuit_breaker_state circuit_breaker_transitions_total
    build_info state event_loop_lag_seconds ready paused log_lines_dropped_total
"""
CATALOGUE = NAMES.split()


def new(**settings: Any) -> Metrics:
    given = {"version": "1.2.3", "provider": "openai", "models": MODELS, "task_types": ["text_embedding"]}
    return Metrics(**given | settings)


@pytest.fixture
def metrics() -> Metrics:
    return new()


def samples(metrics: Metrics) -> list[str]:
    return [line for line in metrics.exposition()[0].decode().splitlines() if line and not line.startswith("#")]


def test_exposition_names_the_whole_catalogue_and_nothing_else() -> None:
    text = new().exposition()[0].decode()
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert sorted(f for f in families if not f.startswith("process_")) == sorted(PREFIX + name for name in CATALOGUE)
    assert "process_resident_memory_bytes" in families
    assert "process_open_fds" in families


def test_a_cost_exists_only_with_prices() -> None:
    """By model, in the currency of the price table."""
    without, metrics = new(), new(currency="EUR")
    for each in (without, metrics):
        each.model_cost(model=MODELS[0], amount=0.25)
        each.model_cost(model="gpt-99", amount=math.nan)
    assert without.value("model_cost_total", model=MODELS[0]) is None
    shows(metrics, {f"model_cost_total model={MODELS[0]}": 0.25, "model_cost_total model=other": 0})
    assert "in EUR" in metrics.exposition()[0].decode()


def test_exposition_parses_in_the_text_format_it_declares() -> None:
    """What a scrape answers is read back by the library's own parser, under the content type of that format."""
    body, content_type = new().exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert sum(1 for _ in text_string_to_metric_families(body.decode())) > len(CATALOGUE)


def test_default_set_up_stays_below_700_series() -> None:
    assert 400 < len(samples(new())) <= 700


def test_the_types_of_claims_stay_below_700_series() -> None:
    """With a chat model, five types and a remote of a processor, as the daemon is shipped."""
    types = ["text_embedding", "identifying_data", "defining_topics", "defining_impact_area", "defining_severity"]
    metrics = new(
        models=[*MODELS[:2], "chat"],
        task_types=types,
        chat_models=["chat"],
        chat_types=types[1:],
        services=["wikidata"],
        currency="USD",
    )
    metrics.counter("wikidata_requests_total", "Requests.", outcome=list("abcdef"))
    assert 600 < len(samples(metrics)) <= 700
    assert metrics.value("circuit_breaker_state", service="wikidata") == 0


def test_every_series_exists_with_zero_from_the_start() -> None:
    """Before anything happened all series of ours read 0, except what the process is: its build and its state."""
    awake = [line for line in samples(new()) if line.startswith(PREFIX) and float(line.rsplit(" ", 1)[1]) != 0]
    assert len(awake) == 2
    assert awake[0].startswith(f"{PREFIX}build_info{{")
    assert 'version="1.2.3"' in awake[0]
    assert awake[1] == f'{PREFIX}state{{state="starting"}} 1.0'


def test_created_series_are_off_for_us_only() -> None:
    """No `_created` series is exposed, and the library's process-wide switch is left as it was."""
    stranger = prometheus_client.Counter("stranger", "A counter of somebody else.", registry=None)
    assert not any("_created" in line for line in samples(new()))
    assert {s.name for s in next(iter(stranger.collect())).samples} == {"stranger_total", "stranger_created"}


def test_the_global_registry_is_never_used() -> None:
    """Two daemons in one process do not meet in the library's global registry."""
    first, second = new(), new()
    first.result_lost()
    assert second.value("results_lost_total") == 0
    assert PREFIX not in prometheus_client.generate_latest().decode()


def test_latency_buckets_reach_from_5_ms_to_one_hour() -> None:
    """Each latency histogram tells a call of 5 ms from a slower one and still places one of an hour."""
    lines = samples(new())
    for name in CATALOGUE:
        if name.endswith(("duration_seconds", "wait_seconds", "end_to_end_seconds")):
            bounds = {
                line.split('le="')[1].split('"')[0] for line in lines if line.startswith(f"{PREFIX}{name}_bucket")
            }
            assert {"0.005", "3600.0", "+Inf"} <= bounds, name


def shows(metrics: Metrics, expected: dict[str, float]) -> None:
    """Each series, written ``name label=value label=value``, has its value."""
    found = {}
    for series in expected:
        name, *labels = series.split()
        found[series] = metrics.value(name, **dict(label.split("=", 1) for label in labels))
    assert found == expected


#: what is said, and the values that it leaves
Case = tuple[list[Callable[[Metrics], None]], dict[str, float]]
SMALL = MODELS[0]
ROUTE = "/api/ai-tasks/{id}"
DELIVERED = ("acknowledged", "retried", "refused", "gone", "conflict")
#: labels
CALL, SENT, KIND = f"provider=openai model={SMALL}", f"endpoint={ROUTE} method=PATCH", "task_type=text_embedding"
CASES: dict[str, Case] = {
    "every wake-up, however many polls they come to": (
        [lambda m: m.woken("http"), lambda m: m.woken("http"), lambda m: m.woken("websocket")],
        {"wakeups_total origin=http": 2, "wakeups_total origin=websocket": 1},
    ),
    "what the poll saw": (
        [lambda m: m.pending_seen(7, oldest_age_s=31.5, complete=True), lambda m: m.poll_interval(12)],
        {"pending_tasks_seen": 7, "oldest_pending_age_seconds": 31.5, "pending_list_complete": 1,
         "poll_interval_seconds": 12},
    ),
    "the latest poll saw nothing: no age reads 0": (
        [lambda m: m.pending_seen(7, oldest_age_s=31.5, complete=True),
         lambda m: m.pending_seen(0, oldest_age_s=None, complete=False)],
        {"oldest_pending_age_seconds": 0, "pending_list_complete": 0},
    ),
    "the life of a task under its type; an unknown age is not observed": (
        [lambda m: m.task_started("text_embedding", wait_s=3),
         lambda m: m.task_started("text_embedding", wait_s=None),
         lambda m: m.task_settled("text_embedding", status="succeeded", duration_s=0.5),
         lambda m: m.task_acknowledged("text_embedding", end_to_end_s=4),
         lambda m: m.task_acknowledged("text_embedding", end_to_end_s=None)],
        {f"tasks_processed_total status=succeeded {KIND}": 1, f"task_wait_seconds_count {KIND}": 1,
         f"task_processing_duration_seconds_sum {KIND}": 0.5, f"task_end_to_end_seconds_count {KIND}": 1,
         f"task_end_to_end_seconds_sum {KIND}": 4},
    ),
    "slots and outbox are gauges: what is held now overwrites what was held before": (
        [lambda m: m.slots(5), lambda m: m.in_flight(lambda: 3), lambda m: m.stuck(1),
         lambda m: m.outbox(records=9, dead_letters=2, quarantined=5, bytes_used=4096, oldest_age_s=61),
         lambda m: m.outbox(records=8, dead_letters=1, quarantined=4, bytes_used=2048, oldest_age_s=62)],
        {"slots": 5, "tasks_in_flight": 3, "stuck_tasks": 1, "outbox_records": 8, "dead_letters": 1,
         "outbox_bytes": 2048, "quarantined_tasks": 4, "outbox_oldest_age_seconds": 62},
    ),
    "each outcome of a delivery": (
        [lambda m, outcome=outcome: m.delivery(outcome) for outcome in DELIVERED],  # type: ignore[misc]
        {f"deliveries_total outcome={outcome}": 1 for outcome in DELIVERED},
    ),
    "recovered, lost and ambiguous results": (
        [lambda m: m.results_recovered(12), lambda m: m.result_lost(), lambda m: m.ambiguous_delivery()],
        {"results_recovered_total": 12, "results_lost_total": 1, "ambiguous_deliveries_total": 1},
    ),
    "model calls by provider and model": (
        [lambda m: m.model_request(model=SMALL, outcome="ok", duration_s=0.3),
         lambda m: m.model_tokens(model=SMALL, prompt=12, completion=3, cached=8),
         lambda m: m.batch(model=SMALL, size=2048), lambda m: m.batch_isolated(),
         lambda m: m.ratelimit_remaining("tokens", 149_984)],
        {f"model_requests_total outcome=ok {CALL}": 1, f"model_request_duration_seconds_count {CALL}": 1,
         f"model_tokens_total type=cached {CALL}": 8,
         f"model_tokens_total type=prompt {CALL}": 12, f"model_tokens_total type=completion {CALL}": 3,
         f"batch_size_bucket model={SMALL} le=1024.0": 0,
         f"batch_size_bucket model={SMALL} le=2048.0": 1, "batch_isolations_total": 1,
         "model_ratelimit_remaining kind=tokens": 149_984},
    ),
    "a model's pace in calls a second": (
        [lambda m: m.model_pace(SMALL, 2.5), lambda m: m.model_pace("gpt-99", 0.05)],
        {f"model_pace_calls_per_second model={SMALL}": 2.5, f"model_request_rate model={SMALL}": 2.5,
         "model_pace_calls_per_second model=other": 0.05, "model_request_rate model=other": 0.05},
    ),
    "without a pace it reads 0, not infinity": (
        [lambda m: m.model_pace(SMALL, 2.5), lambda m: m.model_pace(SMALL, math.inf)],
        {f"model_pace_calls_per_second model={SMALL}": 0},
    ),
    "calls that wait for a model, that it refused, and how large a call may be": (
        [lambda m: m.model_waiting(SMALL, 2), lambda m: m.model_throttled("gpt-99"),
         lambda m: m.model_batch_cap(SMALL, 32)],
        {f"model_waiting_calls model={SMALL}": 2, "model_throttled_total model=other": 1,
         f"model_batch_cap model={SMALL}": 32},
    ),
    "each remembered vector is a hit, with the tokens that were not paid for again": (
        [lambda m: m.vector_remembered(12), lambda m: m.vector_remembered(0)],
        {"vector_cache_hits_total": 2, "vector_cache_saved_tokens_total": 12},
    ),
    "requests for a token": (
        [lambda m: m.token_request("rejected"), lambda m: m.token_expires(1_800_000_000)],
        {"token_requests_total outcome=rejected": 1, "token_expiry_timestamp_seconds": 1_800_000_000},
    ),
    "a request without an answer is `none`, an unusual status is `other`": (
        [lambda m: m.api_request(endpoint=ROUTE, method="PATCH", status_code=200, duration_s=0.1),
         lambda m: m.api_request(endpoint=ROUTE, method="PATCH", status_code=None, duration_s=0.1),
         lambda m: m.api_request(endpoint=ROUTE, method="PATCH", status_code=418, duration_s=0.1)],
        {f"api_requests_total status_code=200 {SENT}": 1, f"api_requests_total status_code=none {SENT}": 1,
         f"api_requests_total status_code=other {SENT}": 1, f"api_request_duration_seconds_count {SENT}": 3},
    ),
    "a circuit's changes: saying a state again is none, and circuits do not mix": (
        [*(lambda m, state=state: m.breaker("model", state)
           for state in ("closed", "open", "open", "half-open", "open", "closed")),
         lambda m: m.breaker("token", "half-open")],
        {"circuit_breaker_transitions_total service=model to=closed": 1,
         "circuit_breaker_transitions_total service=model to=open": 2,
         "circuit_breaker_transitions_total service=model to=half-open": 1, "circuit_breaker_state service=model": 0,
         "circuit_breaker_state service=token": 2, "circuit_breaker_state service=api_poll": 0},
    ),
    "loop lag and readiness": (
        [lambda m: m.loop_lag(0.04), lambda m: m.ready(True)],
        {"event_loop_lag_seconds_bucket le=0.025": 0, "event_loop_lag_seconds_bucket le=0.05": 1, "ready": 1},
    ),
    "not ready any more": ([lambda m: m.ready(True), lambda m: m.ready(False)], {"ready": 0}),
    "dropped lines count up from the writer's total, which begins at 0 with a new log": (
        [lambda m, total=total: m.log_lines_dropped(total) for total in (0, 3, 5, 0, 1)],  # type: ignore[misc]
        {"log_lines_dropped_total": 6},
    ),
    "a type, model, outcome or route outside its closed set is `other`": (
        [lambda m: m.task_settled("horoscope", status="succeeded", duration_s=1),
         lambda m: m.model_request(model="gpt-99", outcome="bored", duration_s=1),
         lambda m: m.api_request(endpoint="/admin", method="GET", status_code=200, duration_s=1),
         lambda m: m.api_request(endpoint="/oauth2/token", method="DELETE", status_code=200, duration_s=1)],
        {"tasks_processed_total task_type=other status=succeeded": 1,
         "model_requests_total provider=openai model=other outcome=other": 1,
         "api_requests_total endpoint=other method=other status_code=200": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_is_said_is_shown(metrics: Metrics, case: str) -> None:
    calls, expected = CASES[case]
    for call in calls:
        call(metrics)
    shows(metrics, expected)


def test_a_poll_is_told_with_its_outcome_duration_bytes_and_time() -> None:
    """A good poll moves the time of the last good poll, a failed one does not."""
    now = [1000.0]
    metrics = new(clock=lambda: now[0])
    metrics.poll_finished("empty", duration_s=0.2, bytes_read=2)
    now[0] = 2000.0
    metrics.poll_finished("server_error", duration_s=1.5, bytes_read=0)
    shows(metrics, {"polls_total outcome=empty": 1, "polls_total outcome=server_error": 1, "poll_bytes_sum": 2})
    shows(metrics, {"last_successful_poll_timestamp_seconds": 1000})
    assert metrics.value("poll_duration_seconds_sum") == pytest.approx(1.7)
    metrics.poll_finished("tasks", duration_s=0.2, bytes_read=900)
    shows(metrics, {"last_successful_poll_timestamp_seconds": 2000})


@pytest.mark.parametrize("reason", get_args(SkipReason))
def test_every_skip_reason_has_its_own_series(metrics: Metrics, reason: str) -> None:
    metrics.task_skipped(reason)
    metrics.task_skipped(reason, 4999)
    shows(metrics, {f"tasks_skipped_total reason={reason}": 5000, "tasks_skipped_total reason=other": 0})


def test_exactly_one_state_is_true(metrics: Metrics) -> None:
    """The daemon is in one state; a word that is none changes nothing."""
    for name in ("starting", "running", "degraded", "draining", "resting"):
        metrics.state(name)
        states = {s: metrics.value("state", state=s) for s in ("starting", "running", "draining", "degraded")}
        assert states == {s: float(s == ("draining" if name == "resting" else name)) for s in states}


def test_value_is_none_for_what_does_not_exist(metrics: Metrics) -> None:
    """The read side answers None, and takes a name with or without the prefix."""
    assert metrics.value("horoscopes_total") is None
    assert metrics.value("polls_total", outcome="bored") is None
    assert metrics.value("ai_task_processor_results_lost_total") == metrics.value("results_lost_total") == 0
    assert (metrics.value("process_start_time_seconds") or 0) > 0


@pytest.mark.parametrize("nonsense", [-1, math.nan, math.inf, -math.inf, 10**400, 1e300])
def test_absurd_amounts_neither_raise_nor_spoil_a_sum(metrics: Metrics, nonsense: float) -> None:
    """A remote's figure that makes no sense counts as 0, so that sums stay finite and counters never fall."""
    metrics.model_tokens(model=MODELS[0], prompt=nonsense, completion=5)  # type: ignore[arg-type]  # floats on purpose
    metrics.task_started("text_embedding", wait_s=nonsense)
    metrics.task_skipped("stale", nonsense)  # type: ignore[arg-type]  # floats on purpose
    metrics.token_expires(nonsense)
    shows(metrics, {f"model_tokens_total type=completion {CALL}": 5, "tasks_skipped_total reason=stale": 0})
    shows(metrics, {f"task_wait_seconds_sum {KIND}": 0, f"task_wait_seconds_count {KIND}": 1})
    shows(metrics, {"token_expiry_timestamp_seconds": 0})


def test_configured_names_cannot_break_a_scrape() -> None:
    """A model or provider name with a lone surrogate, a quote or a megabyte is still one short valid label."""
    names = ["m\udcff", 'a"b\n', "x" * 1_000_000]
    metrics = new(provider="p\udcff", models=names, version="\udcff")
    for name in names:
        metrics.model_request(model=name, outcome="ok", duration_s=1)
    body = metrics.exposition()[0]
    assert len(body) < 200_000
    ok = [
        sample.value
        for family in text_string_to_metric_families(body.decode())
        for sample in family.samples
        if sample.name.endswith("model_requests_total")
        and sample.labels["outcome"] == "ok"
        and sample.labels["model"] != "other"
    ]
    assert ok == [1, 1, 1]


def hostile_words(count: int) -> Iterator[str]:
    kinds = ("t-{}", "\udcff{}", '"{}\n', "{}" + "x" * 2000, "https://user:pass@host/{}", "\x00{}")
    return (kinds[n % len(kinds)].format(n) for n in range(count))


def test_50_000_hostile_label_values_change_nothing() -> None:
    """Whatever is thrown at every verb, a scrape keeps its series, at most 700, and stays below 200 kB."""
    metrics: Any = new(currency="€")
    before = {line.rsplit(" ", 1)[0] for line in samples(metrics)}
    for word in hostile_words(50_000):
        metrics.poll_finished(word, duration_s=1, bytes_read=1)
        metrics.task_skipped(word)
        metrics.task_started(word, wait_s=1)
        metrics.task_settled(word, status=word, duration_s=1)
        metrics.task_acknowledged(word, end_to_end_s=1)
        metrics.delivery(word)
        metrics.model_request(model=word, outcome=word, duration_s=1)
        metrics.model_tokens(model=word, prompt=1, completion=1, cached=1)
        metrics.model_cost(model=word, amount=1)
        metrics.batch(model=word, size=1)
        metrics.model_pace(word, 1)
        metrics.ratelimit_remaining(word, 1)
        metrics.token_request(word)
        metrics.api_request(endpoint=word, method=word, status_code=word, duration_s=1)
        metrics.breaker(word, word)
        metrics.breaker(word, "open")
        metrics.state(word)
    after = {line.rsplit(" ", 1)[0] for line in samples(metrics)}
    assert after == before
    assert len(after) <= 700
    assert len(metrics.exposition()[0]) <= 200_000
    assert metrics.value("tasks_processed_total", task_type="other", status="other") == 50_000
