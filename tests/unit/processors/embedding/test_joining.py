"""Equal texts share a call, and vectors that were paid for are remembered."""

import asyncio
from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from ai_task_processor.core.errors import CallRefused, CircuitOpen, InputRefused, ModelRefused, SetAside, Transient
from ai_task_processor.core.ports import Embeddings
from ai_task_processor.models.task import Embedded, Usage
from ai_task_processor.processors.embedding.cache import VectorCache
from ai_task_processor.processors.embedding.lane import WITNESS
from tests.unit.conftest import FakeClock
from tests.unit.processors.embedding.house import EXAMPLES, House, errors, vector

# --- equal texts


async def test_a_text_on_its_way_is_not_paid_for_again(house: House) -> None:
    """Who brings a text whose call is under way shares its answer; who comes after the answer needs a new call."""
    first = house.bring("a", "b")
    await house.clock.sleep(0.5)
    joined = house.bring("b", "c", "b")
    assert errors(await first) == [Embedded] * 2
    assert await joined == [Embedded(vector(text), Usage(1)) for text in ("b", "c", "b")]
    assert house.model.calls == [["a", "b"], ["c"]]
    await house.embed("a")
    assert house.model.calls[2:] == [["a"]]
    assert len(house.batcher._lanes["m"].texts) == 0


async def test_who_leaves_takes_nothing_from_those_who_share(house: House) -> None:
    """Each of three tasks that share an input may be cancelled, the first as well, before and during the call."""
    tasks = [asyncio.create_task(house.batcher.embed("a", "m")) for _ in range(2)]
    await house.clock.sleep(0.5)
    tasks += [asyncio.create_task(house.batcher.embed("a", "m")) for _ in range(2)]
    await house.clock.sleep(0.1)
    tasks[0].cancel()
    tasks[2].cancel()
    assert await tasks[1] == await tasks[3] == Embedded(vector("a"), Usage(1))
    assert house.model.calls == [["a"]]


async def test_a_text_whose_task_has_gone_can_still_be_joined(house: House) -> None:
    """A task that ran out of time and comes again finds its own call, as long as that is under way."""
    gone = asyncio.create_task(house.batcher.embed("a", "m"))
    await house.clock.sleep(0.5)
    gone.cancel()
    await asyncio.wait([gone])
    assert errors(await house.embed("a")) == [Embedded]
    assert house.model.calls == [["a"]]


async def test_a_failure_reaches_all_who_share_the_call(house: House) -> None:
    """Who joined late, too; and nobody can join what has failed."""
    house.model.error = Transient("503")
    first = house.bring("a")
    await house.clock.sleep(0.5)
    assert errors(await house.embed("a", "a")) == [Transient] * 2
    assert errors(await first) == [Transient]
    house.model.error = None
    assert errors(await house.embed("a")) == [Embedded]


async def test_a_refusal_reaches_all_who_share_the_text(house: House) -> None:
    """A text at fault that was joined while its batch is cut up is refused for everybody; the others are served."""
    house.model.culprits = {"bad"}
    first = house.bring("good", "bad")
    await house.clock.sleep(1.5)
    late = house.bring("bad", "good")
    assert errors(await first) == [Embedded, InputRefused]
    assert errors(await late) == [InputRefused, Embedded]
    assert house.model.calls[:3] == [["good", "bad"], ["good"], ["bad"]]


async def test_what_a_bisection_left_out_is_not_joined(house: House) -> None:
    """A text that was dropped because its tasks had gone travels anew with whoever brings it."""
    house.model.culprits = {"bad"}
    tasks = {text: asyncio.create_task(house.batcher.embed(text, "m")) for text in ("a", "b", "c", "bad")}
    await house.clock.sleep(0.5)
    for text in ("a", "b"):
        tasks[text].cancel()
    await house.clock.sleep(1.0)
    again = house.bring("a")
    await asyncio.wait(tasks.values())
    assert errors(await again) == [Embedded]
    assert house.model.calls[0] == ["a", "b", "c", "bad"]
    assert sum("a" in call for call in house.model.calls) == 2
    assert not any("b" in call for call in house.model.calls[1:])


async def test_nobody_joins_what_a_pause_sent_away(house: House) -> None:
    """The queue of a model that pauses is forgotten: its texts are new ones when the pause is over."""
    house.model.error = ModelRefused("the provider does not know this model")
    await house.embed("a")
    await house.clock.sleep(10.0)
    first = house.bring("a")
    await house.clock.sleep(0.1)
    assert errors(await house.embed("b")) == [CircuitOpen]
    await first
    house.model.error = None
    await house.clock.sleep(20.0)
    assert errors(await house.embed("a", "b")) == [Embedded] * 2


@settings(EXAMPLES, max_examples=40)
@given(data=st.data())
async def test_everybody_is_answered_whatever_is_shared(data: st.DataObject) -> None:
    """Few texts, many tasks, some cancelled, some culprits, with a cache or without: nobody waits for ever."""
    arrivals = data.draw(
        st.lists(st.tuples(st.floats(0, 4), st.sampled_from("abcdx"), st.booleans()), min_size=1, max_size=25)
    )
    cache = data.draw(st.sampled_from([None, VectorCache(2**20)]))
    async with House(FakeClock(), cache=cache).open() as house:
        house.model.culprits = {"x"}

        async def arrive(after_s: float, text: str, leaves: bool) -> None:
            await house.clock.sleep(after_s)
            task = asyncio.create_task(house.batcher.embed(text, "m"))
            if leaves:
                await house.clock.sleep(0.7)
                task.cancel()
            await asyncio.wait([task])
            if task.cancelled():
                return
            error = task.exception()
            if text == "x":
                assert isinstance(error, InputRefused | CircuitOpen | CallRefused | SetAside)
            elif error is None:
                assert task.result().vector == vector(text)
            else:
                assert isinstance(error, CircuitOpen)

        async with asyncio.TaskGroup() as group:
            for after_s, text, leaves in arrivals:
                group.create_task(arrive(after_s, text, leaves))
        await house.clock.sleep(60)
        lane = house.batcher._lanes.get("m")
        assert lane is None or (len(lane.texts), lane.waiting, lane.calls.running) == (0, 0, [])
        paid = Counter(text for call in house.model.calls if not {"x"} & set(call) for text in call)
        del paid[WITNESS]
        assert cache is None or set(paid.values()) <= {1}


# --- remembered vectors


async def test_a_text_that_comes_again_costs_nothing(remembering: House) -> None:
    """Its vector is there at once, without a call and without tokens, and what it had cost is counted."""
    first = await remembering.embed("hello", "you")
    began_at = remembering.clock.monotonic()
    assert await remembering.embed("hello", "hello") == [Embedded(vector("hello"), Usage(0))] * 2
    assert remembering.clock.monotonic() == began_at
    assert errors(first) == [Embedded] * 2
    assert remembering.model.calls == [["hello", "you"]]
    assert remembering.metrics.value("vector_cache_hits_total") == 2
    assert remembering.metrics.value("vector_cache_saved_tokens_total") == 2 * 5
    await remembering.embed("hello", model="another")
    assert remembering.model.calls[1:] == [["hello"]]


async def test_a_remembered_vector_is_there_while_its_model_pauses(remembering: House) -> None:
    await remembering.embed("a")
    remembering.model.error = ModelRefused("the provider does not know this model")
    assert errors(await remembering.embed("b")) == [CircuitOpen]
    assert errors(await remembering.embed("a", "b")) == [Embedded, CircuitOpen]


async def test_only_what_was_paid_for_is_remembered(remembering: House) -> None:
    """Refusals, failures and unusable vectors are asked for again; a vector that nobody waited for any more is not."""
    remembering.model.culprits = {"bad"}
    await remembering.embed("bad", "good")
    await remembering.embed("bad")
    remembering.model.error = Transient("503")
    await remembering.embed("new")
    remembering.model.error = None
    await remembering.clock.sleep(15)
    gone = asyncio.create_task(remembering.batcher.embed("gone", "m"))
    await remembering.clock.sleep(0.5)
    gone.cancel()
    await remembering.clock.sleep(1)
    before = len(remembering.model.calls)
    assert errors(await remembering.embed("good", "gone")) == [Embedded] * 2
    assert len(remembering.model.calls) == before
    assert errors(await remembering.embed("bad", "new")) == [InputRefused, Embedded]
    assert sorted(remembering.model.calls[before]) in (["bad", "new"], ["bad"], ["new"])


async def test_an_unusable_vector_is_not_remembered(remembering: House) -> None:
    remembering.model.habit = lambda ask: Embeddings([None], Usage(3)) if ask.number == 0 else None
    assert errors(await remembering.embed("a")) == [Embedded]
    assert errors(await remembering.embed("a")) == [Embedded]
    assert remembering.model.calls == [["a"], ["a"]]
