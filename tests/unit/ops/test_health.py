"""What the probes say in every state the process can be in."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.ops.health import Snapshot, state, unhealthy, unready, why_idle
from ai_task_processor.ops.metrics import STATES

WELL = Snapshot(
    draining=False,
    polled=True,
    tick_age_s=3.0,
    longest_tick_s=60.0,
    token_problem=None,
    poll_problem=None,
    outbox_full=False,
    outbox_writable=True,
    disk_full=False,
    running=0,
    slots=5,
    mode="openai",
)
SNAPSHOTS = st.builds(
    Snapshot,
    draining=st.booleans(),
    polled=st.booleans(),
    tick_age_s=st.floats(0, 1_000),
    longest_tick_s=st.just(60.0),
    token_problem=st.none() | st.just("no token yet"),
    poll_problem=st.none() | st.just("the task API answered 503"),
    outbox_full=st.booleans(),
    outbox_writable=st.booleans(),
    disk_full=st.booleans(),
    running=st.integers(0, 5),
    slots=st.just(5),
    isolation=st.none() | st.just("one task runs isolated"),
    mode=st.sampled_from(["openai", "mock", "none"]),
    holds=st.dictionaries(st.sampled_from(["api_poll", "model"]), st.just("down")),
    skipped=st.dictionaries(st.sampled_from(["running", "unknown_type", "deferred"]), st.integers(0, 9)),
)


@given(SNAPSHOTS)
def test_health_is_about_the_poll_loop_alone(snapshot: Snapshot) -> None:
    """No token, API, disk or model makes us unhealthy; a loop that stands still does, unless it was told to stop."""
    assert (unhealthy(snapshot) is not None) == (snapshot.tick_age_s > 60.0 and not snapshot.draining)


@given(SNAPSHOTS)
def test_every_reason_begins_with_a_code_and_the_words_agree(snapshot: Snapshot) -> None:
    """Ready means running, not ready another state; codes are a closed set that an operator can look up."""
    reasons = unready(snapshot)
    codes = {reason.partition(":")[0] for reason in reasons}
    assert codes <= {"draining", "starting", "token_unavailable", "upstream_unavailable", "outbox_full",
                     "outbox_unwritable", "disk_full"}  # fmt: skip
    assert state(snapshot) in STATES
    assert (state(snapshot) == "running") == (not reasons)
    assert (state(snapshot) == "draining") == snapshot.draining


@given(SNAPSHOTS)
def test_idleness_is_always_explained(snapshot: Snapshot) -> None:
    """With nothing running there is a sentence, whatever the state; with all slots taken there is none."""
    sentence = why_idle(snapshot)
    if snapshot.running == snapshot.slots:
        assert sentence is None
    elif snapshot.running == 0:
        assert sentence


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"draining": True}, ["draining"]),
        ({"token_problem": "invalid_client"}, ["token_unavailable: invalid_client"]),
        ({"poll_problem": "refused"}, ["upstream_unavailable: refused"]),
        ({"outbox_full": True}, ["outbox_full"]),
        ({"outbox_writable": False}, ["outbox_unwritable"]),
        ({"outbox_full": True, "outbox_writable": False}, ["outbox_full", "outbox_unwritable"]),
        ({"running": 5, "tick_age_s": 9.0}, []),
        ({"holds": {"model": "insufficient_quota"}}, []),
        ({"skipped": {"unknown_type": 7}}, []),
    ],
)
def test_every_reason_why_work_does_not_flow_is_named(change: dict[str, Any], reasons: list[str]) -> None:
    """All of them, not the first one only; a full house, a paused model and unknown tasks are none."""
    assert unready(replace(WELL, **change)) == reasons


@pytest.mark.parametrize(
    ("change", "reasons", "word"),
    [
        ({"token_problem": "no token yet"}, ["starting"], "starting"),
        ({}, ["starting"], "starting"),
        ({"outbox_full": True}, ["starting", "outbox_full"], "degraded"),
        ({"draining": True}, ["draining"], "draining"),
        (
            {"token_problem": "refused", "poll_problem": "no token: refused"},
            ["token_unavailable: refused", "upstream_unavailable: no token: refused"],
            "degraded",
        ),
    ],
)
def test_before_the_first_poll_it_is_starting(change: dict[str, Any], reasons: list[str], word: str) -> None:
    """That no token was fetched yet is no trouble; that the first poll failed is."""
    snapshot = replace(WELL, polled=False, **change)
    assert (unready(snapshot), state(snapshot)) == (reasons, word)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({}, "no task is pending"),
        ({"running": 5}, None),
        ({"running": 1}, None),
        ({"running": 1, "holds": {"model": "down"}}, "model is paused: down"),
        ({"running": 1, "isolation": "one task runs isolated", "holds": {"model": "down"}}, "one task runs isolated"),
        ({"running": 5, "isolation": "one task waits for the others to end"}, None),
        ({"outbox_full": True, "holds": {"model": "down"}}, "outbox_full"),
        ({"skipped": {"unknown_type": 2, "running": 0}}, "every listed task is skipped: 2 unknown_type"),
        (
            {"skipped": {"unknown_type": 2}, "mode": "none"},
            "OPENAI_API_KEY is not set, so text embeddings stay pending",
        ),
        ({"skipped": {"deferred": 1, "dead_letter": 3}}, "every listed task is skipped: 1 deferred, 3 dead_letter"),
    ],
)
def test_why_nothing_happens_is_one_sentence(change: dict[str, Any], sentence: str | None) -> None:
    """The most telling reason comes first."""
    assert why_idle(replace(WELL, **change)) == sentence


def test_a_start_that_is_held_up_says_by_what() -> None:
    """``starting`` explains nothing when there is another reason."""
    held = replace(WELL, polled=False, disk_full=True)
    assert str(why_idle(held)).startswith("disk_full")
    assert why_idle(replace(WELL, polled=False)) == "starting"
