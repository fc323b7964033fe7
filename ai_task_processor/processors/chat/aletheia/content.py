"""The content of a claim's tasks, also of older forms and with fields that break their rules. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ai_task_processor.core.errors import TaskError
from ai_task_processor.processors.chat.aletheia.shapes import tidy

#: the most entries of a list, and characters of a name in it
MAX_ENTRIES, MAX_NAME = 1_000, 250
#: the most topics and people that are sent to the model
MAX_TOLD = 50

#: older names of fields with ids
_ID_FIELDS = ("impactAreaWikidataId", "topicsWikidataIds", "personalityWikidataId")


@dataclass(frozen=True, slots=True)
class Named:
    """An entity that an earlier task found; either of the two may be missing, not both."""

    name: str
    id: str | None


@dataclass(frozen=True, slots=True)
class Claim:
    """``fields``: the whole content, ``text``: the claim; both as they came."""

    fields: Mapping[str, object]
    text: object

    def found(self) -> Mapping[str, Sequence[Named]]:
        """What earlier tasks found, by what it is called in the prompt. Raises ``TaskError``."""
        fields = self.fields
        found = {
            "Impact area": _entities(fields.get("impactArea"), "impactArea", one=True),
            "Topics": _entities(fields.get("topics"), "topics"),
            "People": _entities(fields.get("personalities"), "personalities"),
        }
        for (label, entities), older in zip(found.items(), _ID_FIELDS, strict=True):
            ids = fields.get(older)
            if not entities and ids is not None:
                ids = [ids] if isinstance(ids, str) else ids
                found[label] = [Named("", each) for each in _strings(ids, older)]
        return found

    def ids(self) -> Sequence[str]:
        return [each.id for entities in self.found().values() for each in entities if each.id]

    def context(self, counts: Mapping[str, tuple[int, int]]) -> str:
        """What the model gets beside the text. ``counts``: sitelinks and statements by id."""
        return "\n".join(
            f"{label}: {'; '.join(_told(each, counts) for each in entities) or 'none'}"
            for label, entities in self.found().items()
        )


def claim(content: object) -> Claim:
    """Raises ``TaskError`` (``invalid_content``) when it is no object and no text."""
    if isinstance(content, str):
        return Claim({}, content)
    if not isinstance(content, Mapping):
        raise TaskError("invalid_content", "content is no object")
    return Claim(content, content.get("text", content.get("contentSummary")))


def area_names(content: object, usual: Sequence[str]) -> tuple[str, ...]:
    """The task's closed list, each name once; ``usual`` when it brings none. Raises ``TaskError``."""
    options = content.get("options") if isinstance(content, Mapping) else None
    if options is None or options == []:
        return tuple(usual)
    names = tuple(dict.fromkeys(_strings(options, "options")))
    if not all(tidy(name) for name in names):
        raise TaskError("invalid_content", "content.options has an empty name")
    return names


def _strings(values: object, name: str) -> Iterator[str]:
    if not isinstance(values, list) or len(values) > MAX_ENTRIES:
        raise TaskError("invalid_content", f"content.{name} is no list of at most {MAX_ENTRIES} names")
    for value in values:
        if not isinstance(value, str) or len(value) > MAX_NAME:
            raise TaskError("invalid_content", f"content.{name} has an entry that is no name")
        yield value


def _entities(value: object, name: str, *, one: bool = False) -> Sequence[Named]:
    if value is None:
        return ()
    values = [value] if one else value
    if not isinstance(values, list) or len(values) > MAX_ENTRIES:
        raise TaskError("invalid_content", f"content.{name} is no list of at most {MAX_ENTRIES} entries")
    return [_entity(each, name) for each in values][:MAX_TOLD]


def _entity(value: object, name: str) -> Named:
    fields = {"name": value} if isinstance(value, str) else value
    if not isinstance(fields, Mapping):
        raise TaskError("invalid_content", f"content.{name} has an entry without a name")
    label, entity_id = fields.get("name"), fields.get("wikidataId")
    if not isinstance(label, str) or not isinstance(entity_id, str | None) or len(label) > MAX_NAME:
        raise TaskError("invalid_content", f"content.{name} has an entry without a name")
    return Named(tidy(label), entity_id)


def _told(entity: Named, counts: Mapping[str, tuple[int, int]]) -> str:
    sitelinks, statements = counts.get(entity.id or "", (None, None))
    known = "not available" if sitelinks is None else f"{sitelinks} sitelinks, {statements} statements"
    return f"{entity.name or entity.id} ({known})"
