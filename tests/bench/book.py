"""What the benchmark's upstream knows: its tasks, when each was done, and what was asked of it.

Records are made when they are listed, so that a million tasks cost two floats each. All times are
``time.perf_counter()`` of the upstream's process.
"""

import base64
import time
import zlib
from collections.abc import Callable, Iterator

import numpy as np

DIMENSIONS = 1536
#: vectors to choose from by a text's checksum; every so many-th result is compared with its vector
VECTORS, COMPARED = 64, 32

COUNTED = ("acknowledged", "reports", "repeated", "wrong", "model_calls", "inputs", "polls", "listed", "tokens")


def text(number: int, length: int) -> str:
    return f"Text number {number:07d}, which is not like any other text. ".ljust(length, "x")


_DRAWN = np.random.default_rng(7).standard_normal((VECTORS, DIMENSIONS))
POOL = (_DRAWN / np.linalg.norm(_DRAWN, axis=1, keepdims=True)).astype("<f4")
_ENCODED = [base64.b64encode(vector.tobytes()) for vector in POOL]


def encoded(content: str) -> bytes:
    """The vector of a text, as the model sends it."""
    return _ENCODED[_choice(content)]


def _choice(content: str) -> int:
    return zlib.crc32(content.encode()) % VECTORS


class Book:
    """The tasks in the order of their creation. ``began_at``: when the latest addition was first handed out."""

    def __init__(self, length: int) -> None:
        self.done: list[float] = []
        self.counted = dict.fromkeys(COUNTED, 0)
        self.asked_at = self.first_byte_at = self.first_report_at = 0.0
        self._length = length
        self._created: list[float] = []
        self._head = 0
        self._handed_out = 0
        self._began = self._ended = (0.0, 0.0)
        self._formats = b"", b""

    def add(self, count: int) -> None:
        """Create tasks. All records name the time of the latest addition: at most one matters at a time."""
        now = time.time()
        stamp = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(now))}.{int(now % 1 * 1000):03d}Z"
        content = text(0, self._length).replace(f"{0:07d}", "%07d")
        self._formats = (
            b'{"_id":"%%024x","type":"text_embedding","state":"pending","content":{"text":"%s"},'
            b'"callbackRoute":"documents.embedding","callbackParams":{"documentId":%%d},'
            b'"createdAt":"%s","updatedAt":"%s"}' % (content.encode(), stamp.encode(), stamp.encode()),
            b'{"taskId":"%%024x","taskType":"embed","taskDefName":"embed","referenceTaskName":"embed",'
            b'"status":"IN_PROGRESS","workflowInstanceId":"workflow","inputData":{"text":"%s"},"documentId":%%d}'
            % content.encode(),
        )
        self._created += [time.perf_counter()] * count
        self.done += [0.0] * count
        self._began = self._ended = 0.0, 0.0

    def begin(self) -> None:
        """The clock starts to run, unless it does."""
        if not self._began[0]:
            self._began = time.perf_counter(), time.process_time()

    def pending(self) -> Iterator[bytes]:
        """A record of the list for each task that is not done."""
        done = self.done
        while self._head < len(done) and done[self._head]:
            self._head += 1
        for number in range(self._head, len(done)):
            if not done[number]:
                yield self._formats[0] % (number, number, number)

    def handed_out(self, count: int) -> list[bytes]:
        """The next tasks for a client that leases them: each one is given away once."""
        first = self._handed_out
        self._handed_out = min(first + count, len(self.done))
        return [self._formats[1] % (number, number, number) for number in range(first, self._handed_out)]

    def settle(self, task_id: str, succeeded: bool, values: Callable[[], object]) -> None:
        """A result has arrived; ``values`` reads it."""
        now, number = time.perf_counter(), int(task_id, 16)
        self.first_report_at = self.first_report_at or now
        self.counted["reports"] += 1
        if self.done[number]:
            self.counted["repeated"] += 1
            return
        self.done[number] = now
        self.counted["acknowledged"] += 1
        if not succeeded:
            self.counted["wrong"] += 1
        elif self.counted["reports"] % COMPARED == 1:
            expected = POOL[_choice(text(number, self._length))]
            self.counted["wrong"] += not np.array_equal(np.asarray(values(), "<f4"), expected)
        if self.counted["acknowledged"] == len(self.done):
            self._ended = now, time.process_time()

    def latencies_s(self) -> list[float]:
        """From creation to acknowledgement, of the tasks that are done."""
        return [at - made for at, made in zip(self.done, self._created, strict=True) if at]

    def counts(self) -> dict[str, float]:
        """Everything that was counted. ``seconds`` and ``share`` (of one core): since the clock started to run."""
        ended_at, cpu_s = self._ended if self._ended[0] else (time.perf_counter(), time.process_time())
        seconds = ended_at - self._began[0] if self._began[0] else 0.0
        return {
            "tasks": len(self.done),
            **self.counted,
            "seconds": seconds,
            "share": (cpu_s - self._began[1]) / seconds if seconds else 0.0,
            "quiet_s": time.perf_counter() - self.asked_at,
            "first_report_s": self.first_report_at - self.first_byte_at if self.first_byte_at else 0.0,
        }
