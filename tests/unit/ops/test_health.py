"""What the probes say in every state the process can be in."""

from dataclasses import replace
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ai_task_processor.core.component import Problem
from ai_task_processor.core.ports import SkipReason
from ai_task_processor.ops.health import POLL_FAILED, SKIPPED, Snapshot, notes, state, unhealthy, unready, why_idle
from ai_task_processor.ops.metrics import STATES

WELL = Snapshot(draining=False, polled=True, tick_age_s=3.0, longest_tick_s=60.0, running=0, slots=5)
REFUSED = Problem("token_unavailable", "refused")
UNPOLLED = Problem(POLL_FAILED, "no token: refused")
FULL, DISK = Problem("outbox_full"), Problem("disk_full", "little is left")
DOWN = Problem("paused", "model is paused: down", ready=True)
PACED = Problem("paced", "tasks in slots wait for the model m", ready=True, when="running")
BEHIND = Problem("delivery_behind", "results wait", ready=True, when="free")
LIMITED = Problem("limited", "at most 1 of 5 slots", ready=True, when="paused")
UNWRITABLE = Problem("outbox_unwritable", "no commit", when="running")
NO_MODEL = Problem("no_model", "OPENAI_API_KEY is not set", ready=True, when="unserved")
PAUSED = "paused by an operator since noon"
SINK_OFF = Problem("sink_off", "KAFKA_BOOTSTRAP_SERVERS is not set", ready=True, when="never")
SNAPSHOTS = st.builds(
    Snapshot,
    draining=st.booleans(),
    polled=st.booleans(),
    tick_age_s=st.floats(0, 1_000),
    longest_tick_s=st.just(60.0),
    problems=st.lists(
        st.sampled_from([REFUSED, UNPOLLED, FULL, DISK, DOWN, PACED, BEHIND, LIMITED, NO_MODEL, SINK_OFF])
    ),
    running=st.integers(0, 5),
    slots=st.just(5),
    isolation=st.none() | st.just("one task runs isolated"),
    paused=st.none() | st.just("paused by an operator"),
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
    assert codes <= {"draining", "starting", "token_unavailable", "upstream_unavailable", "outbox_full", "disk_full"}
    assert state(snapshot) in STATES
    assert (state(snapshot) == "running") == (not reasons)
    assert (state(snapshot) == "draining") == snapshot.draining


@given(SNAPSHOTS)
def test_idleness_is_always_explained(snapshot: Snapshot) -> None:
    """With nothing running there is a sentence, whatever the state; with all slots taken there is none."""
    sentence = why_idle(snapshot)
    if snapshot.running == snapshot.slots:
        assert sentence == (PACED.message if PACED in snapshot.problems else None)
    elif snapshot.running == 0:
        assert sentence


@pytest.mark.parametrize(
    ("change", "reasons"),
    [
        ({}, []),
        ({"draining": True}, ["draining"]),
        ({"problems": [REFUSED]}, ["token_unavailable: refused"]),
        ({"problems": [UNPOLLED]}, ["upstream_unavailable: no token: refused"]),
        ({"problems": [FULL, DOWN, DISK]}, ["outbox_full", "disk_full: little is left"]),
        ({"running": 5, "tick_age_s": 9.0}, []),
        ({"problems": [DOWN, PACED, NO_MODEL]}, []),
        ({"skipped": {"unknown_type": 7}}, []),
    ],
)
def test_every_reason_why_work_does_not_flow_is_named(change: dict[str, Any], reasons: list[str]) -> None:
    """All of them, not the first one only; a full house, a paused model and unknown tasks are none."""
    assert unready(replace(WELL, **change)) == reasons


@pytest.mark.parametrize(
    ("change", "reasons", "word"),
    [
        ({}, ["starting"], "starting"),
        ({"problems": [FULL]}, ["starting", "outbox_full"], "degraded"),
        ({"draining": True}, ["draining"], "draining"),
        ({"problems": [REFUSED, UNPOLLED]},
         ["token_unavailable: refused", "upstream_unavailable: no token: refused"], "degraded"),
    ],
)  # fmt: skip
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
        ({"running": 1, "problems": [DOWN]}, "model is paused: down"),
        ({"running": 1, "isolation": "one task runs isolated", "problems": [DOWN]}, "one task runs isolated"),
        ({"running": 5, "isolation": "one task waits for the others to end"}, None),
        ({"problems": [DOWN, FULL]}, "outbox_full"),
        ({"problems": [PACED]}, "no task is pending"),
        ({"running": 5, "problems": [PACED]}, "tasks in slots wait for the model m"),
        ({"running": 1, "problems": [PACED, REFUSED]}, "token_unavailable: refused"),
        ({"running": 5, "problems": [PACED, REFUSED]}, "tasks in slots wait for the model m"),
        ({"skipped": {"unknown_type": 2, "running": 0}},
         "every listed task is skipped: 2 unknown_type (no processor here takes its type)"),
        ({"skipped": {"unknown_type": 2}, "problems": [NO_MODEL]}, "OPENAI_API_KEY is not set"),
        ({"skipped": {"deferred": 1, "dead_letter": 3}},
         ("every listed task is skipped: 1 deferred (it waits for its next attempt), "
          "3 dead_letter (its result was refused: see outbox list --dead)")),
        ({"skipped": {"made_up": 1}}, "every listed task is skipped: 1 made_up"),
        ({"polled": False}, "starting: the first poll has no answer yet"),
        ({"draining": True, "problems": [FULL]}, "draining: nothing new is claimed"),
        ({"polled": False, "problems": [DISK]}, "disk_full: little is left"),
        ({"next_poll_s": 12.4}, "no task is pending; next poll in 12 s"),
        ({"problems": [UNPOLLED], "next_poll_s": 12.4}, "upstream_unavailable: no token: refused; next poll in 12 s"),
        ({"skipped": {"stale": 1}, "next_poll_s": 0.0},
         "every listed task is skipped: 1 stale (it was acknowledged a moment ago); next poll within a second"),
        ({"read_ahead": 7}, "tasks are about to start: 7 are read ahead"),
        ({"released": 5, "next_poll_s": 2.0},
         "the tasks that started last were given back: see task.released in the log; next poll in 2 s"),
        ({"holding": True, "skipped": {"paused": 2}, "next_poll_s": 9.0},
         "nothing is claimed: every processor asks for a pause; next poll in 9 s"),
        ({"holding": True, "problems": [DOWN]}, "model is paused: down"),
        ({"problems": [BEHIND]}, "results wait"),
        ({"running": 1, "problems": [BEHIND]}, "results wait"),
        ({"running": 5, "problems": [BEHIND]}, None),
        ({"problems": [LIMITED], "skipped": {"paused": 2}}, "at most 1 of 5 slots"),
        ({"running": 1, "problems": [LIMITED], "skipped": {"paused": 2}}, "at most 1 of 5 slots"),
        ({"running": 1, "problems": [LIMITED]}, None),
        ({"problems": [LIMITED], "skipped": {"deferred": 1}},
         "every listed task is skipped: 1 deferred (it waits for its next attempt)"),
        ({"running": 5, "problems": [UNWRITABLE]}, "outbox_unwritable: no commit"),
        ({"problems": [UNWRITABLE]}, "outbox_unwritable: no commit"),
        ({"paused": PAUSED, "problems": [DOWN, FULL], "running": 4}, PAUSED),
        ({"paused": PAUSED, "running": 5}, None),
        ({"paused": PAUSED, "draining": True}, "draining: nothing new is claimed"),
    ],
)  # fmt: skip
def test_why_nothing_happens_is_one_sentence(change: dict[str, Any], sentence: str | None) -> None:
    """The most telling reason comes first."""
    assert why_idle(replace(WELL, **change)) == sentence


@pytest.mark.parametrize("polled", [True, False])
def test_a_pause_is_wanted(polled: bool) -> None:
    """It is a note and no reason, also in a daemon that was started paused; other reasons stay."""
    snapshot = replace(WELL, polled=polled, paused=PAUSED)
    assert (unready(snapshot), notes(snapshot), state(snapshot)) == ([], [f"paused_by_operator: {PAUSED}"], "running")
    assert unready(replace(snapshot, problems=[FULL])) == ["outbox_full"]


def test_a_sink_that_is_off_is_noted_and_explains_nothing() -> None:
    """Tasks are processed without it: what is paused explains more."""
    snapshot = replace(WELL, problems=[SINK_OFF, NO_MODEL])
    assert (unready(snapshot), notes(snapshot), why_idle(snapshot)) == ([], [str(SINK_OFF)], "no task is pending")
    assert notes(replace(WELL, problems=[DOWN, PACED, BEHIND, LIMITED, REFUSED])) == [str(DOWN)]


def test_every_reason_to_skip_a_task_has_words() -> None:
    assert SKIPPED.keys() == {*get_args(SkipReason)}
