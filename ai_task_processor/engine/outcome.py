"""Classifies a failed attempt as failed or released, by whose fault it was. A pure function."""

import random

from ai_task_processor.core.errors import CircuitOpen, RemoteError, Retry, TaskError
from ai_task_processor.models.task import Failed, Failure, Released, Tries

MAX_ATTEMPTS = 3
#: longest delay before a task is claimed again after a remote failed; Retry-After may ask for more
LONGEST_RELEASE_S = 60.0
LONGEST_RETRY_AFTER_S = 900.0
LONGEST_RETRY_S = 86_400.0
MAX_CODE, MAX_MESSAGE = 64, 500


def classify(error: BaseException, tries: Tries, rng: random.Random, limit: int = MAX_ATTEMPTS) -> Failed | Released:
    """The outcome of a failed attempt. Counts the failure in ``tries``.

    Only a ``TaskError``, or a processor that crashed on the task ``limit`` times, ends it ``failed``.
    """
    if isinstance(error, TaskError):
        return Failed(Failure(text(error.code, MAX_CODE), text(error.message, MAX_MESSAGE)))
    if isinstance(error, Retry):
        return Released(bounded(error.delay_s, LONGEST_RETRY_S), "the processor asked for more time")
    requested_s = bounded(error.retry_after_s, LONGEST_RETRY_AFTER_S) if isinstance(error, RemoteError) else 0.0
    if isinstance(error, CircuitOpen) and requested_s > 0:
        # No call was made: the breaker names the delay, and the task's own backoff does not grow.
        return Released(requested_s, text(error))
    tries.failed += 1
    growing_s = min(2.0 ** min(tries.failed, 16), LONGEST_RELEASE_S) * rng.uniform(0.5, 1.0)
    if isinstance(error, RemoteError):
        return Released(max(requested_s, growing_s), text(error))
    name = "timeout" if isinstance(error, TimeoutError) else type(error).__name__
    tries.crashed += 1
    if tries.crashed >= limit:
        return Failed(Failure("processor_error", f"{limit} attempts ended with {name}"))
    failure = Failure("processor_error", f"attempt {tries.crashed} of {limit} ended with {name}")
    return Released(growing_s, f"processor_error: {name}", failure)


def bounded(seconds: object, longest_s: float) -> float:
    """At most ``longest_s``; 0 for what is negative or no number, because plug-ins may raise anything."""
    return min(max(0.0, seconds), longest_s) if isinstance(seconds, int | float) else 0.0


def text(value: object, limit: int = MAX_MESSAGE) -> str:
    """Shortened, and without lone surrogates, which UTF-8 cannot encode."""
    return str(value)[:limit].encode("utf-8", "replace").decode()
