"""Results in the shape that the upstream's callbacks accept, and the rules of those callbacks. Pure.

What a callback accepts was read in the upstream's source: a broken rule answers 400 or 500 after the task was saved as
succeeded, and the request that the task belongs to is lost. So ``checked`` runs before a result is stored.
"""

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol

from ai_task_processor.core import codec
from ai_task_processor.core.errors import TaskError
from ai_task_processor.processors.chat.aletheia import (
    DEFINING_IMPACT_AREA,
    DEFINING_SEVERITY,
    DEFINING_TOPICS,
    IDENTIFYING_DATA,
)

SEVERITIES = ("critical", "high_3", "high_2", "high_1", "medium_3", "medium_2", "medium_1", "low_3", "low_2", "low_1")
LANGUAGE = "pt"
#: the upstream's JSON parser refuses larger bodies, bytes; the rest of a body takes less than the margin
MAX_BODY_BYTES, MARGIN_BYTES = 100_000, 200
#: characters of a name that may be one, of a text beside a name, and topics of a claim
MAX_NAME, MAX_TEXT, MAX_TOPICS = 250, 1_000, 10

_SPACES = re.compile(r"\s+")
#: letters that no accent is taken from, as slugs of the upstream write them
_LETTERS = str.maketrans({"ø": "o", "ł": "l", "đ": "d", "ð": "d", "þ": "th", "æ": "ae", "œ": "oe"})


class Entity(Protocol):
    """What Wikidata knows of somebody."""

    @property
    def id(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def description(self) -> str: ...
    @property
    def aliases(self) -> Sequence[str]: ...


def tidy(text: str) -> str:
    """Without control characters, lone surrogates and spaces around or side by side."""
    printable = "".join(" " if unicodedata.category(char) in ("Cc", "Cs") else char for char in text)
    return _SPACES.sub(" ", printable).strip()


def slug(name: str) -> str:
    """What is equal for two names that the upstream stores as one: lower case, without accents, letters and digits."""
    plain = unicodedata.normalize("NFKD", name.casefold().translate(_LETTERS))
    return "".join(char for char in plain if char.isalnum())


def without_doubles(
    entries: Iterable[Mapping[str, Any]], id_of: Callable[[Mapping[str, Any]], object]
) -> Sequence[Mapping[str, Any]]:
    """The entries whose name has a slug, without those whose slug or id (``id_of`` an entry) came before."""
    seen, kept = set[object](), list[Mapping[str, Any]]()
    for entry in entries:
        keys = {("slug", slug(entry["name"])), *([("id", id_of(entry))] if id_of(entry) else [])}
        if slug(entry["name"]) and seen.isdisjoint(keys):
            kept.append(entry)
        seen |= keys
    return kept


def mentions(answer: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """The people of a checked answer, each name once. Raises ``TaskError`` when none of them has a name."""
    people = [
        {
            "name": tidy(each["name"]),
            "mentioned_as": tidy(each["mentioned_as"])[:MAX_TEXT],
            "confidence": each["confidence"],
            "context": tidy(each["context"])[:MAX_TEXT],
        }
        for each in answer["personalities"]
    ]
    named = without_doubles(people, lambda _: None)
    if people and not named:
        raise TaskError("invalid_output", "the model names people without names")
    return named


def with_entity(mention: Mapping[str, Any], entity: Entity) -> Mapping[str, Any]:
    """A mention with the entity it is about."""
    wikidata = {
        "id": entity.id,
        "url": f"https://www.wikidata.org/wiki/{entity.id}",
        "label": entity.label,
        "description": entity.description,
        "aliases": list(entity.aliases),
    }
    return {**mention, "wikidata": wikidata}


def unknown(mention: Mapping[str, Any]) -> Mapping[str, Any]:
    """A mention of somebody without an entity."""
    wikidata = {"id": None, "url": None, "label": mention["name"], "description": "", "aliases": []}
    return {**mention, "wikidata": wikidata}


def personalities(people: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """``people``: mentions with ``wikidata``. As small as the upstream's limit asks for."""
    kept = without_doubles(people, lambda each: each["wikidata"]["id"])
    shorter = [{**each, "wikidata": {**each["wikidata"], "aliases": []}} for each in kept]
    shortest = [{**each, "context": "", "mentioned_as": ""} for each in shorter]
    return next(
        ({"personalities": each} for each in (kept, shorter) if _fits({"personalities": each})),
        {"personalities": shortest},
    )


def named_topics(answer: Mapping[str, Any]) -> Sequence[str]:
    """The names of a checked answer, each once, at most ``MAX_TOPICS``. Raises ``TaskError`` (``no_topics``)."""
    named = ({"name": tidy(each["name"])} for each in answer["topics"])
    names = [each["name"] for each in without_doubles(named, lambda _: None) if len(each["name"]) <= MAX_NAME]
    if not names:
        raise TaskError("no_topics", "the model finds no topics")
    return names[:MAX_TOPICS]


def topics(ids: Mapping[str, str | None]) -> Sequence[Mapping[str, Any]]:
    """``ids``: by name."""
    entries = ({"name": name, "wikidataId": found, "language": LANGUAGE} for name, found in ids.items())
    return without_doubles(entries, lambda each: each["wikidataId"])


def impact_area(answer: Mapping[str, Any], wikidata_id: str | None) -> Mapping[str, Any]:
    """The name is left as it is: it is one of a closed list, letter by letter."""
    description = tidy(answer["description"])[:MAX_TEXT]
    return {"name": answer["name"], "description": description, "wikidataId": wikidata_id, "language": LANGUAGE}


def checked(task_type: str, result: object, areas: Sequence[str] = ()) -> object:
    """The result itself. Raises ``TaskError`` (``invalid_output``, ``result_too_large``) when a rule is broken."""
    if not _RULES[task_type](result) or (areas and _field(result, "name") not in areas):
        raise TaskError("invalid_output", "the result breaks a rule of the callback")
    if not _fits(result):
        raise TaskError("result_too_large", f"the result has more than {MAX_BODY_BYTES} bytes")
    return result


def _people_fit(result: object) -> bool:
    people = _field(result, "personalities")
    return (
        isinstance(people, list)
        and all(_is_name(_field(each, "name")) for each in people)
        and _differ(_field(each, "name") for each in people)
        and _differ(found for each in people if (found := _field(_field(each, "wikidata"), "id")))
    )


def _topics_fit(result: object) -> bool:
    return (
        isinstance(result, list)
        and len(result) > 0
        and all(_is_name(_field(each, "name")) for each in result)
        and _differ(_field(each, "name") for each in result)
    )


_RULES: Mapping[str, Callable[[object], bool]] = {
    IDENTIFYING_DATA: _people_fit,
    DEFINING_TOPICS: _topics_fit,
    DEFINING_IMPACT_AREA: lambda result: _is_name(_field(result, "name")),
    DEFINING_SEVERITY: lambda result: _field(result, "severity") in SEVERITIES,
}


def _field(value: object, name: str) -> Any:
    return value.get(name) if isinstance(value, Mapping) else None


def _is_name(name: object) -> bool:
    return isinstance(name, str) and bool(name.strip())


def _differ(values: Iterable[str]) -> bool:
    slugs = [slug(value) for value in values]
    return len(set(slugs)) == len(slugs)


def _fits(result: object) -> bool:
    return len(codec.dumps(result)) <= MAX_BODY_BYTES - MARGIN_BYTES
