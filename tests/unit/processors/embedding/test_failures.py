"""What becomes of texts, and of their model, when calls fail: only what is at fault is held or refused."""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ai_task_processor.core.errors import (
    Ambiguous,
    CallRefused,
    CircuitOpen,
    InputRefused,
    InvalidAnswer,
    Misconfigured,
    ModelRefused,
    QuotaExhausted,
    RemoteError,
    SetAside,
    TimedOut,
    Transient,
    Unauthorized,
    Unsent,
)
from ai_task_processor.core.ports import Embeddings
from ai_task_processor.models.task import Embedded, Usage, Vector
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.lane import WITNESS
from tests.unit.conftest import FakeClock
from tests.unit.processors.embedding.house import EXAMPLES, After, Ask, Habit, errors, refused, texts, vector
from tests.unit.processors.embedding.server import Busy

DOWN = Transient("the model API answered 500", status=500)
FILTERED = CallRefused("filtered", status=400, final=InputRefused("content_filtered"), explained=True)
LONG = CallRefused("long", status=400, final=InputRefused("text_too_long"), explained=True, too_large=True)
NO_KEY = Unauthorized("401", status=401)
NOT_FOUND = Misconfigured("404")
QUOTA = QuotaExhausted("quota")
UNKNOWN = ModelRefused("unknown")
PAGE = CallRefused("the model API answered 403", status=403)


def blaming(outcome: Exception | After, *culprits: str) -> Habit:
    """Calls with one of these texts end so, others are served."""
    return lambda ask: outcome if ask.has(*culprits) else None


def until(seconds: float, error: Exception) -> Habit:
    """All calls fail that begin before then."""
    return lambda ask: error if ask.at < seconds else None


def after_good(outcome: Exception | After) -> Habit:
    """Calls of texts named good are served, all others end so; the witness with them."""
    return lambda ask: None if ask.texts[0].startswith("good") else outcome


def right(text: str, answer: Embedded | BaseException) -> bool:
    return isinstance(answer, Embedded) and answer.vector == vector(text)


def payments(calls: Iterable[Ask]) -> set[int]:
    """How often these calls paid for a text that is not ours."""
    return set(Counter(text for ask in calls for text in ask.texts if text != WITNESS).values())


def delays(answers: Sequence[Embedded | BaseException]) -> set[float | None]:
    return {answer.retry_after_s for answer in answers if isinstance(answer, RemoteError)}


# --- texts at fault among others


@settings(EXAMPLES, max_examples=40)
@given(size=st.integers(2, 64), data=st.data())
async def test_exactly_the_texts_at_fault_are_refused(size: int, data: st.DataObject) -> None:
    """Any three tenths of a batch: each culprit is refused, all others are served, and paid once, in few calls.

    When the first six calls all meet culprits the model pauses: then those who were told to come back do.
    """
    wanted = texts(size)
    culprits = data.draw(st.sets(st.sampled_from(wanted), min_size=1, max_size=max(1, size * 3 // 10)))
    error = data.draw(st.sampled_from([refused(), FILTERED, LONG]))
    async with Busy(FakeClock(), blaming(error, *culprits)).open() as house:
        ended: dict[str, Embedded | BaseException] = {}
        for _ in range(12):
            left = [text for text in wanted if text not in ended]
            answers = await house.embed(*left)
            paused = [answer for answer in answers if isinstance(answer, CircuitOpen | SetAside)]
            ended |= {text: answer for text, answer in zip(left, answers, strict=True) if answer not in paused}
            if not paused:
                break
            await house.rest(paused)
        for text in wanted:
            assert isinstance(ended[text], InputRefused) if text in culprits else right(text, ended[text])
        assert payments(ask for ask in house.asked if not ask.has(*culprits)) <= {1}, "nobody is paid for twice"
        assert len(house.asked) <= size + 4 * len(culprits) + (size - 1).bit_length() + 12
        assert house.batcher.paused() == house.batcher.offenders() == {}


@pytest.mark.parametrize("place", [0, 0.5, 0.999])
@pytest.mark.parametrize("size", [8, 16, 33, 64, 65, 500])
async def test_one_culprit_is_found_in_two_calls_a_level(clock: FakeClock, size: int, place: float) -> None:
    """Of any number of texts, wherever it stands: about two calls for each time that the texts can be halved."""
    async with Busy(clock, blaming(FILTERED, f"t{int(place * size)}")).open() as house:
        answers = await house.embed(*texts(size))
        assert Counter(errors(answers)) == {Embedded: size - 1, InputRefused: 1}
        assert len(house.asked) <= 2 * (size - 1).bit_length() + 6
        splits = [ask for ask in house.asked if len(ask.texts) > 1 and ask.has(f"t{int(place * size)}")]
        assert house.metrics.value("batch_isolations_total") == len(splits)


@pytest.mark.parametrize(
    ("outcome", "code"),
    [
        (refused(), "input_refused"),
        (FILTERED, "content_filtered"),
        (LONG, "text_too_long"),
        (InputRefused("other_code", "of another provider"), "other_code"),
        (PAGE, None),
        (CallRefused("the model API answered 424", status=424), None),
        (CallRefused("the model API answered 200 with an error", status=200), None),
        (DOWN, None),
        (InvalidAnswer("another number of vectors than texts"), None),
        (Ambiguous("the connection was reset"), None),
        (After(5.0, TimedOut("no answer within 5 s")), None),
        (After(5.0, Transient("the model API answered 524", status=524)), None),
        (Unauthorized("403", status=403), None),
        (Misconfigured("404", status=404), None),
        (ModelRefused("the provider refuses the parameter model", status=400), None),
    ],
    ids=repr,
)
async def test_each_kind_of_failure_ends_its_own_texts_only(
    clock: FakeClock, outcome: Exception | After, code: str | None
) -> None:
    """Two of 32 texts fail, of a model that was served before: all others are served, and the two are refused for good
    when the model refuses its input, and set aside otherwise. The model stays open."""
    culprits = "t5", "t20"
    async with Busy(clock, blaming(outcome, *culprits)).open() as house:
        await house.embed("good")
        for text, answer in zip(texts(32), await house.embed(*texts(32)), strict=True):
            if text not in culprits:
                assert right(text, answer)
            elif code is None:
                assert isinstance(answer, SetAside)
                assert answer.retry_after_s == 15
            else:
                assert isinstance(answer, InputRefused)
                assert answer.code == code
        assert (house.batcher.paused(), house.circuits.state, house.circuits.wait_s("m")) == ({}, "closed", 0)
        assert list(house.batcher.offenders()) == ([] if code else ["m"])
        assert errors(await house.embed("good again")) == [Embedded]


@pytest.mark.parametrize("error", [refused(), DOWN, After(5.0, TimedOut("no answer"))], ids=repr)
async def test_who_has_left_is_not_asked_for(clock: FakeClock, error: Exception | After) -> None:
    """While texts at fault are looked for, those whose tasks have gone are left out of the calls that follow."""
    async with Busy(clock, blaming(error, "bad")).open() as house:
        tasks = {text: asyncio.create_task(house.batcher.embed(text, "m")) for text in ("a", "b", "c", "bad")}
        await house.clock.sleep(0.5)
        for text in ("a", "b"):
            tasks[text].cancel()
        await asyncio.wait(tasks.values())
        assert [sorted(ask.texts) for ask in house.asked[:1]] == [["a", "b", "bad", "c"]]
        assert len(house.of("a")) == len(house.of("b")) == 1
        assert right("c", tasks["c"].result())
        assert tasks["bad"].exception() is not None


async def test_when_all_have_left_nothing_is_asked(clock: FakeClock) -> None:
    """A search, a text in doubt and its witness end with their tasks."""
    async with Busy(clock, lambda ask: refused()).open() as house:
        for count in (8, 1):
            house.forget()
            tasks = [asyncio.create_task(house.batcher.embed(text, "m")) for text in texts(count, f"{count}-")]
            await house.clock.sleep(0.5)
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)
            await house.clock.sleep(60)
            assert house.sizes == [count]
            lane = house.batcher._lanes["m"]
            assert (len(lane.texts), lane.waiting, lane.served, lane.calls.running) == (0, 0, False, [])


@pytest.mark.parametrize("kind", [DOWN, Unsent("refused"), NO_KEY, QuotaExhausted("q")], ids=repr)
@pytest.mark.parametrize("calls", range(2, 10))
async def test_an_outage_in_a_search_takes_nothing_back(clock: FakeClock, calls: int, kind: RemoteError) -> None:
    """Whenever it comes: who was served or refused stays so, nobody else is refused, and nobody is paid for twice."""
    culprits = "t3", "t12"

    def habit(ask: Ask) -> Exception | None:
        if ask.number >= calls and ask.at < 60:
            return kind
        return refused() if ask.has(*culprits) else None

    async with Busy(clock, habit).open() as house:
        ended: dict[str, Embedded | BaseException] = {}
        left = texts(16)
        for _ in range(40):
            answers = await house.embed(*left)
            for text, answer in zip(left, answers, strict=True):
                if isinstance(answer, InputRefused | Embedded):
                    ended[text] = answer
                else:
                    assert isinstance(answer, RemoteError)
            left = [text for text in left if text not in ended]
            if not left:
                break
            await house.clock.sleep(max(15.0, house.circuits.wait_s("m")))
        assert {text for text, answer in ended.items() if isinstance(answer, InputRefused)} == set(culprits)
        assert all(right(text, answer) for text, answer in ended.items() if text not in culprits)
        assert payments(ask for ask in house.asked if habit(ask) is None) == {1}


async def test_a_bug_in_a_call_harms_its_batch_only(clock: FakeClock) -> None:
    """An exception nobody expected is told in the log, gives the batch back, and the next one goes on."""
    async with Busy(clock, blaming(ZeroDivisionError("what a text may have said"), "a")).open() as house:
        with capture_logs() as lines:
            answers = await house.embed("a", "b")
        assert errors(answers) == [Transient] * 2
        assert "text" not in str(answers[0])
        assert [line["event"] for line in lines] == ["model.crashed"]
        assert errors(await house.embed("b")) == [Embedded]
        assert len(house.batcher._lanes["m"].texts) == 0


async def test_a_trickle_is_not_held_back(clock: FakeClock) -> None:
    """After a burst has gone, lone tasks that follow each other closely leave at once."""
    async with Busy(clock).open() as house:
        await house.embed(*texts(9))
        await house.clock.sleep(1)
        for text in texts(5, "lone"):
            began_at = house.now
            await house.embed(text)
            assert house.asked[-1].at == began_at
            await house.clock.sleep(0.01)


# --- a refusal that does not say why


@pytest.mark.parametrize("before", [0, 1])
async def test_a_lone_text_is_refused_with_the_help_of_ours(clock: FakeClock, before: int) -> None:
    """Three times refused, and ours is served after each: it was the text. Ours costs a token."""
    async with Busy(clock, blaming(refused(), "bad")).open() as house:
        await house.prepare(*texts(before, "good"))
        (answer,) = await house.embed("bad")
        assert isinstance(answer, InputRefused)
        assert answer.code == "input_refused"
        assert [ask.texts for ask in house.asked] == [["bad"], [WITNESS]] * 3


async def test_others_are_the_witnesses_when_there_are_any(clock: FakeClock) -> None:
    async with Busy(clock, blaming(refused(), "bad")).open() as house:
        others = [house.embed(f"{number}", after_s=number / 2) for number in range(20)]
        (answer,), *answers = await asyncio.gather(house.embed("bad"), *others)
        assert isinstance(answer, InputRefused)
        assert [errors(served) for served in answers] == [[Embedded]] * 20
        assert not house.of(WITNESS)
        assert len([ask for ask in house.of("bad") if len(ask.texts) == 1]) == 3


async def test_a_lone_text_and_a_witness_that_are_refused_are_nobodys_fault(clock: FakeClock) -> None:
    """The model refuses everything: it pauses, the text is given back, and is served later."""
    async with Busy(clock, until(30, refused())).open() as house:
        (answer,) = await house.embed("good")
        assert isinstance(answer, CircuitOpen)
        assert answer.retry_after_s == 1
        assert [ask.texts for ask in house.asked] == [["good"], [WITNESS]]
        assert list(house.batcher.paused()) == ["m"]


@pytest.mark.parametrize("error", [DOWN, NO_KEY, QUOTA], ids=repr)
async def test_a_witness_that_fails_otherwise_proves_nothing(clock: FakeClock, error: RemoteError) -> None:
    """A refusal, then an outage: the text is not refused for it."""
    outcomes = {0: refused()}
    async with Busy(clock, lambda ask: outcomes.get(ask.number, error if ask.at < 60 else None)).open() as house:
        (answer,) = await house.embed("good")
        assert isinstance(answer, RemoteError)
        assert list(house.batcher.paused()) == ["m"]


@pytest.mark.parametrize("good_calls", range(8))
@pytest.mark.parametrize("culprit", [None, "t13"])
async def test_a_budget_that_ends_in_a_search_fails_nobody(
    clock: FakeClock, good_calls: int, culprit: str | None
) -> None:
    """Some good calls, then 400 for everything: what was served before proves nothing for later."""
    served_calls = 0

    def habit(ask: Ask) -> Exception | None:
        nonlocal served_calls
        if (culprit is not None and ask.has(culprit)) or (served_calls >= good_calls and ask.at < 600):
            return refused()
        served_calls += 1
        return None

    async with Busy(clock, habit).open() as house:
        tasks = [(text, "m") for text in texts(64)]
        ended = await house.work(tasks, slots=64, seconds=300)
        assert not {end for text, (end, _) in ended.items() if text != culprit} - {"done"}
        ended |= await house.work([task for task in tasks if task[0] not in ended], slots=64, seconds=1200)
        failed = {text: end for text, (end, _) in ended.items() if end != "done"}
        assert failed in ({}, {culprit: "input_refused"} if culprit else {})
        assert sum(end == "done" for end, _ in ended.values()) >= 64 - (culprit is not None)


async def endure(clock: FakeClock, windows: Sequence[tuple[float, float]], tasks: int, slots: int, left: int) -> None:
    """All is refused for some seconds, after some seconds in which all is served, again and again."""
    bad, at = [], 0.0
    for calm_s, trouble_s in windows:
        bad.append((at + calm_s, at + calm_s + trouble_s))
        at += calm_s + trouble_s

    def habit(ask: Ask) -> Exception | None:
        return refused() if any(start <= ask.at < end for start, end in bad) else None

    async with Busy(clock, habit, takes_s=0.3).open() as house:
        ended = await house.work([(text, "m") for text in texts(tasks)], slots=slots, seconds=at + 400)
        assert {end for end, _ in ended.values()} == {"done"}, "nobody fails"
        assert len(ended) >= tasks - left


@settings(EXAMPLES, max_examples=10)
@given(windows=st.lists(st.tuples(st.floats(4, 20), st.floats(4, 60)), min_size=1, max_size=6))
async def test_windows_of_refusals_fail_nobody(windows: list[tuple[float, float]]) -> None:
    """A model that refuses everything now and then: all are served, except those that were a probe just before."""
    await endure(FakeClock(), windows, tasks=400, slots=6, left=6)


async def test_a_window_of_refusals_does_not_keep_the_last_task(clock: FakeClock) -> None:
    """It was the probe of a pause, and nobody else is left to be the next."""
    await endure(clock, [(17.5, 4.0)], tasks=60, slots=1, left=0)


async def test_texts_at_fault_at_the_head_of_the_list_do_not_stop_the_rest(clock: FakeClock) -> None:
    """Twelve refused texts before thirty good ones, five slots: the good ones are served within half a minute."""
    bad = texts(12, "bad")
    async with Busy(clock, blaming(refused(), *bad), takes_s=0.2).open() as house:
        tasks = [(text, "m") for text in [*bad, *texts(30)]]
        ended = await house.work(tasks, slots=5, seconds=1800)
        assert {end for text, (end, _) in ended.items() if text in bad} <= {"input_refused"}
        assert max(at for text, (_, at) in ended.items() if text not in bad) < 30


# --- a model that serves nobody


@pytest.mark.parametrize(
    ("outcome", "before", "calls", "pauses", "circuit"),
    [
        (refused(), False, 6, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], "closed"),
        (refused(), True, 6, [1, 2, 4], "closed"),
        (PAGE, False, 6, [1, 2, 4], "closed"),
        (UNKNOWN, False, 1, [10, 20, 40, 80, 160, 300, 300], "closed"),
        (UNKNOWN, True, 6, [10, 20, 40], "closed"),
        (NOT_FOUND, False, 1, [10, 20, 40, 80, 160, 300, 300], "closed"),
        (NOT_FOUND, True, 6, [10, 20, 40], "closed"),
        (NO_KEY, False, 1, [10, 20, 40, 80, 160, 300, 300], "closed"),
        (NO_KEY, True, 1, [10, 20, 40], "closed"),
        (Unauthorized("403", status=403), False, 1, [10, 20, 40], "closed"),
        (Unauthorized("403", status=403), True, 6, [10, 20, 40], "closed"),
        (QUOTA, False, 1, [300, 300, 300], "closed"),
        (QUOTA, True, 1, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300], "closed"),
        (DOWN, False, 6, [10, 20, 30, 30], "open"),
        (DOWN, True, 6, [10, 20, 30, 30], "open"),
        (InvalidAnswer("HTML"), False, 6, [10, 20, 30, 30], "open"),
        (Ambiguous("reset"), False, 6, [10, 20, 30, 30], "open"),
    ],
    ids=repr,
)
async def test_everybody_is_told_when_to_come_back(
    clock: FakeClock, outcome: RemoteError, before: bool, calls: int, pauses: list[float], circuit: str
) -> None:
    """64 texts, all of which fail: after few calls all are told one time, which doubles with each probe of one text;
    nobody fails, nobody is asked for meanwhile, the condition is named and told when it begins and ends."""
    async with Busy(clock, after_good(outcome)).open() as house:
        if before:
            await house.prepare("good")
        with capture_logs() as lines:
            for number, pause_s in enumerate(pauses):
                answers = await house.embed(*texts(64, f"{number}-"))
                assert set(errors(answers)) == {CircuitOpen}
                assert {round(delay_s or 0, 6) for delay_s in delays(answers)} == {pause_s}
                assert len(house.asked) == calls
                assert number == 0 or house.sizes == [1]
                assert list(house.batcher.paused()) == ["m"]
                assert str(house.circuits.state) == circuit
                assert house.batcher.resumes_in_s() == house.batcher.lane_hold_s("m", 0) == pytest.approx(pause_s)
                assert set(errors(await house.embed("meanwhile", "good"))) == {CircuitOpen}
                assert len(house.asked) == calls
                calls = 1
                house.forget()
                await house.clock.sleep(pause_s)
            house.model.habit = lambda ask: None
            assert errors(await house.embed("good")) == [Embedded]
        assert house.batcher.paused() == {}
        assert (house.circuits.state, house.batcher.lane_hold_s("m", 0)) == ("closed", 0)
        said = [line["event"] for line in lines if line["log_level"] != "debug"]
        assert said[-1] in ("remote.resumed", "breaker.closed")
        assert len(said) <= 3


@pytest.mark.parametrize("size", [2, 3, 5, 32, 64, 100, 1000, 2048])
@pytest.mark.parametrize("error", [DOWN, refused(), InvalidAnswer("HTML")], ids=repr)
async def test_an_outage_is_clear_after_few_calls(clock: FakeClock, size: int, error: RemoteError) -> None:
    """About log₂ n and two calls, each of which carries less, in seconds; nobody is called at fault."""
    async with Busy(clock, lambda ask: error, takes_s=0.1).open() as house:
        house.intake.slots = size
        answers = await house.embed(*texts(size))
        assert set(errors(answers)) <= {CircuitOpen, type(error)}
        assert errors(answers).count(CircuitOpen) >= size - 1
        assert len(house.asked) <= (size - 1).bit_length() + 4
        assert len(house.asked) <= 8
        assert house.now < 12
        first = house.sizes[: house.sizes.index(1) + 1]
        assert all(after <= -(-before // 2) for before, after in pairwise(first))


async def test_unsent_calls_are_repeated_whole(clock: FakeClock) -> None:
    """A refused connection says nothing about texts: the call waits, is repeated as it was, and then is given back."""
    async with Busy(clock, until(2.5, Unsent("refused"))).open() as house:
        assert set(errors(await house.embed(*texts(16)))) == {Embedded}
        assert set(house.sizes) == {16}
        assert 2 <= len(house.asked) <= 5
    async with Busy(clock, lambda ask: Unsent("refused")).open() as house:
        assert set(errors(await house.embed(*texts(16)))) == {Unsent}
        assert house.sizes == [16] * 4
        assert set(errors(await house.embed(*texts(16)))) == {CircuitOpen}
        assert house.circuits.state == "open"
        assert house.sizes == [16] * 5


@pytest.mark.parametrize("error", [NOT_FOUND, UNKNOWN, NO_KEY, CircuitOpen("held")])
async def test_what_seconds_do_not_mend_is_not_repeated(clock: FakeClock, error: RemoteError) -> None:
    async with Busy(clock, lambda ask: error).open() as house:
        assert set(errors(await house.embed("a", "b"))) == {CircuitOpen}
        assert house.sizes == [2]


async def test_a_success_makes_the_next_pause_short_again(clock: FakeClock) -> None:
    """Three pauses, a probe that is served, and the next trouble begins as the first did."""
    async with Busy(clock, lambda ask: UNKNOWN if ask.number != 3 else None).open() as house:
        seen = []
        for number in range(5):
            answers = await house.embed(f"{number}")
            seen.append(await house.rest(answers))
        assert seen == [10, 20, 40, 0, 10]


async def test_who_waits_when_a_model_pauses_is_sent_away(clock: FakeClock) -> None:
    """The pause holds for the texts that were already waiting, too: they make no call of their own."""
    async with Busy(clock, lambda ask: UNKNOWN).open() as house:
        first = house.bring("a")
        await house.clock.sleep(0.1)
        assert errors(await house.embed("b", "c")) == [CircuitOpen] * 2
        await first
        assert house.sizes == [1]


async def test_a_throttle_named_quota_is_short_after_successes(clock: FakeClock) -> None:
    """Within a minute of a served call the first pause is a second; what Retry-After asks for is longer."""
    for idle_s, wish_s, first_s in ((30.0, None, 1), (90.0, None, 300), (0.0, 17.0, 17), (90.0, 17.0, 300)):
        async with Busy(clock, after_good(QuotaExhausted("quota", retry_after_s=wish_s))).open() as house:
            await house.embed("good")
            await house.clock.sleep(idle_s)
            assert delays(await house.embed("a")) == {first_s}


@pytest.mark.parametrize("error", [NO_KEY, QUOTA, NOT_FOUND], ids=repr)
async def test_calls_that_fail_together_begin_one_pause(clock: FakeClock, error: RemoteError) -> None:
    """What was under way when a pause began says nothing new when it fails, too."""

    def habit(ask: Ask) -> After | None:
        return None if ask.texts == ["usual"] else After(10.0, error)

    async with Busy(clock, habit).open() as house:
        await house.embed("usual")
        tasks = []
        for text in texts(4):
            tasks.append(house.bring(text))
            await house.clock.sleep(3.2)
        first = (await tasks[0])[0]
        assert isinstance(first, CircuitOpen)
        resumes_at = house.now + house.circuits.wait_s("m")
        await asyncio.wait(tasks)
        assert house.now + house.circuits.wait_s("m") == pytest.approx(max(resumes_at, house.now), abs=0.3)


@pytest.mark.parametrize("error", [DOWN, refused(), PAGE, UNKNOWN, NO_KEY, QUOTA, Unsent("refused")], ids=repr)
@pytest.mark.parametrize("tasks", [1, 3])
async def test_a_few_tasks_survive_a_long_outage(clock: FakeClock, error: RemoteError, tasks: int) -> None:
    """Ten minutes of failures, and nobody else comes: all are served within a pause of its end."""
    async with Busy(clock, until(600, error)).open() as house:
        ended = await house.work([(text, "m") for text in texts(tasks)], slots=8, seconds=1800)
        assert Counter(end for end, _ in ended.values()) == {"done": tasks}
        assert max(at for _, at in ended.values()) < 600 + 330


async def test_nobody_is_called_an_offender_in_an_outage(clock: FakeClock) -> None:
    """Probes that fail while nobody is served are no fault of their texts."""
    async with Busy(clock, lambda ask: DOWN).open() as house:
        for number in range(4):
            await house.rest(await house.embed(*texts(5, f"{number}-")))
        assert house.batcher.offenders() == {}


# --- texts that fail again and again


async def test_a_text_that_fails_alone_is_left_alone_longer_and_longer(clock: FakeClock) -> None:
    """15 s, doubled to 15 minutes; it never ends, never travels with others again, and is named without its words."""
    async with Busy(clock, blaming(DOWN, "t5")).open() as house:
        with capture_logs() as lines:
            answers = await house.embed(*texts(32))
            seen = []
            for number in range(9):
                (error,) = [answer for answer in answers if not isinstance(answer, Embedded)]
                assert type(error) is SetAside
                seen.append(error.retry_after_s)
                assert house.batcher.offenders() == {"m": f"1 texts fail alone while others are served, last: {DOWN}"}
                house.forget()
                await house.clock.sleep((error.retry_after_s or 0) - 0.5)
                (early,) = await house.embed("t5")
                assert isinstance(early, SetAside)
                assert early.retry_after_s == pytest.approx(0.5)
                assert house.asked == [], "not tried before its time"
                await house.clock.sleep(0.5)
                answers = await house.embed("t5", f"other{number}")
                assert sorted(house.sizes) == [1, 1]
        assert seen == [15, 30, 60, 120, 240, 480, 900, 900, 900]
        assert {line["event"] for line in lines} == {"text.set_aside"}
        assert house.circuits.state == "closed"


async def test_a_text_that_is_served_at_last_is_forgotten(clock: FakeClock) -> None:
    """The next time it travels with others, and its delay is short again."""
    async with Busy(clock, lambda ask: DOWN if ask.has("t5") and not 10 < ask.at < 100 else None).open() as house:
        await house.rest(await house.embed(*texts(8)))
        assert errors(await house.embed("t5")) == [Embedded]
        assert house.batcher.offenders() == {}
        house.forget()
        assert set(errors(await house.embed(*texts(8)))) == {Embedded}
        assert house.sizes == [8]
        await house.clock.sleep(100)
        assert delays(await house.embed(*texts(8))) == {15}


async def test_an_offender_that_is_refused_in_the_end_is_forgotten(clock: FakeClock) -> None:
    async with Busy(clock, lambda ask: (DOWN if ask.at < 12 else FILTERED) if ask.has("t5") else None).open() as house:
        await house.rest(await house.embed(*texts(8)))
        assert errors(await house.embed("t5")) == [InputRefused]
        assert house.batcher.offenders() == {}


async def test_an_offender_is_never_the_probe(clock: FakeClock) -> None:
    """After an outage another text shows whether the model is well."""
    async with Busy(clock, lambda ask: DOWN if ask.has("t5") or 20 < ask.at < 50 else None).open() as house:
        await house.embed(*texts(8))
        await house.clock.sleep(60 - house.now)
        house.model.habit = lambda ask: DOWN
        await house.embed(*texts(8, "x"))
        house.model.habit = blaming(DOWN, "t5")
        await house.clock.sleep(10)
        house.forget()
        answers = await asyncio.gather(house.embed("t5"), house.embed("fresh"))
        assert [errors(answer) for answer in answers] == [[SetAside], [Embedded]]
        assert [ask.texts for ask in house.asked] == [["fresh"], ["t5"]]


async def test_a_text_that_hangs_costs_two_timeouts(clock: FakeClock) -> None:
    """Alone it is waited for once in vain; its companions are served meanwhile."""
    async with Busy(clock, blaming(After(30.0, TimedOut("no answer within 30 s")), "t5")).open() as house:
        await house.prepare("usual")
        answers = await house.embed(*texts(32))
        assert Counter(errors(answers)) == {Embedded: 31, SetAside: 1}
        assert len([ask for ask in house.of("t5") if len(ask.texts) == 1]) == 1
        assert len(house.of("t5")) <= 4


async def test_a_hung_call_is_given_up_while_others_are_served(clock: FakeClock) -> None:
    """A time-out of a minute is not waited for, and its companions are served within seconds; ours costs a token."""
    async with Busy(clock, blaming(After(60.0, TimedOut("no answer within 60 s")), "t5"), takes_s=0.2).open() as house:
        await house.prepare(*texts(32, "usual"))
        began_at = house.now
        with capture_logs() as lines:
            answers = await house.embed(*texts(32))
        assert Counter(errors(answers)) == {Embedded: 31, SetAside: 1}
        assert "no answer within" in str(answers[5])
        assert house.now - began_at < 25
        assert len(house.of("t5")) == 3
        assert {line["event"] for line in lines} == {"call.given_up", "text.set_aside"}
        assert house.model.running == 0


async def test_a_stall_of_ours_is_no_hung_call(clock: FakeClock) -> None:
    """The process stood still: the answer lies unread, and nothing is asked for again."""
    async with Busy(clock, takes_s=1.9).open() as house:
        await house.prepare("usual")
        task = house.bring("a")
        await house.clock.sleep(0.5)
        house.model.habit = lambda ask: DOWN
        clock.advance(36.0)
        assert errors(await task) == [Embedded]
        assert [ask.texts for ask in house.asked] == [["a"]]


async def test_a_large_call_may_take_its_time(clock: FakeClock) -> None:
    """It takes as many times longer as it is larger: it does not hang."""
    async with Busy(clock, lambda ask: After(0.4 * len(ask.texts))).open() as house:
        await house.prepare("usual")
        assert set(errors(await house.embed(*texts(32)))) == {Embedded}
        assert house.sizes == [32]


async def test_a_model_that_hangs_for_all_gives_nothing_up(clock: FakeClock) -> None:
    """Our text hangs, too: nothing is known before the time-out."""
    async with Busy(clock, after_good(After(60.0, TimedOut("no answer")))).open() as house:
        await house.prepare("good")
        task = house.bring(*texts(8))
        await house.clock.sleep(59)
        assert [ask.texts for ask in house.asked] == [texts(8), [WITNESS]]
        await task


@pytest.mark.parametrize("length", [None, 8])
async def test_an_unusable_vector_is_its_own_texts_trouble(clock: FakeClock, length: int | None) -> None:
    """Not finite, or of another length: that text is asked for again, alone, and then set aside; others have theirs."""

    def habit(ask: Ask) -> Embeddings:
        odd = None if length is None else Vector(bytes(range(1, 1 + 4 * length)))
        return Embeddings([odd if text == "b" else vector(text) for text in ask.texts], Usage(3))

    async with Busy(clock, habit).open() as house:
        answers = await house.embed("a", "b", "c")
        assert errors(answers) == [Embedded, SetAside, Embedded]
        assert right("a", answers[0])
        assert house.sizes[0] == 3
        assert {tuple(ask.texts) for ask in house.asked[1:]} <= {("b",), (WITNESS,)}
        assert len(house.of("b")) <= 3
        assert house.circuits.state == "closed"


async def test_an_unusable_vector_is_asked_for_again(clock: FakeClock) -> None:
    """Once is an accident: the second answer is taken."""

    def habit(ask: Ask) -> Embeddings | None:
        if ask.number:
            return None
        return Embeddings([None if text == "b" else vector(text) for text in ask.texts], Usage(3))

    async with Busy(clock, habit).open() as house:
        answers = await house.embed("a", "b", "c")
        assert all(map(right, ("a", "b", "c"), answers))
        assert [ask.texts for ask in house.asked] == [["a", "b", "c"], ["b"]]


# --- calls that take too long


def slow(ask: Ask, *, per_text: float = 0.25, timeout_s: float = 8.0) -> After:
    took_s = per_text * len(ask.texts)
    return After(min(took_s, timeout_s), None if took_s < timeout_s else TimedOut("no answer within 8 s"))


@pytest.mark.parametrize("size", [33, 64, 100])
async def test_a_call_that_takes_too_long_is_split_in_four(clock: FakeClock, size: int) -> None:
    """0.25 s a text and a timeout of 8 s: everybody is served, and the size that passes is known from then on."""
    async with Busy(clock, slow).open() as house:
        house.intake.slots = size
        assert set(errors(await house.embed(*texts(size)))) == {Embedded}
        assert house.sizes[0] == size
        assert house.sizes[1] == -(-size // 4)
        house.forget()
        assert set(errors(await house.embed(*texts(size, "again")))) == {Embedded}
        assert [ask for ask in house.asked if slow(ask).outcome is not None][1:] == [], "one at most is too large again"


@pytest.mark.parametrize("status", [408, 504, 522, 524])
async def test_a_gateways_timeout_is_one(clock: FakeClock, status: int) -> None:
    """Who waits on the way has less patience than we: the same holds for what it answers."""

    def habit(ask: Ask) -> After | None:
        if len(ask.texts) > 16:
            return After(8.0, Transient(f"the model API answered {status}", status=status))
        return None

    async with Busy(clock, habit).open() as house:
        assert set(errors(await house.embed(*texts(64)))) == {Embedded}
        assert house.sizes[:2] == [64, 16]


async def test_a_model_that_hangs_for_all_is_an_outage(clock: FakeClock) -> None:
    """A few timeouts, and everybody is told to come back; nobody is at fault."""
    async with Busy(clock, lambda ask: After(8.0, TimedOut("no answer"))).open() as house:
        answers = await house.embed(*texts(64))
        assert set(errors(answers)) <= {CircuitOpen, TimedOut}
        assert house.circuits.state == "open"
        assert len(house.asked) <= 13
        assert house.now < 60


# --- the length of vectors


def of_length(ask: Ask, length: Callable[[str], int]) -> Embeddings:
    vectors = [
        Vector(text.encode("utf-32-le")[: 4 * length(text)].ljust(4 * length(text), b"\1")) for text in ask.texts
    ]
    return Embeddings(vectors, Usage(1))


async def test_nothing_is_handed_out_until_two_calls_agree(clock: FakeClock) -> None:
    """When the length is not known: a second call is waited for, one with a text of ours when no other is there."""
    async with Busy(clock, length=None).open() as house:
        assert set(errors(await house.embed(*texts(8)))) == {Embedded}
        assert [len(ask.texts) for ask in house.asked] == [8, 1]
        assert house.asked[1].texts == [WITNESS]
        assert set(errors(await house.embed(*texts(8, "more")))) == {Embedded}
        assert house.sizes == [8, 1, 8], "it is known for good"


async def test_other_calls_are_the_second_when_there_are_any(clock: FakeClock) -> None:
    async with Busy(clock, length=None).open() as house:
        first, second = house.bring("a"), house.bring("b", after_s=0.5)
        await house.clock.sleep(1.1)
        assert not first.done()
        assert errors([*await first, *await second]) == [Embedded] * 2
        assert not house.of(WITNESS)


@settings(EXAMPLES, max_examples=30)
@given(data=st.data(), known=st.booleans())
async def test_a_vector_of_another_length_is_never_handed_out(data: st.DataObject, known: bool) -> None:
    """Some items, or whole calls, of another length than most: every vector that is handed out is right."""
    odd_items = data.draw(st.sets(st.sampled_from(texts(40)[::5]), max_size=6))  # two of a call of eight at most
    odd_calls = data.draw(st.sets(st.integers(0 if known else 3, 40), max_size=8))
    short = data.draw(st.sampled_from([8, 17, 3072]))
    tries: Counter[str] = Counter()

    def habit(ask: Ask) -> Embeddings:
        tries.update(ask.texts)
        whole = ask.number in odd_calls
        return of_length(ask, lambda text: short if whole or (text in odd_items and tries[text] == 1) else 16)

    async with Busy(FakeClock(), habit, length=16 if known else None).open() as house:
        ended = await house.work([(text, "m") for text in texts(40)], slots=8, seconds=900)
        assert {end for end, _ in ended.values()} == {"done"}
        assert len(ended) == 40
        for answer in await house.embed(*texts(40)):
            assert not isinstance(answer, Embedded) or len(answer.vector.data) == 64


async def test_a_model_of_another_length_than_known_is_an_outage(clock: FakeClock) -> None:
    """Nothing of it is handed out, and the reason says what to set."""
    async with Busy(clock, lambda ask: of_length(ask, lambda _: 8)).open() as house:
        answers = await house.embed(*texts(64))
        assert set(errors(answers)) == {CircuitOpen}
        assert "EMBEDDING_DIMENSIONS" in house.batcher.paused()["m"]
        assert "another length than 16" in house.batcher.paused()["m"]


async def test_a_model_that_never_agrees_with_itself_is_no_endless_expense(clock: FakeClock) -> None:
    """Two lengths in turn: after some calls everybody is told to come back, and the condition is named."""
    async with Busy(
        clock, lambda ask: of_length(ask, lambda _: 16 if ask.number % 2 else 8), length=None
    ).open() as house:
        await asyncio.wait_for(asyncio.ensure_future(house.embed(*texts(8))), 2)
        assert len(house.asked) < 30
        assert list(house.batcher.paused()) == ["m"]


async def test_a_vector_of_the_right_length_only_is_remembered(clock: FakeClock) -> None:
    cache = VectorCache(2**20)
    tries: Counter[str] = Counter()

    def habit(ask: Ask) -> Embeddings:
        tries.update(ask.texts)
        return of_length(ask, lambda text: 8 if text == "b" and tries["b"] == 1 else 16)

    async with Busy(clock, habit, cache=cache).open() as house:
        assert set(errors(await house.embed("a", "b", "c"))) == {Embedded}
        (answer,) = await house.embed("b")
        assert isinstance(answer, Embedded)
        assert len(answer.vector.data) == 64
        assert tries["b"] == 2
        assert not cache.get(cache.key("m", WITNESS.encode()))


# --- several models


@pytest.mark.parametrize("error", [UNKNOWN, DOWN, refused(), NO_KEY], ids=repr)
async def test_one_model_does_not_hold_another(clock: FakeClock, error: RemoteError) -> None:
    """A model that is refused, fails or asks for a pause is paused alone."""
    async with Busy(clock, lambda ask: error if ask.model == "bad" else None).open() as house:
        assert set(errors(await house.embed(*texts(8), model="bad"))) <= {CircuitOpen, type(error)}
        assert (house.batcher.hold_s(), house.batcher.lane_hold_s("m", 0)) == (0, 0)
        assert house.batcher.lane_hold_s("bad", 0) > 0
        assert house.batcher.resumes_in_s() == house.batcher.lane_hold_s("bad", 0)
        assert list(house.batcher.paused()) == ["bad"]
        assert set(errors(await house.embed(*texts(8), model="m"))) == {Embedded}


async def test_models_that_the_provider_does_not_know_never_hold_it(clock: FakeClock) -> None:
    async with Busy(clock, lambda ask: UNKNOWN if ask.model != "m" else None).open() as house:
        for n in range(20):
            assert errors(await house.embed("a", model=f"no-such-{n}")) == [CircuitOpen]
        assert house.batcher.hold_s() == 0
        assert errors(await house.embed("a", model="m")) == [Embedded]


async def test_two_models_that_fail_hold_the_provider(clock: FakeClock) -> None:
    """One probe for both, each time of the other one, and what is served ends it for all of them."""
    async with Busy(clock, until(200, DOWN), takes_s=0.1).open() as house:
        for model in ("m", "n"):
            assert house.batcher.hold_s() == 0
            await house.embed(*texts(8), model=model)
        assert house.batcher.hold_s() == 10
        assert errors(await house.embed("a", model="o")) == [CircuitOpen]
        house.forget()
        probes: list[str] = []
        while house.now < 200:
            await house.clock.sleep(max(house.batcher.hold_s(), 0.1))
            number = len(probes)
            await asyncio.gather(*(house.embed(f"{number}{model}", model=model) for model in ("m", "n")))
            probes = [ask.model for ask in house.asked]
        assert set(house.sizes) == {1}
        before = [ask for ask in house.asked if ask.at < 200]
        assert len([ask for ask in before if ask.at < 70]) <= 4
        assert all(after.at - earlier.at >= 10 for earlier, after in pairwise(before))
        assert all(after.model != earlier.model for earlier, after in pairwise(before))
        await house.clock.sleep(house.batcher.hold_s())
        assert errors(await house.embed("x", model="m")) == [Embedded]
        assert house.batcher.hold_s() == 0
        assert errors(await house.embed("x", model="n")) == [Embedded]
        assert house.batcher.paused() == {}


async def test_many_models_that_fail_once_hold_the_provider(clock: FakeClock) -> None:
    """None of them has failed often enough for itself. What is under way then is not sent again."""
    async with Busy(clock, until(60, DOWN)).open() as house:
        ended = await house.work([("a", f"m{number}") for number in range(32)], slots=8, seconds=59)
        assert ended == {}
        assert len(house.asked) <= 8 + 4
        assert await house.work([("a", f"m{number}") for number in range(32)], slots=8, seconds=120)
        assert house.batcher.paused() == {}


async def test_a_model_that_was_served_meanwhile_keeps_the_provider_open(clock: FakeClock) -> None:
    """Two models fail, and a third is served in between: they are held each for itself."""
    async with Busy(clock, lambda ask: DOWN if ask.model != "m" else None).open() as house:
        await house.embed(*texts(8), model="n")
        await house.embed("a", model="m")
        await house.embed(*texts(8), model="o")
        assert house.batcher.hold_s() == 0
        assert errors(await house.embed("b", model="m")) == [Embedded]
        assert set(house.batcher.paused()) == {"n", "o"}


async def test_a_third_model_that_is_well_ends_the_hold(clock: FakeClock) -> None:
    """Two dead models do not keep a good one waiting: the probe goes round all who are asked for."""
    async with Busy(clock, lambda ask: None if ask.model == "m" else DOWN, takes_s=0.1).open() as house:
        for model in ("n", "o"):
            await house.embed(*texts(8), model=model)
        for number in range(6):
            await house.clock.sleep(max(house.batcher.hold_s(), 0.1))
            await asyncio.gather(*(house.embed(f"{number}", model=model) for model in ("n", "o", "m")))
        assert errors(await house.embed("x", model="m")) == [Embedded]


async def test_the_probe_changes_when_others_come_a_moment_later(clock: FakeClock) -> None:
    """Tasks start one after the other: a tenth of a second does not make one model the probe for ever."""
    async with Busy(clock, until(600, DOWN), takes_s=0.5).open() as house:
        for model in ("n", "o"):
            await house.embed(*texts(8), model=model)
        house.forget()
        for number in range(6):
            await house.clock.sleep(max(house.batcher.hold_s(), 0.1))
            text = f"{number}"
            await asyncio.gather(house.embed(text, model="n"), house.embed(text, model="o", after_s=0.1))
        assert {ask.model for ask in house.asked} == {"n", "o"}


async def test_many_dead_models_do_not_stop_a_good_one(clock: FakeClock) -> None:
    async with Busy(clock, lambda ask: DOWN if ask.model == "n" else None, takes_s=0.2).open() as house:
        tasks = [(f"{model}{n}", model) for n in range(60) for model in ("n", "m")]
        ended = await house.work(tasks, slots=8, seconds=60)
        assert Counter(end for end, _ in ended.values()) == {"done": 60}
