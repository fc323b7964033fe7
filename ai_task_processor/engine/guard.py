"""Plug-ins may raise anything, also what looks like a cancellation: this module distinguishes the two."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

#: seconds for a call of a plug-in that names no time itself
CALL_S: Final = 120.0
#: what a plug-in may raise; ``sys.exit()`` in one ends its call, not the daemon
RAISED: Final = (Exception, BaseExceptionGroup, SystemExit, KeyboardInterrupt, asyncio.CancelledError)

T = TypeVar("T")


async def contained(call: Callable[[], Awaitable[T]]) -> T:
    """For a call in a task of its own: what would end the event loop becomes a ``RuntimeError``."""
    try:
        return await call()
    except (SystemExit, KeyboardInterrupt) as error:
        raise RuntimeError(f"it raised {type(error).__name__}") from error


def raise_cancellation(error: BaseException) -> None:
    """Raise ``CancelledError`` when this task is being cancelled.

    Without that, a ``CancelledError`` comes from a future that the plug-in awaited.
    """
    task = asyncio.current_task()
    if task is not None and task.cancelling() > 0:
        raise asyncio.CancelledError from error
