"""What real model APIs do: every row of ``habit_rows`` over a socket, in the small. ``tests/bench/habits.py`` has the
same rows with the real daemon."""

from collections import Counter
from dataclasses import replace
from math import ceil, log2
from pathlib import Path

import pytest

from ai_task_processor.core.errors import CallRefused
from ai_task_processor.net import resilience
from ai_task_processor.providers import set_aside
from ai_task_processor.providers.memory import ModelMemory
from tests.contract.habit_rows import BAD, ROWS, TOO_LARGE_CALL, Row, Scale, Tasks, mixed, openai
from tests.contract.model_habits import Answer, Ask, Crowd, Job, ModelServer, Report

#: for how long a fault lasts that passes, seconds
WINDOW_S = 0.8
#: longest pauses, so that several fit into a test, seconds
SHORT = (0.2, 0.8)


def split(report: Report) -> tuple[list[Job], list[Job]]:
    """The good tasks, and those at fault."""
    bad = [job for job in report.jobs if BAD in job.text]
    return [job for job in report.jobs if BAD not in job.text], bad


def met(row: Row, report: Report) -> bool:
    """Are all good tasks done, and have those at fault met their fate?"""
    good, bad = split(report)
    if any(job.outcome is None for job in good):
        return False
    match row.fate:
        case "aside":
            told = all((job.reason or "").startswith("set aside") for job in bad)
            return told and "(task " in report.said["aside"].get("m", "")
        case "paused":
            return "bad" in report.said["paused"]
        case "paced":
            return "bad" in {**report.said["paced"], **report.said["paused"]}
    return all(job.outcome is not None for job in bad)


async def play(row: Row, server: ModelServer, memory: ModelMemory | None = None) -> Report:
    async with server.open() as url:
        crowd = Crowd(url, row.slots, timeout_s=row.timeout_s, memory=memory, dimensions=row.dimensions)
        tasks = row.tasks(row.count, row.bad)
        return await crowd.work(tasks, row.seconds, lambda report: met(row, report))


def most_calls(row: Row) -> int:
    """No more calls than this, where the row says nothing else: a bisection for each text at fault, and some."""
    return 20 + row.count * 5 // (4 * min(row.slots, 8)) + 16 * row.bad if row.calls is None else row.calls


def check(row: Row, server: ModelServer, report: Report) -> None:
    good, bad = split(report)
    assert Counter(job.outcome for job in good) == ({"done": len(good)} if good else {})
    assert report.wrong == 0
    assert met(row, report), ([job.reason for job in bad], report.said)
    if row.fate in ("aside", "paused", "paced"):
        assert {job.outcome for job in bad} <= {None}
    else:
        assert {job.outcome for job in bad} <= {row.fate}
    assert len(server.asked) <= most_calls(row)
    assert row.refused is None or server.refused <= row.refused


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.name)
async def test_good_tasks_are_done_whatever_the_model_api_does(row: Row) -> None:
    """All good tasks are done and none fails, no vector is wrong, those at fault meet their fate, in few calls."""
    server = ModelServer(row.habit(Scale(row.timeout_s, WINDOW_S)))
    check(row, server, await play(row, server))


CAPS = [row for row in TOO_LARGE_CALL if row.refused is not None]


@pytest.mark.parametrize("row", CAPS, ids=lambda row: row.name)
async def test_a_cap_is_remembered_over_a_restart(row: Row, tmp_path: Path) -> None:
    """A cap costs at most log2 n + 3 refused calls, none once it is known, and none after a restart."""
    servers = [ModelServer(row.habit(Scale(row.timeout_s, WINDOW_S))) for _ in range(2)]
    for server, count in zip(servers, (3 * row.count, row.count), strict=True):
        again = replace(row, count=count)
        check(again, server, await play(again, server, ModelMemory(tmp_path)))
    first, second = servers
    assert first.refused <= ceil(log2(row.slots)) + 3
    assert not [number for number in first.refused_calls if number >= 0.8 * len(first.asked)]
    assert second.refused == 0


async def test_a_model_that_is_well_holds_no_task_back() -> None:
    """A task that was answered is in its slot for a moment: as many may start as there are slots, and a quarter of
    them of a model that was never served."""
    held: list[float] = []
    server = ModelServer(lambda _: None)
    async with server.open() as url:
        crowd = Crowd(url, 32)
        held += [crowd.batcher.lane_hold_s("m", running) for running in (7, 8)]

        def done(report: Report) -> bool:
            finished = all(job.outcome for job in report.jobs)
            held.extend(crowd.batcher.lane_hold_s("m", 32) for _ in range(finished))
            return finished

        await crowd.work(mixed(64, 0), 20.0, done)
    assert [hold_s > 0 for hold_s in held] == [False, True, False]


FAILURES = {
    "500": Answer(500, b"Internal Server Error"),
    "400": openai(400),
    "422 detail": Answer(422, {"detail": "no"}),
    "200 with an error": Answer(200, {"error": {"message": "no", "code": 500}}),
    "a page": Answer(200, b"<html></html>"),
    "a cut connection": Answer(200, {"data": []}, cut=True),
    "403 page": Answer(403, b"<html></html>"),
    "an unknown model": openai(404, "The model `m` does not exist", code="model_not_found"),
    "a hang": Answer(after_s=None),
}


@pytest.mark.parametrize("served", [0, 3], ids=["from the start", "after some calls"])
@pytest.mark.parametrize("answer", FAILURES.values(), ids=FAILURES.keys())
async def test_an_outage_is_clear_after_few_calls(answer: Answer, served: int) -> None:
    """A model that fails for every text is paused after about log2 n calls, whether it was served before or not."""
    slots = 32
    server = ModelServer(lambda ask: answer if ask.number >= served else None)
    async with server.open() as url:
        crowd = Crowd(url, slots, timeout_s=0.2)
        report = await crowd.work(mixed(400, 0), 20.0, lambda report: "m" in report.said["paused"])
    # Each form of the request is tried once, where the first is refused (``openai_api``).
    assert len(server.asked) - served <= ceil(log2(slots)) + 2
    assert {job.outcome for job in report.jobs} <= {"done", None}


@pytest.fixture
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resilience, "OPEN_S", SHORT)
    monkeypatch.setattr(CallRefused, "pause_s", SHORT)


async def probes_of(first: int, answer: Answer, tasks: Tasks, count: int = 3) -> list[Ask]:
    """The calls that failed from the first pause on: ``count``. In the end all tasks are done.

    Everything is answered so from the call ``first`` on.
    """
    paused_after: list[int] = []

    def ill(ask: Ask) -> Answer | None:
        over = paused_after and ask.number >= paused_after[0] + count
        return answer if ask.number >= first and not over else None

    def done(report: Report) -> bool:
        if report.said["paused"] and not paused_after:
            paused_after.append(len(server.asked))
        return all(job.outcome for job in report.jobs)

    server = ModelServer(ill)
    async with server.open() as url:
        report = await Crowd(url, 32).work(tasks, 20.0, done)
    assert {job.outcome for job in report.jobs} == {"done"}
    return [server.asked[number] for number in server.refused_calls if number >= paused_after[0]]


@pytest.mark.usefixtures("short_pauses")
@pytest.mark.parametrize("name", ["500", "400"])
async def test_each_probe_is_one_text_and_another_one(name: str) -> None:
    """A paused model is asked with one text at a time, never with the same; once it is served all goes on."""
    probes = await probes_of(3, FAILURES[name], [(f"text {i}", "m") for i in range(300)])
    assert len(probes) == 3
    assert {len(probe.texts) for probe in probes} == {1}
    assert len({probe.texts[0] for probe in probes}) == len(probes)


@pytest.mark.usefixtures("short_pauses")
async def test_a_model_with_one_task_comes_back_by_a_text_of_ours() -> None:
    """A task that was a probe in vain is not the next one, even when there is no other."""
    probes = await probes_of(0, FAILURES["400"], [("text", "m")])
    assert [probe.texts for probe in probes][:2] == [["text"], ["ok"]]
    assert {probe.texts[0] for probe in probes[1:]} == {"ok"}


async def test_a_paused_model_with_texts_at_fault_only_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """Texts that are set aside are no probes: a text of ours is."""
    monkeypatch.setattr(set_aside, "FIRST_S", 0.5)
    aside = broke = paused = False

    def habit(ask: Ask) -> Answer | None:
        nonlocal broke
        if aside and not broke:
            broke = True
            return openai(402, "Insufficient credits", code="insufficient_quota")
        return FAILURES["500"] if ask.has(BAD) else None

    def done(report: Report) -> bool:
        nonlocal aside, paused
        good, bad = split(report)
        reasons = [job.reason or "" for job in bad]
        aside |= all(job.outcome for job in good) and all(reason.startswith("set aside") for reason in reasons)
        paused |= "m" in report.said["paused"]
        return paused and not report.said["paused"]

    server = ModelServer(habit)
    async with server.open() as url:
        report = await Crowd(url, 8).work(mixed(60, 3), 20.0, done)
    assert paused
    assert not report.said["paused"]
    assert ["ok"] in [ask.texts for ask in server.asked[-3:]]
