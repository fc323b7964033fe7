"""A status to begin with."""

from dataclasses import replace
from typing import Any

from ai_task_processor.ops.status import (
    BacklogStatus,
    Circuit,
    Isolation,
    ModelStatus,
    OutboxStatus,
    Poll,
    Rate,
    RecentError,
    RunningTask,
    SlotCount,
    Status,
    Throughput,
)

MINUTE = Rate(acknowledged=60, failed=0, seconds=60.0, acknowledged_per_minute=60.0, failed_per_minute=0.0)
HOUR = Rate(acknowledged=7200, failed=3, seconds=3600.0, acknowledged_per_minute=120.0, failed_per_minute=0.1)
CLOSED = Circuit(state="closed", reason=None, wait_seconds=0.0)
WELL = Status(
    version="1.2.3",
    state="running",
    mode="openai",
    source="aletheia",
    uptime_seconds=11_520.0,
    why_idle=None,
    not_ready_because=[],
    notes=[],
    log_level="INFO",
    slots=SlotCount(total=8, running=3),
    running_tasks=[RunningTask(id="t1", type="text_embedding", age_seconds=1.5)],
    throughput=Throughput(last_minute=MINUTE, last_hour=HOUR),
    poll=Poll(under_way=False, last_seconds_ago=2.0, next_in_seconds=None),
    backlog=BacklogStatus(seen=1200, complete=False, read_ahead=20, skipped={"deferred": 2, "paused": 0}),
    outbox=OutboxStatus(
        waiting=4,
        oldest_age_seconds=75.0,
        next_due_in_seconds=0.0,
        dead_letters=0,
        quarantined=0,
        bytes=1_234_567,
        of_other_sources={},
    ),
    isolation=Isolation(waiting=0, running=None),
    circuits={"api_poll": CLOSED, "model": CLOSED},
    models=[
        ModelStatus(
            name="m",
            kind="embedding",
            calls_per_minute=30.0,
            calls_at_once=2,
            running_calls=1,
            waiting_calls=5,
            waits_because="after 429s at most 30 calls a minute",
            paused_because=None,
        )
    ],
    last_errors=[],
)


def status(**changes: Any) -> Status:
    return replace(WELL, **changes)


def error(**changes: Any) -> RecentError:
    wide = {"time": "2026-01-01T03:00:00.000Z", "seconds_ago": 3.0, "level": "error", "event": "poll.failed"}
    return RecentError(**{**wide, "component": "poll", "reason": "down", "times": 1, **changes})
