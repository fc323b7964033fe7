"""Every event that is logged stands in the one table."""

from docs.events import described, logged, sources


def test_every_event_is_in_the_table() -> None:
    """Whoever greps a log finds what an event means."""
    table, code = described(), list(sources())
    found = {each.event for source in code for each in logged(source) if "." in each.event}
    assert len(found) > 20
    assert sorted(found - table.keys()) == []
    # Some events are chosen by an expression: it is enough that somebody names them.
    assert sorted(event for event in table if "." in event and f'"{event}"' not in "".join(code)) == []


def test_an_event_outside_the_table_is_noticed() -> None:
    """A planted event is found with its level and fields, at a logger and at a condition."""
    logs = 'log.info("a.b", x=1)\nlist.append("g")\n(log.debug if y else log.error)("h.i")\n'
    source = f'{logs}Condition("c.d", "e.f", logging.ERROR)'
    found = sorted((each.event, each.level, *each.fields) for each in logged(source))
    assert found == [
        ("a.b", "info", "x"),
        ("c.d", "error", "reason"),
        ("e.f", "info", "after"),
        ("h.i", "debug"),
        ("h.i", "error"),
    ]
