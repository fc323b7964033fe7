"""Long texts: how many tokens they have, about, and where to cut them. Pure; no tokenizer is loaded."""

from collections.abc import Sequence

#: tokens for a byte of UTF-8 of a model that has charged for nothing yet
USUAL = 0.25
#: bounds of what is learnt: what a provider charges may have little to do with the text
FEWEST, MOST = 0.05, 1.0
#: a shorter prompt says little: roles and instructions count, too, bytes
SMALLEST_PROMPT = 4_000
#: the weight of the latest prompt
WEIGHT = 0.25
#: the most models: names come from tasks
MAX_MODELS = 256
#: where a part may end, the best first
_ENDS = (b"\n\n", b"\n", b". ", b" ")


class TokenEstimates:
    """Tokens for a byte, by model: a usual value at first, then what its ``usage`` says."""

    def __init__(self) -> None:
        self._ratios: dict[str, float] = {}

    def tokens(self, data: bytes, model: str) -> int:
        return int(len(data) * self._ratios.get(model, USUAL))

    def room(self, tokens: int, model: str) -> int:
        """How many bytes so many tokens are."""
        return int(tokens / self._ratios.get(model, USUAL))

    def learn(self, model: str, sent: int, charged: int) -> None:
        """A prompt of ``sent`` bytes was charged with so many tokens."""
        if sent < SMALLEST_PROMPT or charged <= 0:
            return
        found = min(max(charged / sent, FEWEST), MOST)
        before = self._ratios.pop(model, found)
        while len(self._ratios) >= MAX_MODELS:
            del self._ratios[next(iter(self._ratios))]
        self._ratios[model] = before + WEIGHT * (found - before)


def cut(data: bytes, most: int) -> Sequence[int]:
    """Where each part ends: parts of at most ``most`` bytes (4 or more), whole paragraphs, lines, sentences or words
    where one ends in the last quarter of a part, and whole characters always."""
    ends, start = list[int](), 0
    while len(data) - start > most:
        latest = start + most
        found = ((data.rfind(end, latest - most // 4, latest), len(end)) for end in _ENDS)
        start = next((at + length for at, length in found if at >= 0), latest)
        while data[start] & 0xC0 == 0x80:
            start -= 1
        ends.append(start)
    return [*ends, len(data)]


def pieces(data: bytes, ends: Sequence[int]) -> Sequence[str]:
    """The parts that ``cut`` has found."""
    return [data[start:end].decode() for start, end in zip((0, *ends), ends, strict=False)]
