"""Which request fails, and how: drawn from a seed, so that a run can be drawn again."""

import random
from collections.abc import Awaitable, Callable

from tests.chaos.history import Event

#: of all requests
SHARE = 0.12

#: Instead of handling the request: nothing was applied. Throttling holds a remote for a second and more, and a
#: drip costs a deadline: they are rare, or a run would consist of waiting.
BEFORE = {"close": 8, "reset": 8, "500": 8, "502-page": 6, "503-retry-after": 1, "429": 1, "drip": 2}
#: After it was handled: the answer is lost, torn, or says something else than what was done.
AFTER = {"half": 3, "reset-after": 4, "500-after": 4, "hang-after": 1, "page": 3, "truncated": 3}
#: What the API does besides: the state is saved, but the callback threw.
PATCH_AFTER = {**AFTER, "foreign-id": 3, "callback-lost": 6, "callback-lost-reset": 4}
MODEL_AFTER = {**AFTER, "too-few": 3, "wrong-index": 3, "nan": 3, "short-vector": 2}
_AFTER = {"token": AFTER, "poll": AFTER, "patch": PATCH_AFTER, "model": MODEL_AFTER}


#: Decides about a request, which is not answered yet: the name of a fault, or None. It may wait, and change the
#: upstream meanwhile.
Choose = Callable[[Event], Awaitable[str | None]]


async def none(_: Event) -> None:
    """A perfect world."""


def drawn(rng: random.Random, share: float = SHARE) -> Choose:
    """This share of all requests, half of them before they are handled."""

    async def choose(asked: Event) -> str | None:
        if rng.random() >= share:
            return None
        faults = BEFORE if rng.random() < 0.5 else _AFTER[asked.kind]
        return rng.choices(list(faults), list(faults.values()))[0]

    return choose
