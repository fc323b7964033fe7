"""The catalogue: complete from the start, closed to whatever comes from outside."""

import math
from collections.abc import Iterator
from typing import Any, get_args

import prometheus_client
import pytest
from prometheus_client.parser import text_string_to_metric_families

from ai_task_processor.core.ports import SkipReason
from ai_task_processor.ops.metrics import PREFIX, Metrics

MODELS = ("text-embedding-3-small", "text-embedding-3-large", "text-embedding-ada-002")

NAMES = """
    polls_total wakeups_total
    poll_duration_seconds poll_bytes last_successful_poll_timestamp_seconds poll_interval_seconds
    pending_tasks_seen oldest_pending_age_seconds pending_list_complete tasks_skipped_total
    listed_records_total read_ahead_tasks
    tasks_processed_total task_processing_duration_seconds task_wait_seconds task_end_to_end_seconds
    tasks_in_flight slots stuck_tasks
    deliveries_total outbox_records outbox_oldest_age_seconds outbox_bytes dead_letters
    quarantined_tasks
    results_recovered_total results_lost_total ambiguous_deliveries_total
    model_requests_total model_request_duration_seconds model_tokens_total batch_size batch_isolations_total
    model_ratelimit_remaining model_pace_calls_per_second model_request_rate model_waiting_calls
    model_throttled_total model_batch_cap vector_cache_hits_total vector_cache_saved_tokens_total
    token_requests_total token_refusals_total token_expiry_timestamp_seconds
    api_requests_total api_request_duration_seconds
    circuit_breaker_state circuit_breaker_transitions_total
    build_info state event_loop_lag_seconds ready log_lines_dropped_total
"""
CATALOGUE = NAMES.split()


def new(**settings: Any) -> Metrics:
    given = {"version": "1.2.3", "provider": "openai", "models": MODELS, "task_types": ["text_embedding"]}
    return Metrics(**given | settings)


def samples(metrics: Metrics) -> list[str]:
    return [line for line in metrics.exposition()[0].decode().splitlines() if line and not line.startswith("#")]


def test_exposition_names_the_whole_catalogue_and_nothing_else() -> None:
    """The scrape has exactly the documented families, and the standard process metrics beside them."""
    text = new().exposition()[0].decode()
    families = [line.split()[2] for line in text.splitlines() if line.startswith("# TYPE ")]
    assert sorted(f for f in families if not f.startswith("process_")) == sorted(PREFIX + name for name in CATALOGUE)
    assert "process_resident_memory_bytes" in families
    assert "process_open_fds" in families


def test_exposition_parses_in_the_text_format_it_declares() -> None:
    """What a scrape answers is read back by the library's own parser, under the content type of that format."""
    body, content_type = new().exposition()
    assert content_type.startswith("text/plain; version=0.0.4")
    assert sum(1 for _ in text_string_to_metric_families(body.decode())) > len(CATALOGUE)


def test_default_set_up_stays_below_700_series() -> None:
    """One provider, three models and one task type cost at most 700 series."""
    assert 400 < len(samples(new())) <= 700


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


def test_a_poll_is_told_with_its_outcome_duration_bytes_and_time() -> None:
    """A good poll moves the time of the last good poll, a failed one does not."""
    now = [1000.0]
    metrics = new(clock=lambda: now[0])
    metrics.poll_finished("empty", duration_s=0.2, bytes_read=2)
    now[0] = 2000.0
    metrics.poll_finished("server_error", duration_s=1.5, bytes_read=0)
    assert metrics.value("polls_total", outcome="empty") == 1
    assert metrics.value("polls_total", outcome="server_error") == 1
    assert metrics.value("poll_duration_seconds_sum") == pytest.approx(1.7)
    assert metrics.value("poll_bytes_sum") == 2
    assert metrics.value("last_successful_poll_timestamp_seconds") == 1000
    metrics.poll_finished("tasks", duration_s=0.2, bytes_read=900)
    assert metrics.value("last_successful_poll_timestamp_seconds") == 2000


def test_every_wake_up_is_counted() -> None:
    """However many polls they come to."""
    metrics = new()
    metrics.woken()
    metrics.woken()
    assert metrics.value("wakeups_total") == 2


def test_what_the_poll_saw_is_told_as_gauges() -> None:
    """Count, age and completeness of the pending list are the latest ones; no age reads 0."""
    metrics = new()
    metrics.pending_seen(7, oldest_age_s=31.5, complete=True)
    metrics.poll_interval(12)
    assert metrics.value("pending_tasks_seen") == 7
    assert metrics.value("oldest_pending_age_seconds") == 31.5
    assert metrics.value("pending_list_complete") == 1
    assert metrics.value("poll_interval_seconds") == 12
    metrics.pending_seen(0, oldest_age_s=None, complete=False)
    assert metrics.value("oldest_pending_age_seconds") == 0
    assert metrics.value("pending_list_complete") == 0


@pytest.mark.parametrize("reason", get_args(SkipReason))
def test_every_skip_reason_has_its_own_series(reason: str) -> None:
    """Each reason the engine may give for skipping a task is counted under its own name."""
    metrics = new()
    metrics.task_skipped(reason)
    metrics.task_skipped(reason, 4999)
    assert metrics.value("tasks_skipped_total", reason=reason) == 5000
    assert metrics.value("tasks_skipped_total", reason="other") == 0


def test_the_life_of_a_task_is_told() -> None:
    """Waiting, processing and end to end are observed under the task's type; an unknown age is not."""
    metrics = new()
    metrics.task_started("text_embedding", wait_s=3)
    metrics.task_started("text_embedding", wait_s=None)
    metrics.task_settled("text_embedding", status="succeeded", duration_s=0.5)
    metrics.task_acknowledged("text_embedding", end_to_end_s=4)
    metrics.task_acknowledged("text_embedding", end_to_end_s=None)
    labels = {"task_type": "text_embedding"}
    assert metrics.value("tasks_processed_total", status="succeeded", **labels) == 1
    assert metrics.value("task_wait_seconds_count", **labels) == 1
    assert metrics.value("task_processing_duration_seconds_sum", **labels) == 0.5
    assert metrics.value("task_end_to_end_seconds_count", **labels) == 1
    assert metrics.value("task_end_to_end_seconds_sum", **labels) == 4


def test_slots_and_outbox_are_gauges() -> None:
    """What is held now overwrites what was held before."""
    metrics = new()
    metrics.slots(5)
    metrics.in_flight(lambda: 3)
    metrics.stuck(1)
    metrics.outbox(records=9, dead_letters=2, quarantined=5, bytes_used=4096, oldest_age_s=61)
    metrics.outbox(records=8, dead_letters=1, quarantined=4, bytes_used=2048, oldest_age_s=62)
    names = [
        "slots",
        "tasks_in_flight",
        "stuck_tasks",
        "outbox_records",
        "dead_letters",
        "outbox_bytes",
        "quarantined_tasks",
    ]
    assert [metrics.value(name) for name in names] == [5, 3, 1, 8, 1, 2048, 4]
    assert metrics.value("outbox_oldest_age_seconds") == 62


def test_deliveries_and_their_accidents_are_counted() -> None:
    """Each delivery outcome, recovered, lost and ambiguous results have counters of their own."""
    metrics = new()
    for outcome in ("acknowledged", "retried", "refused", "gone", "conflict"):
        metrics.delivery(outcome)
        assert metrics.value("deliveries_total", outcome=outcome) == 1
    metrics.results_recovered(12)
    metrics.result_lost()
    metrics.ambiguous_delivery()
    assert metrics.value("results_recovered_total") == 12
    assert metrics.value("results_lost_total") == 1
    assert metrics.value("ambiguous_deliveries_total") == 1


def test_model_calls_are_told_by_provider_and_model() -> None:
    """Requests, durations, tokens with their total, batch sizes, isolations and the provider's allowance."""
    metrics = new()
    labels = {"provider": "openai", "model": MODELS[0]}
    metrics.model_request(model=MODELS[0], outcome="ok", duration_s=0.3)
    metrics.model_tokens(model=MODELS[0], prompt=12, completion=3)
    metrics.batch(model=MODELS[0], size=2048)
    metrics.batch_isolated()
    metrics.ratelimit_remaining("tokens", 149_984)
    assert metrics.value("model_requests_total", outcome="ok", **labels) == 1
    assert metrics.value("model_request_duration_seconds_count", **labels) == 1
    assert [metrics.value("model_tokens_total", type=t, **labels) for t in ("prompt", "completion", "total")] == [
        12,
        3,
        15,
    ]
    assert metrics.value("batch_size_bucket", model=MODELS[0], le="1024.0") == 0
    assert metrics.value("batch_size_bucket", model=MODELS[0], le="2048.0") == 1
    assert metrics.value("batch_isolations_total") == 1
    assert metrics.value("model_ratelimit_remaining", kind="tokens") == 149_984


def test_a_models_pace_is_told_while_there_is_one() -> None:
    """In calls a second; without a pace it reads 0, not infinity."""
    metrics = new()
    metrics.model_pace(MODELS[0], 2.5)
    metrics.model_pace("gpt-99", 0.05)
    for name in ("model_pace_calls_per_second", "model_request_rate"):
        assert metrics.value(name, model=MODELS[0]) == 2.5
        assert metrics.value(name, model="other") == 0.05
    metrics.model_pace(MODELS[0], math.inf)
    assert metrics.value("model_pace_calls_per_second", model=MODELS[0]) == 0


def test_what_a_model_allows_is_shown() -> None:
    """Calls that wait for it, calls that it refused, and how large a call may be."""
    metrics = new()
    metrics.model_waiting(MODELS[0], 2)
    metrics.model_throttled("gpt-99")
    metrics.model_batch_cap(MODELS[0], 32)
    assert metrics.value("model_waiting_calls", model=MODELS[0]) == 2
    assert metrics.value("model_throttled_total", model="other") == 1
    assert metrics.value("model_batch_cap", model=MODELS[0]) == 32


def test_remembered_vectors_are_counted_with_what_they_had_cost() -> None:
    """Each is one hit, and the tokens that were not paid for again."""
    metrics = new()
    metrics.vector_remembered(12)
    metrics.vector_remembered(0)
    assert metrics.value("vector_cache_hits_total") == 2
    assert metrics.value("vector_cache_saved_tokens_total") == 12


def test_tokens_and_http_requests_are_told() -> None:
    """A request without an answer is `none`, an unusual status is `other`."""
    metrics = new()
    metrics.token_request("rejected")
    metrics.token_expires(1_800_000_000)
    for status in (200, None, 418):
        metrics.api_request(endpoint="/api/ai-tasks/{id}", method="PATCH", status_code=status, duration_s=0.1)
    labels = {"endpoint": "/api/ai-tasks/{id}", "method": "PATCH"}
    assert metrics.value("token_requests_total", outcome="rejected") == 1
    assert metrics.value("token_expiry_timestamp_seconds") == 1_800_000_000
    assert [metrics.value("api_requests_total", status_code=s, **labels) for s in ("200", "none", "other")] == [1, 1, 1]
    assert metrics.value("api_request_duration_seconds_count", **labels) == 3


def test_a_breaker_counts_changes_only() -> None:
    """Saying a circuit's state again is no transition, and circuits do not mix."""
    metrics = new()
    for state in ("closed", "open", "open", "half-open", "open", "closed"):
        metrics.breaker("model", state)
    to = {"closed": 1, "open": 2, "half-open": 1}
    assert {t: metrics.value("circuit_breaker_transitions_total", service="model", to=t) for t in to} == to
    assert metrics.value("circuit_breaker_state", service="model") == 0
    metrics.breaker("token", "half-open")
    assert metrics.value("circuit_breaker_state", service="token") == 2
    assert metrics.value("circuit_breaker_state", service="api_poll") == 0


def test_exactly_one_state_is_true() -> None:
    """The daemon is in one state; a word that is none changes nothing."""
    metrics = new()
    for name in ("starting", "running", "degraded", "draining", "resting"):
        metrics.state(name)
        states = {s: metrics.value("state", state=s) for s in ("starting", "running", "draining", "degraded")}
        assert states == {s: float(s == ("draining" if name == "resting" else name)) for s in states}


def test_loop_lag_and_readiness_are_told() -> None:
    """A lag is observed, readiness reads 1 or 0."""
    metrics = new()
    metrics.loop_lag(0.04)
    metrics.ready(True)
    assert metrics.value("event_loop_lag_seconds_bucket", le="0.025") == 0
    assert metrics.value("event_loop_lag_seconds_bucket", le="0.05") == 1
    assert metrics.value("ready") == 1
    metrics.ready(False)
    assert metrics.value("ready") == 0


def test_dropped_log_lines_are_counted_up_from_a_total() -> None:
    """The writer says how many in all; a log that is opened anew begins at 0 again."""
    metrics = new()
    for total in (0, 3, 5, 0, 1):
        metrics.log_lines_dropped(total)
    assert metrics.value("log_lines_dropped_total") == 6


def test_unknown_words_count_as_other() -> None:
    """A type, model, outcome or route outside its closed set is counted, under `other`."""
    metrics = new()
    metrics.task_settled("horoscope", status="succeeded", duration_s=1)
    metrics.model_request(model="gpt-99", outcome="bored", duration_s=1)
    metrics.api_request(endpoint="/admin", method="GET", status_code=200, duration_s=1)
    metrics.api_request(endpoint="/oauth2/token", method="DELETE", status_code=200, duration_s=1)
    assert metrics.value("tasks_processed_total", task_type="other", status="succeeded") == 1
    assert metrics.value("model_requests_total", provider="openai", model="other", outcome="other") == 1
    assert metrics.value("api_requests_total", endpoint="other", method="other", status_code="200") == 2


def test_value_is_none_for_what_does_not_exist() -> None:
    """The read side answers None, and takes a name with or without the prefix."""
    metrics = new()
    assert metrics.value("horoscopes_total") is None
    assert metrics.value("polls_total", outcome="bored") is None
    assert metrics.value("ai_task_processor_results_lost_total") == metrics.value("results_lost_total") == 0
    assert (metrics.value("process_start_time_seconds") or 0) > 0


@pytest.mark.parametrize("nonsense", [-1, math.nan, math.inf, -math.inf, 10**400, 1e300])
def test_absurd_amounts_neither_raise_nor_spoil_a_sum(nonsense: float) -> None:
    """A remote's figure that makes no sense counts as 0, so that sums stay finite and counters never fall."""
    metrics = new()
    metrics.model_tokens(model=MODELS[0], prompt=nonsense, completion=5)  # type: ignore[arg-type]  # floats on purpose
    metrics.task_started("text_embedding", wait_s=nonsense)
    metrics.task_skipped("stale", nonsense)  # type: ignore[arg-type]  # floats on purpose
    metrics.token_expires(nonsense)
    assert metrics.value("model_tokens_total", provider="openai", model=MODELS[0], type="total") == 5
    assert metrics.value("task_wait_seconds_sum", task_type="text_embedding") == 0
    assert metrics.value("task_wait_seconds_count", task_type="text_embedding") == 1
    assert metrics.value("tasks_skipped_total", reason="stale") == 0
    assert metrics.value("token_expiry_timestamp_seconds") == 0


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
    metrics: Any = new()
    before = {line.rsplit(" ", 1)[0] for line in samples(metrics)}
    for word in hostile_words(50_000):
        metrics.poll_finished(word, duration_s=1, bytes_read=1)
        metrics.task_skipped(word)
        metrics.task_started(word, wait_s=1)
        metrics.task_settled(word, status=word, duration_s=1)
        metrics.task_acknowledged(word, end_to_end_s=1)
        metrics.delivery(word)
        metrics.model_request(model=word, outcome=word, duration_s=1)
        metrics.model_tokens(model=word, prompt=1, completion=1)
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
