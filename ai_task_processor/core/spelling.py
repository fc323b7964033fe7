"""Finds misspelled names: of variables in the environment and in ``.env``, and of commands."""

from collections.abc import Collection, Iterable, Mapping
from difflib import SequenceMatcher, get_close_matches

#: of two words that one typing error tells apart: FORMAT and FORMATTER have 0.8, APP and API 0.67, TYPE and TYPES 0.89
LEAST_RATIO = 0.85
#: what people add to names, and leave out
_UNITS = frozenset({"SECONDS", "SECOND", "SECS", "SEC", "S", "MS", "BYTES", "MB", "MIB", "URL", "FILE"})
#: variables of others that differ from ours by one letter
_ORDINARY = frozenset({"HTTP_PROXY", "http_proxy", "https_proxy", "no_proxy"})


def misspelled(given: Iterable[str], known: Collection[str]) -> Mapping[str, str]:
    """Which of the given variables seem to be meant as a known one, and as which. No variable of others is.

    Names are compared word by word: one word with a typing error, an underscore, a unit more or less, lower case.
    """
    by_words = {name: name.split("_") for name in sorted(known)}
    found = {}
    for name in given:
        if name not in known and name not in _ORDINARY:
            words = name.upper().split("_")
            meant = next((each for each, theirs in by_words.items() if _close(words, theirs)), None)
            if meant is not None:
                found[name] = meant
    return found


def _close(words: list[str], known: list[str]) -> bool:
    if "".join(words) == "".join(known):
        return True
    if len(words) == len(known):
        differing = [pair for pair in zip(words, known, strict=True) if pair[0] != pair[1]]
        return len(known) > 1 and len(differing) == 1 and _same_word(*differing[0])
    shorter, longer = sorted((words, known), key=len)
    return len(shorter) > 1 and longer[:-1] == shorter and longer[-1] in _UNITS


def _same_word(word: str, known: str) -> bool:
    return sorted(word) == sorted(known) or SequenceMatcher(None, word, known).ratio() >= LEAST_RATIO


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is nearest to a wrong one, if one is near."""
    return next(iter(get_close_matches(name, list(known), 1)), None)
