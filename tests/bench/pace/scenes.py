"""What is played: each scene is a provider, the work, and the bounds that the product keeps.

"Burst" is what a limit allows at once. Eight slots and one call at a time, unless something else is said.
"""

import random
import statistics
from collections.abc import Callable
from math import inf, log2, nan
from typing import Any

from tests.bench.pace.play import Bounds, Scene
from tests.bench.pace.provider import LATENCY_S, Bucket, Provider, Quota, Span, Text, Window

NOISE = Bounds(used=0.95, used_any=0.80)
#: noise that is met anew every ten seconds
NEW_NOISE = Bounds(used=0.85, used_any=0.75)
BURST = Bounds(used=0.95, used_any=0.85, refused=0.08)
NO_BURST = Bounds(used=0.70, used_any=0.65, refused=0.10)
#: a limit that was met anew: within 20 seconds
FOUND = Bounds(used=0.90, used_any=0.85, refused=0.08, back_s=20)
#: 1.5 times the ideal time
CALMED = Bounds(used=1 / 1.5)
#: tasks a second of eight slots without a limit, and with 600 calls a minute
FULL, TEN = 8 / LATENCY_S, 80.0
CALM = tuple((10.0 * i, 1) for i in range(30))


def mixed(rng: random.Random) -> Text:
    """55 tokens in the middle, a few thousand at the end; 3 to 5 bytes a token."""
    tokens = min(8_000, max(1, int(rng.lognormvariate(4.0, 1.2))))
    return Text(int(tokens * rng.uniform(3, 5)), tokens)


def long(rng: random.Random) -> Text:
    """50 to 8,000 tokens, all magnitudes alike; 3 to 5 bytes a token."""
    tokens = int(50 * 160 ** rng.random())
    return Text(int(tokens * rng.uniform(3, 5)), tokens)


def mean_tokens(text: Callable[[random.Random], Text]) -> float:
    return statistics.fmean(text(random.Random(i)).tokens for i in range(20_000))


MIXED, LONG = mean_tokens(mixed), mean_tokens(long)


def scene(
    name: str,
    best: float,
    bounds: Bounds,
    warm_up_s: float = 30.0,
    seconds: float = 120.0,
    *,
    requests: Callable[[], Quota] | None = None,
    tokens: Callable[[], Quota] | None = None,
    **options: Any,
) -> Scene:
    """Options that the scene does not have are the provider's, which is made anew for each run: it has a state.

    There is a slot for each of the ``parallel`` calls.
    """
    own = {option: options.pop(option) for option in options.keys() & Scene.__dataclass_fields__.keys()}
    own.setdefault("slots", max(8, own.get("parallel", 1)))

    def provider(rng: random.Random) -> Provider:
        return Provider(rng, requests and requests(), tokens and tokens(), **options)

    return Scene(name, provider, best, bounds, seconds, warm_up_s, **own)


def bucket(per_minute: float, burst: float) -> Callable[[], Quota]:
    return lambda: Bucket(per_minute, burst)


def window(limit: float, seconds: float = 60.0) -> Callable[[], Quota]:
    return lambda: Window(limit, seconds)


def noise(share: float, begins: float = 0.0, ends: float = inf) -> list[Span]:
    return [Span(begins, ends, share)]


R600 = bucket(600, 10)
HONEST: dict[str, Any] = {"told": "honest", "retry_after": "honest"}
# fmt: off
NO_LIMIT = [
    *(scene(f"a random {p:.0%}", FULL * (1 - p), NOISE, 0, 60, noise=noise(p)) for p in (0, 0.01, 0.05, 0.12)),
    scene("a random 30%", FULL * 0.7, Bounds(0.6), 0, 60, noise=noise(0.3)),
    scene("a random 12%, calls of 1 s", 8 * 0.88, NOISE, 30, 600, noise=noise(0.12), latency_s=1.0),
    scene("a random 12%, 32 at once", 800 * 0.88, NOISE, 0, 60, noise=noise(0.12), parallel=32),
    scene("a random 5%, chat", 15.95, NOISE, 30, 300, noise=noise(0.05), chat=True, parallel=16),
    scene("a random 12%, Retry-After 1 s", FULL * 0.88, NOISE, 10, 60, noise=noise(0.12), retry_after=1.0),
    scene("a random 12%, Retry-After 30 s", FULL * 0.88, NOISE, 10, 60, noise=noise(0.12), retry_after=30.0),
    scene("a random 5%, Retry-After 86,400 s", FULL * 0.95, NOISE, 0, 60, noise=noise(0.05), retry_after=86_400.0),
    scene("a 5% of 503s", FULL * 0.95, NOISE, 0, 60, unavailable=0.05),
]
LIMIT = [
    scene("b 60 rpm, no burst", 8, NO_BURST, 60, 400, requests=bucket(60, 1)),
    scene("b 60 rpm, burst 60", 8, BURST, 120, 400, requests=bucket(60, 60)),
    scene("b 600 rpm, burst 10", TEN, BURST, requests=R600),
    scene("b 795 rpm, burst 10", 106, BURST, requests=bucket(795, 10)),
    scene("b 600 rpm, burst 600", TEN, BURST, 90, 240, requests=bucket(600, 600)),
    scene("b 3,000 rpm, burst 50, 8 at once", 50, BURST, requests=bucket(3_000, 50), parallel=8),
    scene("b 600 rpm, 10 in a second", TEN, Bounds(0.9, 0.85, 0.12), requests=window(10, 1)),
    scene("b 600 rpm, windows of a minute", TEN, BURST, 120, 600, requests=window(600)),
    scene("b 600 rpm, no burst, calls of 1 s", 10, NO_BURST, 30, 300,
          requests=bucket(600, 1), latency_s=1.0, parallel=16),
    scene("b 600 rpm, chat, 32 slots", 10, BURST, 60, 600, requests=R600, chat=True, parallel=32),
    scene("b 600 rpm and random 5%", TEN, Bounds(0.9, 0.85, 0.16), 60, 300, requests=R600, noise=noise(0.05)),
    scene("b 600 rpm, Retry-After honest", TEN, BURST, requests=R600, retry_after="honest"),
    *(
        scene(f"b 600 rpm, Retry-After 1, {1000 * s:.0f} ms", TEN, BURST, requests=R600, retry_after=1, latency_s=s)
        for s in (0.002, 0.01)
    ),
    *(scene(f"b 600 rpm, Retry-After {x} s", TEN, BURST, requests=R600, retry_after=x) for x in (nan, 0, 30, 3600)),
    scene("b 100k tpm, a minute's burst", 1e5 / 60 / MIXED, Bounds(0.9, 0.85, 0.2), 150, 400,
          tokens=bucket(1e5, 1e5), text=mixed),
    scene("b 1M tpm, 10 s of burst", 1e6 / 60 / MIXED, Bounds(0.95, 0.85, 0.1),
          tokens=bucket(1e6, 1e6 / 6), text=mixed),
    scene("c 4 calls at once, chat", 4, BURST, 60, 600, calls_at_once=4, chat=True, parallel=16),
    scene("c 4 calls at once, 40 ms", 100, NO_BURST, 30, 90, calls_at_once=4, parallel=16),
    scene("c 10 calls at once, 32 slots", 250, NO_BURST, 30, 70, calls_at_once=10, parallel=32),
]
TOLD = [
    scene("d 500 rpm + 300k tpm, told", 3e5 / 60 / MIXED, Bounds(0.93, 0.85, 0.08), 120, 240,
          requests=bucket(500, 500), tokens=bucket(3e5, 3e5), text=mixed, **HONEST),
    scene("d 600 rpm, told", TEN, BURST, requests=R600, **HONEST),
    scene("d 600 rpm in a minute, told", TEN, BURST, 120, 600, requests=window(600), **HONEST),
    scene("d no limit, stale headers", FULL, NOISE, 60, 120, told="stale"),
    scene("d random 5%, stale headers", FULL * 0.95, Bounds(0.9), 60, 300, told="stale", noise=noise(0.05)),
    scene("d 600 rpm, stale headers", TEN, BURST, 60, 240, requests=R600, told="stale"),
]
CHANGES = [
    scene("e 600 -> 60 rpm at 60 s", 8, NO_BURST, 120, 300, requests=R600, changes=[(60, 0.1)]),
    scene("e 60 -> 600 rpm at 120 s", TEN, Bounds(0.95, back_s=120), 240, 300,
          requests=bucket(60, 10), changes=[(120, 10)], possible=[(120, TEN)]),
    scene("e 600 -> 6,000 rpm at 60 s", FULL, Bounds(0.95, back_s=20), 100, 200,
          requests=R600, changes=[(60, 10)], possible=[(60, FULL)]),
    scene("e a rival takes 300 of 600 rpm", TEN, BURST, 150, 240,
          requests=R600, rivals=[Span(60, 120, 5)], possible=[(60, TEN / 2), (120, TEN)]),
    *(
        scene(f"e 60 s of 429s, Retry-After {x}", FULL, Bounds(0.9, back_s=10), 90, 180,
              outages=[Span(30, 90)], retry_after=x, possible=[(90, FULL)])
        for x in (None, 30, 86_400)
    ),
    scene("e 600 rpm, 60 s of 429s", TEN, Bounds(0.9, back_s=10), 120, 240,
          requests=R600, outages=[Span(60, 120)], possible=[(120, TEN)]),
    *(
        scene(f"e {ends - 30} s of random {p:.0%}, then none", FULL, Bounds(back_s=50), ends, ends + 100,
              noise=noise(p, 30, ends), possible=[(ends, FULL)])
        for p in (0.6, 0.8)
        for ends in (90, 330)
    ),
    scene("e 600 rpm after random 12%", TEN, FOUND, 80, 240,
          requests=R600, limits_from=60, noise=noise(0.12, 0, 60), possible=[(60, TEN)]),
    scene("e 600 rpm, no burst, after random 12%", TEN, NO_BURST, 80, 240,
          requests=bucket(600, 1), limits_from=60, noise=noise(0.12, 0, 60)),
    scene("e random 12% after 600 rpm", FULL * 0.88, Bounds(0.85, 0.75, back_s=60), 90, 240,
          requests=R600, changes=[(60, 1_000)], noise=noise(0.12, 60), possible=[(60, FULL * 0.88)]),
    scene("e a crash at 600 rpm", TEN, FOUND, 80, 240, requests=R600, restarts=[60], possible=[(60, TEN)]),
    scene("e 10 crashes at random 12%", FULL * 0.88, NEW_NOISE, 0, 120, noise=noise(0.12), restarts=range(10, 110, 10)),
    scene("f 1,000 after a calm", FULL, CALMED, 0, 400, arrivals=(*CALM, (305, 1_000))),
    scene("f 1,000 after a calm, random 12%", FULL * 0.88, CALMED, 0, 400,
          noise=noise(0.12), arrivals=(*CALM, (305, 1_000))),
    scene("f 2,000 after a calm, 600 rpm", TEN, CALMED, 0, 600,
          requests=R600, arrivals=((0, 3_000), *((100 + at, 1) for at, _ in CALM), (405, 2_000))),
]
# fmt: on


def inputs(most: int, slots: int = 1_000) -> Scene:
    """A cap of inputs; after a crash no call may be too large."""
    seconds = 90 if most <= 100 else 40
    bounds = Bounds(0.85, 0.8, too_large=log2(slots / most) + 3, too_large_late=0.02, too_large_again=0)
    options: dict[str, Any] = {"most_inputs": most, "slots": slots, "restarts": [seconds - 10], "text": mixed}
    return scene(f"g at most {most} inputs of {slots:,}", most / LATENCY_S, bounds, 10, seconds, **options)


def size(name: str, used: float, text: Callable[[random.Random], Text], **caps: Any) -> Scene:
    """A cap of tokens or bytes, which vary. Where texts are large beside the cap, no call can be full."""
    mean = MIXED if text is mixed else LONG
    most = min(caps.get("most_inputs", inf), caps.get("most_tokens", caps.get("most_bytes", inf) / 4) / mean)
    bounds = Bounds(used, too_large=log2(1_000 / most) + 5, too_large_late=0.02, too_large_again=1)
    return scene(f"g at most {name}", most / LATENCY_S, bounds, 10, 90, slots=1_000, restarts=[80], text=text, **caps)


# fmt: off
CAPS = [
    *(inputs(most) for most in (10, 32, 64, 100, 512)),
    *(inputs(most, slots=64) for most in (10, 32)),
    size("20k tokens", 0.75, mixed, most_tokens=2e4),
    size("16k tokens, long texts", 0.4, long, most_tokens=1.6e4),
    size("64k tokens, long texts", 0.6, long, most_tokens=6.4e4),
    size("100 kB", 0.75, mixed, most_bytes=1e5),
    size("16 inputs and 64k tokens", 0.7, long, most_tokens=6.4e4, most_inputs=16),
    scene("g 0.25 s a text, 64 slots, 8 s", 4, Bounds(0.75, 0.7), 60, 3_000,
          latency_a_text_s=0.25, timeout_s=8.0, slots=64),
    scene("g the same after 60 s of silence", 4, Bounds(0.75, 0.7), 150, 3_000,
          latency_a_text_s=0.25, timeout_s=8.0, slots=64, silences=[Span(0, 60)]),
]
# fmt: on
SCENES = [*NO_LIMIT, *LIMIT, *TOLD, *CHANGES, *CAPS]
