"""The page at ``/``: the read model for people, without a script. jinja2 is imported when it is first asked for."""

import base64
import hashlib
from collections.abc import Mapping
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ai_task_processor.ops.overview import headline, sections
from ai_task_processor.ops.status import Status

if TYPE_CHECKING:
    from jinja2 import Template

FOLDER = Path(__file__).parent


def render(status: Status, more: Mapping[str, object], now: datetime) -> tuple[bytes, Mapping[str, str]]:
    """The page and its headers. ``more``: the fields that components add to ``/status``."""
    template, headers = _template()
    view = {"headline": headline(status), "sections": sections(status, more)}
    text = template.render(view, now=f"{now:%Y-%m-%d %H:%M:%S} UTC")
    return text.encode("utf-8", "replace"), headers


@cache
def _template() -> "tuple[Template, Mapping[str, str]]":
    """The policy allows the style that is in the page, by its hash, and nothing else (CSP Level 3, 8.3)."""
    from jinja2 import Environment, StrictUndefined

    style = (FOLDER / "page.css").read_text()
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    headers = {
        "Content-Type": "text/html; charset=utf-8",
        "Cache-Control": "no-store",
        "Content-Security-Policy": f"{policy}; frame-ancestors 'none'",
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
    }
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.globals["style"] = style
    return environment.from_string((FOLDER / "page.html").read_text()), headers
