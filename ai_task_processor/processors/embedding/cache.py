"""A cache of vectors in memory: no text is paid for twice while its vector is cached."""

from collections import OrderedDict
from functools import lru_cache
from hashlib import blake2b

#: Memory of an entry beside its vector, bytes: key, objects, its part of the table and of the table's next growth.
#: The most that was measured are 390.
ENTRY_BYTES = 448


class VectorCache:
    """At most ``max_bytes``; the least recently used vector is evicted. Texts are not stored, only their hashes.

    ``dimensions``: what every model is asked for; None for its own.
    """

    def __init__(self, max_bytes: int, dimensions: int | None = None) -> None:
        self.bytes = 0
        self._max_bytes = max_bytes
        self._dimensions = dimensions
        self._entries: OrderedDict[bytes, tuple[bytes, int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def key(self, model: str, text: bytes) -> bytes:
        """A hash of 16 bytes of a text for this model."""
        digest = _begun(model, self._dimensions).copy()
        digest.update(text)
        return digest.digest()

    def get(self, key: bytes) -> tuple[bytes, int] | None:
        """The bytes of a vector, and the tokens that were paid for it."""
        entry = self._entries.get(key)
        if entry is not None:
            self._entries.move_to_end(key)
        return entry

    def put(self, key: bytes, vector: bytes, tokens: int) -> None:
        """Store a vector, in place of an earlier one of the same text."""
        size = len(vector) + ENTRY_BYTES
        if size > self._max_bytes:
            return
        entries = self._entries
        if key in entries:
            self.bytes -= len(entries.pop(key)[0]) + ENTRY_BYTES
        self.bytes += size
        while self.bytes > self._max_bytes:
            self.bytes -= len(entries.popitem(last=False)[1][0]) + ENTRY_BYTES
        entries[key] = vector, tokens


@lru_cache(maxsize=256)
def _begun(model: str, dimensions: int | None) -> blake2b:
    """The hash of everything before the text; the length keeps a model's name apart from what follows it."""
    name = model.encode("utf-8", "surrogatepass")
    return blake2b(b"%d,%d,%b" % (dimensions or 0, len(name), name), digest_size=16)
