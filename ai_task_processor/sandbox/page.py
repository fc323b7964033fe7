"""The sandbox's page for browsers."""

from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from jinja2 import Template

#: nothing is loaded and no script runs: the page shows what others have sent
POLICY = "default-src 'none'; style-src 'unsafe-inline'"


@cache
def template() -> "Template":
    """``page.html``; every value is escaped."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    loader = FileSystemLoader(Path(__file__).parent)
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True).get_template(
        "page.html"
    )
