"""The most tasks at once of some types: ``CONCURRENCY_LIMITS`` against the types that processors declare. Pure."""

from collections.abc import Collection, Mapping, Sequence


def limits_of(asked: Mapping[str, int], types: Collection[str], slots: int) -> tuple[Mapping[str, int], Sequence[str]]:
    """The limits by the types that processors declare (``-`` means ``_``, too), and a warning for each odd one."""
    limits, warnings = dict[str, int](), list[str]()
    for name, limit in asked.items():
        known = [each for each in types if each.replace("-", "_") == name.replace("-", "_")]
        limits |= dict.fromkeys(known or [name], limit)
        if not known:
            remedy = f"correct it to one of {', '.join(sorted(types))}"
            warnings.append(f"CONCURRENCY_LIMITS has a type that no processor declares, {name!r}: {remedy}")
        elif limit > slots:
            remedy = "lower it, or raise CONCURRENCY_LIMIT"
            warnings.append(
                f"CONCURRENCY_LIMITS permits {limit} {name} tasks, but CONCURRENCY_LIMIT only {slots} in all: {remedy}"
            )
    return limits, warnings
