"""The chunks of a streamed answer: as one when it is short, and to its end when that is near."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import suppress

from ai_task_processor.core.errors import RemoteError
from ai_task_processor.net.client import StreamedAnswer

#: An answer of a known length up to this is parsed in one go, in a few milliseconds: a third of what it costs record
#: by record, which is for lists that do not end and for those with a faulty record.
WHOLE_BYTES = 2**19
#: bytes and seconds that are read further to reach the end of the answer and keep the connection
TAIL_BYTES, TAIL_S = 2**16, 0.2


def is_short(answer: StreamedAnswer) -> bool:
    length = answer.headers.get("content-length", "")
    return length.isascii() and length.isdigit() and len(length) < 10 and int(length) <= WHOLE_BYTES


async def joined(chunks: AsyncIterator[bytes]) -> AsyncGenerator[bytes, None]:
    """All of them as one. What came before an error, or before the deadline, is handed on before it is raised."""
    data = bytearray()
    try:
        async for chunk in chunks:
            data += chunk
    except BaseException:
        if data:
            yield bytes(data)
        raise
    yield bytes(data)


async def read_tail(chunks: AsyncIterator[bytes]) -> None:
    """Read to the end of the answer if that is near, which keeps the connection; failures are ignored."""
    left = TAIL_BYTES
    with suppress(TimeoutError, RemoteError):
        async with asyncio.timeout(TAIL_S):
            async for chunk in chunks:
                left -= len(chunk)
                if left < 0:
                    return
