"""The outbox's memory of itself, where commits overlap."""

from ai_task_processor.core.ports import OutboxDepth
from ai_task_processor.stores.sqlite.ledger import Ledger, Watermark
from tests.unit.records import record


def ledger_of(max_bytes: int, rows: list[tuple[str, str, str, int]]) -> Ledger:
    ledger = Ledger("aletheia", max_bytes)
    ledger.reload([("aletheia", *row) for row in rows])
    return ledger


def held(ledger: Ledger, task_id: str) -> str | None:
    found = ledger.held(task_id)
    return None if found is None else found.standing


def test_records_of_other_sources_are_counted_apart() -> None:
    """They take room, wait for nobody here, and a task of the same id is another task."""
    ledger = Ledger("aletheia", 100)
    ledger.reload([("other", "a", "waiting", "f1", 60), ("aletheia", "b", "waiting", "f2", 40)])
    assert held(ledger, "a") is None
    assert ledger.depth(None) == OutboxDepth(waiting=1, bytes=100, foreign={"other": 1})
    ledger.foreign_changed("other", 60)
    assert ledger.depth(None) == OutboxDepth(waiting=1, bytes=40)


def test_what_the_disk_holds_is_counted_at_once() -> None:
    """Rows found at open are waiting or dead, and fill the outbox."""
    ledger = ledger_of(100, [("a", "waiting", "f1", 60), ("b", "dead", "f2", 40)])
    assert ledger.depth(7.0) == OutboxDepth(waiting=1, dead=1, bytes=100, oldest_finished_at=7.0)
    assert ledger.full
    assert (held(ledger, "a"), held(ledger, "b")) == ("in_outbox", "dead_letter")


def test_an_accepted_record_stands_before_the_dead_letter_it_replaces() -> None:
    """While a replacement is on its way the task is waiting once, and dead no more."""
    ledger = ledger_of(10_000, [("a", "dead", "f1", 50)])
    ledger.accept(record())
    assert held(ledger, "a") == "in_outbox"
    assert (ledger.depth(None).waiting, ledger.depth(None).dead) == (1, 0)


def test_a_record_on_its_way_to_replace_a_waiting_one_counts_once() -> None:
    """One task is one waiting record, in memory and on its way."""
    ledger = ledger_of(10_000, [("a", "waiting", "f1", 50)])
    ledger.accept(record())
    assert ledger.depth(None).waiting == 1
    ledger.committed(record())
    assert ledger.depth(None) == OutboxDepth(waiting=1, bytes=record().size)


def test_a_refused_record_gives_way_to_what_was_there() -> None:
    ledger = ledger_of(10_000, [("a", "dead", "f1", 50)])
    before = ledger.depth(None)
    ledger.accept(record())
    ledger.refuse(record())
    assert held(ledger, "a") == "dead_letter"
    assert ledger.depth(None) == before


def test_two_of_one_task_on_their_way() -> None:
    """The refusal of the first leaves the second accepted; its commit counts once."""
    ledger = ledger_of(10_000, [])
    ledger.accept(record())
    ledger.accept(record(body=b"[1, 2]"))
    ledger.refuse(record())
    assert held(ledger, "a") == "in_outbox"
    ledger.committed(record(body=b"[1, 2]"))
    assert ledger.depth(None) == OutboxDepth(waiting=1, bytes=record(body=b"[1, 2]").size)


def test_the_limit_counts_what_is_on_its_way() -> None:
    """Accepted bytes fill the outbox before they are on disk, and a refusal frees them."""
    ledger = ledger_of(record().size, [])
    ledger.accept(record())
    filled = ledger.full
    ledger.refuse(record())
    assert (filled, ledger.full) == (True, False)


def test_the_watermark_lags_behind() -> None:
    """Full at the limit, free at 90 %, and unchanged between the two in either direction."""
    watermark = Watermark(1000)
    seen = []
    for level in (901, 999, 1000, 950, 901, 900, 950):
        watermark.rise_or_fall(level)
        seen.append(watermark.full)
    assert seen == [False, False, True, True, True, False, False]
