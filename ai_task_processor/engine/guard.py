"""Plug-ins may raise anything: whatever they raise is told apart from a cancellation."""

import asyncio
from typing import Final

#: seconds for a call of a plug-in that names no time itself
CALL_S: Final = 120.0
#: what a plug-in may raise; ``sys.exit()`` in one ends its call, not the daemon
RAISED: Final = (Exception, BaseExceptionGroup, SystemExit, KeyboardInterrupt, asyncio.CancelledError)


def being_cancelled() -> bool:
    """Whether this task was cancelled. A ``CancelledError`` can also come from a future that the plug-in awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
