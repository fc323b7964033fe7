"""``python -m docs`` writes what is generated: parts of the pages here, and the JSON Schema of profiles.

A test compares them with the code.
"""

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from docs import alerts, commands, contracts, events, metrics, profiles, settings
from docs.generated import Part, filled

FOLDER = Path(__file__).parent
PAGES: Mapping[str, Callable[[str], Iterable[Part]]] = {
    "commands.md": commands.parts,
    "configuration.md": settings.parts,
    "logs.md": events.parts,
    "metrics.md": metrics.parts,
    "operations.md": alerts.parts,
    "plugins.md": contracts.parts,
    "profiles.md": profiles.parts,
}


def current() -> Mapping[Path, str]:
    """Each file with generated parts, as it must be."""
    pages = {FOLDER / name: parts for name, parts in PAGES.items()}
    texts = {page: page.read_text("utf-8") for page in pages}
    return {**{page: filled(texts[page], parts(texts[page])) for page, parts in pages.items()},
            profiles.SCHEMA: profiles.schema_text()}  # fmt: skip


if __name__ == "__main__":
    for file, text in current().items():
        file.write_text(text, "utf-8")
