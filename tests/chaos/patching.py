"""Puts something in the place of a name of the product, and never misses: a hook on nothing proves nothing."""

from collections.abc import Callable
from typing import Any


def replaced(owner: Any, name: str, wrap: Callable[[Any], Any]) -> None:
    """Set ``owner.name`` to ``wrap(what was there)``. Raises ``SystemExit`` when the product has no such name."""
    if name not in vars(owner):
        raise SystemExit(f"chaos: {owner!r} has no {name!r} any more: the hook on it must be mended")
    setattr(owner, name, wrap(vars(owner)[name]))
