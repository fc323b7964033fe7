"""What is stored of a result: artifacts, in their order, and a summary. Pure.

``echo``, and a type that is not known here, has one: ``echo_result``, the output as JSON, with the summary
``echo result``.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from uuid import UUID, uuid5

from ai_task_processor.core import codec
from ai_task_processor.models.task import TaskResult

JSON: Final = "application/json"
#: type, content type and content of an artifact
Part = tuple[str, str, bytes]


@dataclass(frozen=True, slots=True)
class Artifact:
    """``id``: the same for each repetition of the same claim's report."""

    id: str
    type: str
    content_type: str
    content: bytes = field(repr=False)


def artifacts_of(task_type: str, result: TaskResult, run_id: str) -> tuple[Sequence[Artifact], str]:
    """The artifacts of a result, and its summary. ``run_id``: that of the claim."""
    try:
        parts, summary = _parts(task_type, result.output)
    except (KeyError, TypeError, AttributeError):  # of a processor of another package
        parts, summary = [], ""
    parts = parts or [(f"{task_type}_result", JSON, codec.result_json(result.output, result.vector))]
    run = UUID(run_id)
    made = [
        Artifact(str(uuid5(run, f"{kind}\0{number}")), kind, content_type, content)
        for number, (kind, content_type, content) in enumerate(parts)
    ]
    return made, summary or f"{task_type} result"


def _parts(task_type: str, output: Any) -> tuple[list[Part], str]:
    """The parts of a result of a type with a summary of its own; none for another type."""
    match task_type:
        case "sleep":
            seconds = output["slept_seconds"]
            return [], f"slept {seconds} seconds"
        case "search":
            return list(_search(output)), output["summary"]
        case "search_batch":
            queries = [{name: part for name, part in query.items() if name != "raw"} for query in output["queries"]]
            whole = ("search_batch_results", JSON, codec.dumps({"queries": queries}))
            return [whole, *(part for query in output["queries"] for part in _search(query))], output["summary"]
        case "fetch_url":
            html = [("fetch_html", "text/html", output["html"].encode())] if "html" in output else []
            return [("fetch_text", "text/plain", output["text"].encode()), *html], output["summary"]
        case _:
            return [], ""


def _search(found: Mapping[str, Any]) -> Iterator[Part]:
    """The results of one query, then what each search API answered."""
    names = ("query", "results", "sources_used", "retrieved_at")
    yield "search_results", JSON, codec.dumps({name: found[name] for name in names})
    for source in found["sources_used"]:
        yield "search_raw", JSON, codec.dumps(found["raw"][source])
