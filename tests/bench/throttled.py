"""429s and the real daemon: at random, and at a hard limit that nobody tells. 8 slots, a model of 40 ms.

The rate with random 429s stands beside the rate without, measured before and after. The hard limit begins after a
phase of random 429s and is a token bucket: 600 calls a minute, 10 at once, no headers.
"""

import asyncio
from random import Random
from statistics import fmean

from tests.bench.contest import Plan, tell
from tests.bench.habits import Run, Seen
from tests.bench.report import Section, at_least, at_most
from tests.contract.habit_rows import Scale, mixed, openai, randomly
from tests.contract.model_habits import Answer, Ask, Habit

SLOTS, LATENCY_S = 8, 0.04
#: share of calls that are refused at random, and of the rate that must be left
SHARES = {0.01: 0.95, 0.05: 0.90, 0.12: 0.80}
TASKS = 2_500
#: calls a second, and at once; seconds of random 429s before, until the limit must be found, and of steady state
LIMIT_S, BURST, NOISE_S, FOUND_S, STEADY_S = 10.0, 10.0, 15.0, 20.0, 40.0
LIMITED_TASKS = 9_000


def too_many(**headers: str) -> Answer:
    answer = openai(429, "Rate limit reached", kind="requests", code="rate_limit_exceeded")
    answer.headers = headers
    return answer


def hard_limit() -> Habit:
    """Random 429s, then the limit."""
    rng = Random(7)
    left, at = BURST, NOISE_S

    def answered(ask: Ask) -> Answer | None:
        nonlocal left, at
        if ask.at < NOISE_S:
            return too_many() if rng.random() < 0.12 else None
        left, at = min(BURST, left + (ask.at - at) * LIMIT_S), ask.at
        if left < 1:
            return too_many()
        left -= 1
        return None

    return answered


async def play(habit: Habit, tasks: int, seconds: float = 120.0) -> Run:
    run = Run(mixed(tasks, 0), habit, latency_s=LATENCY_S)
    await run.play(seconds, CONCURRENCY_LIMIT=SLOTS)
    return run


def rate(seen: Seen) -> float:
    """Tasks a second."""
    return seen.done / max(seen.seconds, 0.01)


async def at_random(section: Section, tasks: int) -> None:
    usual = rate((await play(lambda _: None, tasks)).seen)
    measured: dict[tuple[float, str], Seen] = {}
    for share in SHARES:
        for name, headers in (("none", {}), ("0", {"Retry-After": "0"})):
            tell(f"throttled: {share:.0%}, Retry-After {name}")
            measured[share, name] = (await play(randomly(share, too_many(**headers))(Scale(1.0, 0.0)), tasks)).seen
    after = rate((await play(lambda _: None, tasks)).seen)
    section.rows.append(("without", "", f"{usual:.0f}, {after:.0f}", "", "", ""))
    for (share, name), seen in measured.items():
        left, refused = rate(seen) / fmean((usual, after)), f"{seen.refused / seen.calls:.1%}"
        said = seen.said.get("paced_models", "")[:60]
        section.rows.append((f"{share:.0%} 429", name, f"{rate(seen):.0f}", f"{left:.2f}", refused, said))
        section.bounds += [
            at_least(f"{share:.0%} of calls 429, Retry-After {name}: rate left", left, SHARES[share]),
            at_most(f"{share:.0%}, {name}: good tasks failed", seen.failed, 0, "{:.0f}"),
        ]


async def at_a_limit(section: Section) -> None:
    tell("throttled: 600 calls a minute")
    run = await play(hard_limit(), LIMITED_TASKS, NOISE_S + FOUND_S + STEADY_S)
    seen = run.seen
    begins, refused = NOISE_S + FOUND_S, set(run.server.refused_calls)
    steady = [ask.number for ask in run.server.asked if begins <= ask.at < begins + STEADY_S]
    good = sum(number not in refused for number in steady)
    used, share = good / (LIMIT_S * STEADY_S), 1 - good / max(len(steady), 1)
    paced = seen.said.get("paced_models", "")
    section.rows.append(("600 calls a minute", "none", f"{seen.done}", f"{used:.2f}", f"{share:.1%}", paced[:60]))
    section.bounds += [
        at_least(f"hard limit from {FOUND_S:.0f} s after it began: used", used, 0.9),
        at_most("of its calls refused", share, 0.08, "{:.1%}"),
        at_most("good tasks failed", seen.failed, 0, "{:.0f}"),
    ]


def throttled(plan: Plan) -> list[Section]:
    """For ``make bench``."""
    section = Section("throttled", f"429s, {SLOTS} slots, a model of {LATENCY_S * 1000:.0f} ms")
    section.rows.append(("", "Retry-After", "tasks/s", "of it left, or used", "refused", "said"))
    asyncio.run(at_random(section, plan.tasks(TASKS)))
    asyncio.run(at_a_limit(section))
    return [section]
