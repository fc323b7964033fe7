"""Wikidata's Action API, as far as the daemon uses it: ``wbsearchentities`` and ``wbgetentities``."""

from collections import Counter
from collections.abc import Iterable, Mapping

from ai_task_processor.sandbox.answers import Response, answer
from ai_task_processor.sandbox.claims import ENTITIES, Known


class WikidataApi:
    """Answers from ``entities``. ``requests`` counts what was asked, by action and value."""

    def __init__(self, entities: Iterable[Known] = ENTITIES) -> None:
        self.entities = {entity.id: entity for entity in entities}
        self.requests: Counter[str] = Counter()

    def answer(self, query: Mapping[str, str]) -> Response:
        action = query.get("action", "")
        self.requests[f"{action} {query.get('search') or query.get('ids')}"] += 1
        if action == "wbsearchentities" and query.get("search") and query.get("language"):
            return answer({"search": self._hits(query["search"], int(query.get("limit", "7"))), "success": 1})
        if action == "wbgetentities" and query.get("ids"):
            ids = query["ids"].split("|")
            if len(ids) <= 50:
                return answer({"entities": {each: self._entity(each) for each in ids}, "success": 1})
        return answer({"error": {"code": "badvalue", "info": "The sandbox does not know this request."}})

    def _hits(self, search: str, limit: int) -> list[dict[str, object]]:
        found = [each for each in self.entities.values() if each.name.casefold().startswith(search.casefold())]
        return [{"id": each.id, "label": each.name, "description": f"known as {each.id}"} for each in found[:limit]]

    def _entity(self, entity_id: str) -> dict[str, object]:
        entity = self.entities.get(entity_id)
        if entity is None:
            return {"id": entity_id, "missing": True}
        kind = {"mainsnak": {"datavalue": {"value": {"id": entity.kind}}}, "rank": "normal"}
        return {
            "type": "item",
            "id": entity_id,
            "labels": {"en": {"language": "en", "value": entity.name}},
            "descriptions": {"en": {"language": "en", "value": f"known as {entity_id}"}},
            "aliases": {"en": [{"language": "en", "value": f"{entity.name} (BR)"}]},
            "claims": {"P31": [kind], "P1": [{}] * (entity.statements - 1)},
            "sitelinks": {f"wiki{number}": {} for number in range(entity.sitelinks)},
        }
