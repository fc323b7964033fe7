"""The contract suite of sinks (``ports.Sink``): ``check_sink``."""

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field, replace

from ai_task_processor.core.ports import Sink
from ai_task_processor.models.task import Receipt, Record, TaskStatus
from ai_task_processor.testing.store import SOURCE, record


@dataclass
class SinkCase:
    """A running, empty sink. ``written`` returns the ids of the tasks whose results it holds, without repetitions that
    the receiver can tell by an id.

    ``sample``: a result that it takes. ``takes``: whether it takes a result, for a sink of some of them only.
    """

    sink: Sink
    written: Callable[[], Sequence[str]]
    sample: Record = field(default_factory=lambda: record(body=b'{"n":1}'))
    takes: Callable[[Record], bool] = lambda _: True

    def result(self, task_id: str) -> Record:
        """The sample, as the result of another task."""
        return replace(self.sample, receipt=Receipt(SOURCE, task_id, "token"))


SinkPromise = Callable[[SinkCase], Awaitable[None]]


async def check_sink(make: Callable[[], AbstractAsyncContextManager[SinkCase]]) -> None:
    """Run every promise. Raises ``AssertionError``."""
    for promise in SINK_PROMISES:
        async with make() as case:
            await promise(case)


async def what_is_written_is_there_once(case: SinkCase) -> None:
    """Delivery is at least once: the same record, and a later one of the same task, replace the first."""
    first, other = case.result("a"), case.result("b")
    for one in (first, first, replace(first, finished_at=first.finished_at + 1), other):
        await case.sink.write(one)
    assert sorted(case.written()) == ["a", "b"]


async def every_record_can_be_written(case: SinkCase) -> None:
    """Vectors, outputs, both; a failed and a cancelled task do no harm."""
    results: list[Record] = [
        record("vector", vector=b"\x00\x00\x80\x3f" * 4),
        record("both", vector=b"\x00\x00\x80\x3f" * 4, body=b'{"model":"m"}'),
        record("output", body=b'{"text":"\xc3\xa9"}'),
        record("list", body=b"[1,null,true]"),
    ]
    for one in results:
        await case.sink.write(one)
    assert {one.task_id for one in results if case.takes(one)} == set(case.written())
    await case.sink.write(record("failed", status=TaskStatus.FAILED, body=b'{"code":"c","message":"m"}'))
    await case.sink.write(record("cancelled", status=TaskStatus.CANCELLED))


async def a_discarded_result_does_no_harm(case: SinkCase) -> None:
    """A sink that is written before the report deletes the result; an unknown record is no error."""
    await case.sink.write(case.result("a"))
    await case.sink.discard(case.result("a"))
    await case.sink.discard(case.result("unknown"))
    if case.sink.order == "before_report":
        assert "a" not in case.written()


SINK_PROMISES: Sequence[SinkPromise] = (
    what_is_written_is_there_once,
    every_record_can_be_written,
    a_discarded_result_does_no_harm,
)
