"""What is played: each scene is a provider, the work, and the bounds that hold for the product.

"Burst" is what a limit allows at once; "after noise" means that calls were refused at random before.
"""

import random
import statistics
from collections.abc import Callable
from math import inf, log2, nan
from typing import Any

from tests.bench.pace.play import Bounds, Scene
from tests.bench.pace.provider import LATENCY_S, Bucket, Provider, Quota, Span, Text, Window

NOISE = Bounds(used=0.95, used_any=0.80)
BURST = Bounds(used=0.95, used_any=0.85, refused=0.08)
NO_BURST = Bounds(used=0.70, used_any=0.65, refused=0.08)
FOUND = Bounds(used=0.90, used_any=0.85, refused=0.08, back_s=20)
CALMED = Bounds(used=1 / 1.5)
#: tasks a second of eight slots without a limit
FULL = 8 / LATENCY_S


def back(seconds: float, used: float = 0.95) -> Bounds:
    return Bounds(used=used, back_s=seconds)


def short(rng: random.Random) -> Text:
    return Text(220, 55)


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


def provider(
    requests: Callable[[], Quota] | None = None, tokens: Callable[[], Quota] | None = None, **options: Any
) -> Callable[[random.Random], Provider]:
    """Made anew for each run: quotas have a state."""
    return lambda rng: Provider(rng, requests and requests(), tokens and tokens(), **options)


def bucket(per_minute: float, burst: float) -> Callable[[], Quota]:
    return lambda: Bucket(per_minute, burst)


def window(limit: float, seconds: float = 60.0) -> Callable[[], Quota]:
    return lambda: Window(limit, seconds)


def noise(share: float, begins: float = 0.0, ends: float = inf) -> list[Span]:
    return [Span(begins, ends, share)]


#: the usual limit, and what it allows of tasks
TEN_A_SECOND, TASKS = bucket(600, 10), 80.0
CHAT = {"slots": 16, "calls_at_once": 16}
CALM = tuple((10.0 * i, 1) for i in range(30))

NO_LIMIT = [
    *(
        Scene(f"a random {p:.0%}", provider(noise=noise(p)), FULL * (1 - p), NOISE, seconds=60, warm_up_s=0)
        for p in (0, 0.01, 0.05, 0.12)
    ),
    Scene("a random 30%", provider(noise=noise(0.3)), FULL * 0.7, Bounds(), seconds=60, warm_up_s=0),
    Scene("a random 12%, calls of 1 s", provider(noise=noise(0.12), latency_s=1.0), 8 * 0.88, NOISE, seconds=300),
    Scene(
        "a random 12%, 32 at once", provider(noise=noise(0.12)), 800 * 0.88, NOISE, 60, 0, slots=32, calls_at_once=32
    ),
    Scene("a random 5%, chat", provider(noise=noise(0.05), chat=True), 15.95, NOISE, seconds=300, **CHAT),
    Scene("a random 12%, Retry-After 1 s", provider(noise=noise(0.12), retry_after=1.0), FULL * 0.88, NOISE, 60, 10),
    Scene(
        "a random 12%, Retry-After 30 s", provider(noise=noise(0.12), retry_after=30.0), FULL * 0.88, NOISE, 300, 100
    ),
    Scene("a random 5%, Retry-After 86,400 s", provider(noise=noise(0.05), retry_after=86_400.0), FULL * 0.95, NOISE),
    Scene("a 5% of 503s", provider(unavailable=0.05), FULL * 0.95, NOISE, seconds=60, warm_up_s=0),
]

LIMIT = [
    Scene("b 60 rpm, no burst", provider(bucket(60, 1)), 8, NO_BURST, 400, 60),
    Scene("b 60 rpm, burst 60", provider(bucket(60, 60)), 8, BURST, 400, 120),
    Scene("b 600 rpm, burst 10", provider(TEN_A_SECOND), TASKS, BURST),
    Scene("b 600 rpm, burst 600", provider(bucket(600, 600)), TASKS, BURST, 240, 90),
    Scene("b 3,000 rpm, burst 50, 8 at once", provider(bucket(3_000, 50)), 50, BURST, calls_at_once=8),
    Scene("b 600 rpm, 10 in a second", provider(window(10, 1)), TASKS, Bounds()),
    Scene("b 600 rpm, windows of a minute", provider(window(600)), TASKS, Bounds(), 600, 120),
    Scene("b 600 rpm, no burst, calls of 1 s", provider(bucket(600, 1), latency_s=1.0), 10, NO_BURST, 300, **CHAT),
    Scene(
        "b 600 rpm, chat, 32 slots", provider(TEN_A_SECOND, chat=True), 10, BURST, 600, 60, slots=32, calls_at_once=32
    ),
    Scene("b 600 rpm and random 5%", provider(TEN_A_SECOND, noise=noise(0.05)), TASKS, Bounds(), 300, 60),
    Scene("b 600 rpm, Retry-After honest", provider(TEN_A_SECOND, retry_after="honest"), TASKS, BURST),
    Scene("b 600 rpm, Retry-After 0", provider(TEN_A_SECOND, retry_after=0.0), TASKS, BURST),
    Scene("b 600 rpm, Retry-After an hour", provider(TEN_A_SECOND, retry_after=3_600.0), TASKS, BURST, 300, 100),
    Scene("b 600 rpm, Retry-After 30 s", provider(TEN_A_SECOND, retry_after=30.0), TASKS, Bounds(), 400, 200),
    Scene("b 600 rpm, Retry-After NaN", provider(TEN_A_SECOND, retry_after=nan), TASKS, BURST),
    Scene(
        "b 100k tpm, a minute's burst",
        provider(None, bucket(1e5, 1e5)),
        1e5 / 60 / MIXED,
        Bounds(0.9),
        400,
        150,
        text=mixed,
    ),
    Scene("b 1M tpm, 10 s of burst", provider(None, bucket(1e6, 1e6 / 6)), 1e6 / 60 / MIXED, BURST, text=mixed),
    Scene("c 4 calls at once, chat", provider(calls_at_once=4, chat=True), 4, BURST, 600, 60, **CHAT),
    Scene("c 4 calls at once, 40 ms", provider(calls_at_once=4), 100, NO_BURST, 600, 60, **CHAT),
    Scene(
        "c 10 calls at once, 32 slots", provider(calls_at_once=10), 250, NO_BURST, 300, 60, slots=32, calls_at_once=32
    ),
]

TOLD = [
    Scene(
        "d 500 rpm + 300k tpm, told",
        provider(bucket(500, 500), bucket(3e5, 3e5), told="honest", retry_after="honest"),
        3e5 / 60 / MIXED,
        BURST,
        240,
        120,
        text=mixed,
    ),
    Scene("d 600 rpm, told", provider(TEN_A_SECOND, told="honest", retry_after="honest"), TASKS, BURST),
    Scene(
        "d 600 rpm in a minute, told",
        provider(window(600), told="honest", retry_after="honest"),
        TASKS,
        Bounds(),
        600,
        120,
    ),
    Scene("d no limit, stale headers", provider(told="stale"), FULL, NOISE, 120, 60),
    Scene("d random 5%, stale headers", provider(told="stale", noise=noise(0.05)), FULL * 0.95, Bounds(0.9), 300, 60),
    Scene("d 600 rpm, stale headers", provider(TEN_A_SECOND, told="stale"), TASKS, Bounds(0.9, 0.8, 0.08), 240, 60),
]

CHANGES = [
    *(
        Scene(
            f"e {seconds} s of random {p:.0%}",
            provider(noise=noise(p, 30, 30 + seconds)),
            FULL,
            back(30, 0.0),
            630 + seconds,
            30 + seconds,
            changes=[(30 + seconds, FULL)],
        )
        for p in (0.4, 0.6, 0.8, 0.95)
        for seconds in (60, 300)
    ),
    Scene(
        "e 600 -> 60 rpm at 60 s",
        provider(TEN_A_SECOND, changes=[(60, 0.1)]),
        8,
        NO_BURST,
        300,
        120,
        changes=[(60, 8)],
    ),
    Scene(
        "e 60 -> 600 rpm at 120 s",
        provider(bucket(60, 10), changes=[(120, 10)]),
        TASKS,
        back(120),
        300,
        240,
        changes=[(120, TASKS)],
    ),
    Scene(
        "e 600 -> 6,000 rpm at 60 s",
        provider(TEN_A_SECOND, changes=[(60, 10)]),
        FULL,
        back(20),
        200,
        100,
        changes=[(60, FULL)],
    ),
    Scene(
        "e a rival takes 300 of 600 rpm",
        provider(TEN_A_SECOND, rivals=[Span(60, 120, 5)]),
        TASKS,
        BURST,
        240,
        150,
        changes=[(60, 40), (120, 80)],
    ),
    Scene("e 60 s of 429s", provider(outages=[Span(30, 90)]), FULL, back(10, 0.9), 180, 90, changes=[(90, FULL)]),
    Scene(
        "e 60 s of 429s, Retry-After 86,400",
        provider(outages=[Span(30, 90)], retry_after=86_400.0),
        FULL,
        back(10, 0.9),
        180,
        90,
        changes=[(90, FULL)],
    ),
    Scene(
        "e 60 s of 429s, Retry-After 30",
        provider(outages=[Span(30, 90)], retry_after=30.0),
        FULL,
        Bounds(),
        180,
        90,
        changes=[(90, FULL)],
    ),
    Scene(
        "e 600 rpm, 60 s of 429s",
        provider(TEN_A_SECOND, outages=[Span(60, 120)]),
        TASKS,
        back(10),
        240,
        120,
        changes=[(120, TASKS)],
    ),
    Scene(
        "e 600 rpm at 60 s, after random 12%",
        provider(TEN_A_SECOND, limits_from=60, noise=noise(0.12, 0, 60)),
        TASKS,
        FOUND,
        240,
        80,
        changes=[(60, TASKS)],
    ),
    Scene(
        "e 600 rpm, no burst, after random 12%",
        provider(bucket(600, 1), limits_from=60, noise=noise(0.12, 0, 60)),
        TASKS,
        NO_BURST,
        240,
        80,
    ),
    Scene(
        "e random 5% at 60 s, after 600 rpm",
        provider(window(600), limits_from=inf, noise=noise(0.05)),
        FULL * 0.95,
        Bounds(),
        240,
        80,
    ),
    Scene(
        "e a crash at 60 s, 600 rpm",
        provider(TEN_A_SECOND),
        TASKS,
        FOUND,
        240,
        80,
        changes=[(60, TASKS)],
        restarts=[60],
    ),
    Scene(
        "e crashes, random 12%",
        provider(noise=noise(0.12)),
        FULL * 0.88,
        NOISE,
        240,
        0,
        restarts=[10, 20, 30, 40, 50, 60, 70, 80, 90, 100],
    ),
    Scene("f 1,000 after a calm", provider(), FULL, CALMED, 400, 0, arrivals=(*CALM, (305, 1_000))),
    Scene(
        "f 1,000 after a calm, random 12%",
        provider(noise=noise(0.12)),
        FULL * 0.88,
        CALMED,
        400,
        0,
        arrivals=(*CALM, (305, 1_000)),
    ),
    Scene(
        "f 2,000 after a calm, 600 rpm",
        provider(TEN_A_SECOND),
        TASKS,
        CALMED,
        600,
        0,
        arrivals=((0, 3_000), *((100 + at, 1) for at, _ in CALM), (405, 2_000)),
    ),
]


def capped(
    name: str, best: float, slots: int = 1_000, text: Callable[[random.Random], Text] = short, **caps: float
) -> Scene:
    """A crash after a while: what is known of the cap outlives it."""
    n = slots / (best * LATENCY_S)
    bounds = Bounds(used=0.75, used_any=0.7, too_large=log2(n) + 3, too_large_late=0.02, too_large_again=0)
    return Scene(name, provider(**caps), best, bounds, 100, 10, restarts=[90], slots=slots, text=text)


CAPS = [
    *(
        capped(f"g at most {most} inputs", most / LATENCY_S, most_inputs=most, text=mixed)
        for most in (10, 32, 64, 100, 512)
    ),
    *(capped(f"g at most {most} inputs, 64 slots", most / LATENCY_S, slots=64, most_inputs=most) for most in (10, 32)),
    capped("g at most 20k tokens", 2e4 / MIXED / LATENCY_S, most_tokens=2e4, text=mixed),
    capped("g at most 16k tokens, long texts", 1.6e4 / LONG / LATENCY_S, most_tokens=1.6e4, text=long),
    capped("g at most 64k tokens, long texts", 6.4e4 / LONG / LATENCY_S, most_tokens=6.4e4, text=long),
    capped("g at most 100 kB", 1e5 / (4 * MIXED) / LATENCY_S, most_bytes=1e5, text=mixed),
    capped(
        "g at most 64 inputs and 16k tokens",
        min(64, 1.6e4 / LONG) / LATENCY_S,
        most_tokens=1.6e4,
        most_inputs=64,
        text=long,
    ),
]

SCENES = [*NO_LIMIT, *LIMIT, *TOLD, *CHANGES, *CAPS]
