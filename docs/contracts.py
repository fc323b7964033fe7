"""What the contract suites require, in ``plugins.md``: the sentence of each promise."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from ai_task_processor import testing
from docs.generated import Part, code

SUITES: Mapping[str, Sequence[Callable[..., Any]]] = {
    "Processor": testing.PROCESSOR_PROMISES,
    "Source": testing.SOURCE_PROMISES,
    "Store": testing.STORE_PROMISES,
    "Sink": testing.SINK_PROMISES,
    "Provider of embeddings": testing.PROVIDER_PROMISES,
}


def parts(_page: str) -> Iterator[Part]:
    yield "promises", _promises()


def _promises() -> Iterator[str]:
    for port, promises in SUITES.items():
        yield from (f"### {port}", "")
        yield from (
            f"- **{promise.__name__.replace('_', ' ')}**: {code(promise.__doc__ or '')}" for promise in promises
        )
        yield ""
