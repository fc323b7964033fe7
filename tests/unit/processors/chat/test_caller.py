"""``ChatCaller``: turns, 429s, outages and messages that fail while others are served. In virtual time."""

import asyncio
import random
from collections.abc import AsyncIterator, Callable
from typing import TYPE_CHECKING

import pytest

from ai_task_processor.core.errors import (
    CallRefused,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    QuotaExhausted,
    RemoteError,
    TaskError,
    Throttled,
    TimedOut,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.ports import ChatAnswer, ChatRequest, Message
from ai_task_processor.models.task import Usage
from ai_task_processor.net.resilience import Retries
from ai_task_processor.ops.metrics import Metrics
from ai_task_processor.processors.chat import caller as module
from ai_task_processor.processors.chat import models
from ai_task_processor.processors.chat.caller import ChatCaller
from ai_task_processor.providers.circuits import ModelCircuits

if TYPE_CHECKING:
    from tests.unit.conftest import FakeClock

MODEL = "m"


class Model:
    """A chat model. ``fails`` returns the error for a text, None when it is served."""

    def __init__(self, clock: "FakeClock") -> None:
        self.clock = clock
        self.took_s = 1.0
        self.failed_after_s = 0.05
        self.calls: list[str] = []
        self.now = self.most = 0
        self.fails: Callable[[str], BaseException | None] = lambda _: None

    async def complete(self, request: ChatRequest) -> ChatAnswer:
        text = request.messages[0].content
        self.calls.append(text)
        self.now += 1
        self.most = max(self.most, self.now)
        try:
            error = self.fails(text)
            if error is not None:
                await self.clock.sleep(self.failed_after_s)
                raise error
            await self.clock.sleep(self.took_s)
        finally:
            self.now -= 1
        return ChatAnswer(text=f"re: {text}", finish="complete", usage=Usage(1, 1))


class Setting:
    """A caller with everything around it."""

    def __init__(self, clock: "FakeClock") -> None:
        self.clock = clock
        self.model = Model(clock)
        self.opened = 0
        self.metrics = Metrics(version="0", provider="openai", models=[MODEL])
        self.circuits = ModelCircuits(threshold=3, clock=clock, metrics=self.metrics, service="chat")
        self.caller = ChatCaller(
            self.model.complete,
            circuits=self.circuits,
            threshold=3,
            retries=Retries(2, 2.0),
            slots=8,
            clock=clock,
            metrics=self.metrics,
            opened=self._open,
        )

    def _open(self) -> None:
        self.opened += 1

    async def ask(self, text: str, model: str = MODEL) -> str:
        """The answer, or the name of the error."""
        request = ChatRequest(model=model, messages=[Message("user", text)], max_tokens=10)
        try:
            return (await self.caller.complete(request)).text
        except (RemoteError, TaskError) as error:
            return type(error).__name__

    async def ask_all(self, *texts: str) -> list[str]:
        return await asyncio.gather(*(self.ask(text) for text in texts))


@pytest.fixture
async def chat(clock: "FakeClock") -> AsyncIterator[Setting]:
    yield Setting(clock)
    assert not [task for task in asyncio.all_tasks() if task.get_name() == "chat-alarm"]


async def test_calls_run_side_by_side(chat: Setting) -> None:
    assert await chat.ask_all(*"abcdef") == [f"re: {text}" for text in "abcdef"]
    assert chat.model.most == 6


async def test_a_429_is_repeated_at_the_limiters_pace(chat: Setting) -> None:
    """No attempt is spent, and nothing is released, while the model serves in between."""
    rng = random.Random(1)
    await chat.ask("warm")
    chat.model.fails = lambda _: Throttled("429", status=429) if rng.random() < 0.3 else None
    texts = [f"t{number}" for number in range(60)]
    assert await chat.ask_all(*texts) == [f"re: {text}" for text in texts]
    assert chat.metrics.value("model_throttled_total", model=MODEL) == len(chat.model.calls) - 61 > 0


async def test_nothing_but_429s_pauses_the_model(chat: Setting, clock: "FakeClock") -> None:
    chat.model.fails = lambda _: Throttled("429", status=429)
    began = clock.monotonic()
    assert await chat.ask("a") == "CircuitOpen"
    assert clock.monotonic() - began <= module.ONLY_429S_S + 20
    assert chat.caller.lane_hold_s(MODEL, 0) > 0
    assert await chat.ask("b") == "CircuitOpen"


@pytest.mark.parametrize(
    "error",
    [
        Transient("503", status=503),
        Unsent("refused"),
        TimedOut("slow"),
        InvalidAnswer("html"),
        TypeError("a bug of the provider"),
        SystemExit(3),
    ],
    ids=lambda e: str(e),
)
async def test_a_short_fault_is_repeated(chat: Setting, error: BaseException) -> None:
    failures = iter([error, error, None])
    chat.model.fails = lambda _: next(failures)
    assert await chat.ask("a") == "re: a"
    assert len(chat.model.calls) == 3


async def test_an_answer_that_is_none_is_an_outage(clock: "FakeClock", monkeypatch: pytest.MonkeyPatch) -> None:
    """What a provider of another package gets wrong fails no task."""

    async def complete(_self: object, _request: object) -> None:
        await clock.sleep(1.0)

    monkeypatch.setattr(Model, "complete", complete)
    assert await Setting(clock).ask("a") == "InvalidAnswer"


async def test_an_outage_pauses_the_model_and_one_probe_ends_it(chat: Setting, clock: "FakeClock") -> None:
    """Three failures open the circuit; then nothing is called until the probe, and all run when it is served."""
    chat.model.fails = lambda _: Transient("503", status=503)
    results = await chat.ask_all(*"abcdefgh")
    assert set(results) <= {"Transient", "CircuitOpen"}
    assert len(chat.model.calls) <= 8 + 3
    assert chat.circuits.state == "open"
    assert chat.caller.hold_s() + chat.caller.lane_hold_s(MODEL, 0) > 0
    calls = len(chat.model.calls)
    await clock.sleep(chat.caller.lane_hold_s(MODEL, 0) + 0.1)
    chat.model.fails = lambda _: None
    assert await chat.ask("probe") == "re: probe"
    assert len(chat.model.calls) == calls + 1
    assert (chat.circuits.state, chat.caller.resumes_in_s()) == ("closed", float("inf"))
    assert chat.opened > 0
    assert await chat.ask_all(*"xyz") == ["re: x", "re: y", "re: z"]


@pytest.mark.parametrize(
    "error",
    [Unauthorized("401", status=401), Misconfigured("404", status=404), ModelRefused("unknown", status=404)],
    ids=lambda e: type(e).__name__,
)
async def test_a_wrong_configuration_pauses_at_once(chat: Setting, error: RemoteError) -> None:
    chat.model.fails = lambda _: error
    assert await chat.ask("a") == type(error).__name__
    assert await chat.ask("b") == "CircuitOpen"
    assert len(chat.model.calls) == 1


async def test_an_empty_account_is_tried_again_soon(chat: Setting, clock: "FakeClock") -> None:
    chat.model.fails = lambda _: QuotaExhausted("empty", status=429)
    assert await chat.ask("a") == "QuotaExhausted"
    hold_s = chat.caller.lane_hold_s(MODEL, 0)
    assert hold_s > 0
    await clock.sleep(hold_s + 0.1)
    chat.model.fails = lambda _: None
    assert await chat.ask("b") == "re: b"


def refused(*, explained: bool) -> CallRefused:
    final = InputRefused("input_refused", "the model refuses this text")
    return CallRefused("the model API answered 400", status=400, final=final, explained=explained)


async def test_a_text_that_is_refused_with_a_reason_ends(chat: Setting) -> None:
    chat.model.fails = lambda text: refused(explained=True) if text == "bad" else None
    assert await chat.ask_all("a", "bad", "b") == ["re: a", "InputRefused", "re: b"]


async def test_a_refusal_without_a_reason_counts_when_others_are_served(chat: Setting, clock: "FakeClock") -> None:
    """Three times, with others served meanwhile; between them it is set aside and costs nothing."""
    chat.model.fails = lambda text: refused(explained=False) if text == "bad" else None
    chat.model.took_s = 0.01
    outcomes = []
    for _ in range(3):
        outcomes.append((await chat.ask_all("bad", "a"))[0])
        if outcomes[-1] == "SetAside":
            calls = chat.model.calls.count("bad")
            assert await chat.ask("bad") == "SetAside"
            assert chat.model.calls.count("bad") == calls
        await clock.sleep(60.0)
    assert outcomes == ["SetAside", "SetAside", "InputRefused"]
    assert chat.model.calls.count("bad") == 3


async def test_a_model_that_refuses_everything_fails_no_text(chat: Setting, clock: "FakeClock") -> None:
    chat.model.fails = lambda _: refused(explained=False)
    for _ in range(10):
        assert set(await chat.ask_all(*"abcd")) <= {"CallRefused", "CircuitOpen"}
        await clock.sleep(30.0)


async def test_a_text_that_always_times_out_does_not_stop_the_others(chat: Setting, clock: "FakeClock") -> None:
    """It is set aside for longer and longer, and never ends ``failed``: nobody has said that it is at fault."""
    chat.model.fails = lambda text: TimedOut("no answer in time") if text == "bad" else None
    chat.model.failed_after_s = 5.0
    bad = asyncio.create_task(chat.ask("bad"))
    for number in range(20):
        assert await chat.ask(f"t{number}") == f"re: t{number}"
    assert await bad == "SetAside"
    aside = chat.caller.status()["chat"]
    assert isinstance(aside, dict)
    assert "1 texts fail alone" in str(aside["set_aside"])


async def test_a_cancelled_call_leaves_no_trace(chat: Setting, clock: "FakeClock") -> None:
    """Neither one that runs nor one that waits; the next has its turn."""
    chat.model.fails = lambda _: Throttled("429", status=429)
    tasks = [asyncio.create_task(chat.ask(text)) for text in "abc"]
    await clock.sleep(2.0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    chat.model.fails = lambda _: None
    await clock.sleep(10.0)
    assert await chat.ask("d") == "re: d"
    assert chat.caller.problems() == []


def test_a_model_that_was_never_served_takes_a_quarter_of_the_slots(chat: Setting) -> None:
    assert [chat.caller.lane_hold_s("new", running) > 0 for running in (0, 1, 2, 3)] == [False, False, True, True]


async def test_what_tasks_in_slots_wait_for_is_named(
    chat: Setting, clock: "FakeClock", monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pause between two attempts, and the share of a model that was never served; nothing once it is served."""
    monkeypatch.setattr(Retries, "again_in_s", lambda *_: 5.0)
    chat.model.fails = lambda _: Transient("the model API answered 503", status=503)
    task = asyncio.create_task(chat.ask("a"))
    await clock.sleep(1.0)
    assert chat.caller.lane_hold_s(MODEL, 2) > 0
    why = {problem.code: (problem.when, problem.message) for problem in chat.caller.problems()}
    failed = "its last call failed (the model API answered 503) and is made again"
    assert why == {
        "retrying": ("running", f"tasks in slots wait for the model m: {failed}"),
        "limited": ("paused", "at most 2 of 8 slots are for the model m: it answers no calls yet"),
    }
    chat.model.fails = lambda _: None
    assert await task == "re: a"
    assert chat.caller.problems() == []


async def test_tasks_in_slots_that_wait_for_a_pause_say_so(chat: Setting, clock: "FakeClock") -> None:
    """They came before it began; the sentence has its reason and its end."""
    chat.model.fails = lambda _: Throttled("429", status=429)
    tasks = [asyncio.create_task(chat.ask(text)) for text in "abc"]
    await clock.sleep(2.0)
    passage = chat.circuits.enter(MODEL)
    chat.circuits.hold(passage, Unauthorized("the model API answered 401"))
    chat.circuits.leave(passage)
    (problem,) = [problem for problem in chat.caller.problems() if problem.when == "running"]
    reason = "the model API answered 401, next try in 10 s"
    assert problem.message == f"tasks in slots wait for the model m: {reason}"
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_too_many_models_at_once(chat: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Idle ones make room; their names come from tasks."""
    monkeypatch.setattr(models, "MAX_MODELS", 2)
    assert await asyncio.gather(*(chat.ask("x", name) for name in "abc")) == ["re: x", "re: x", "CircuitOpen"]
    assert await chat.ask("x", "c") == "re: x"


async def test_what_is_no_unicode_is_the_tasks_fault(chat: Setting) -> None:
    assert await chat.ask("\ud800") == "InputRefused"
    assert await chat.ask("text", "\ud800") == "InputRefused"
    assert chat.model.calls == []


async def test_messages_with_which_a_probe_failed_give_way(chat: Setting, clock: "FakeClock") -> None:
    """A pause ends although the same bad messages come first after each wait."""
    chat.model.fails = lambda _: Transient("503", status=503)
    await chat.ask_all(*"abcdef")
    chat.model.fails = lambda text: refused(explained=False) if text == "bad" else None
    answers = []
    for _ in range(6):
        await clock.sleep(chat.caller.lane_hold_s(MODEL, 0) + 0.1)
        answers.append(await chat.ask_all("bad", "good"))
    assert ["CircuitOpen", "re: good"] in answers[:3]
    assert [good for _, good in answers[-3:]] == ["re: good"] * 3
