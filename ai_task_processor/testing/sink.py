"""The contract suite of sinks (``ports.Sink``): ``check_sink``."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, replace

from ai_task_processor.core.ports import Sink
from ai_task_processor.models.task import Record
from ai_task_processor.testing.store import record


@dataclass
class SinkCase:
    """A running sink. ``written`` returns the ids of the tasks whose results it holds."""

    sink: Sink
    written: Callable[[], Sequence[str]]


SinkPromise = Callable[[SinkCase], Awaitable[None]]


async def check_sink(make: Callable[[], AbstractAsyncContextManager[SinkCase]]) -> None:
    """Run every promise. Raises ``AssertionError``."""
    for promise in SINK_PROMISES:
        async with make() as case:
            await promise(case)


async def what_is_written_is_there_once(case: SinkCase) -> None:
    """Delivery is at least once: the same record, and a later one of the same task, replace the first."""
    for one in (record("a"), record("a"), replace(record("a"), body=b"[2]"), record("b")):
        await case.sink.write(one)
    assert sorted(case.written()) == ["a", "b"]


async def every_record_can_be_written(case: SinkCase) -> None:
    """Vectors, outputs, both, and failures."""
    records: list[Record] = [
        record("vector", vector=bytes(16)),
        record("both", vector=bytes(16), body=b'{"model":"m"}'),
        record("output", body=b'{"text":"\xc3\xa9"}'),
    ]
    for one in records:
        await case.sink.write(one)
    assert set(case.written()) == {"vector", "both", "output"}


async def a_discarded_result_does_no_harm(case: SinkCase) -> None:
    """A sink that is written before the report deletes the result; an unknown record is no error."""
    await case.sink.write(record("a"))
    await case.sink.discard(record("a"))
    await case.sink.discard(record("unknown"))
    if case.sink.order == "before_report":
        assert "a" not in case.written()


SINK_PROMISES: Sequence[SinkPromise] = (
    what_is_written_is_there_once,
    every_record_can_be_written,
    a_discarded_result_does_no_harm,
)
