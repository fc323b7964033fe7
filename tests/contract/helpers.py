"""What tests of several contracts use."""

from collections.abc import Awaitable
from typing import TypeVar

import pytest

E = TypeVar("E", bound=BaseException)


async def failing(error: type[E], attempt: Awaitable[object], match: str | None = None) -> E:
    """What an attempt fails with: an error of this class, of no subclass."""
    with pytest.raises(error, match=match) as raised:
        await attempt
    assert type(raised.value) is error
    return raised.value
