"""The demo: the real daemon works through 300 texts of an embedded sandbox, and what it did is checked.

Nothing that is shown is hard-coded: the figures come from the sandbox, which saw every request, and
from the daemon's own ``/metrics`` and ``/status``.
"""

from ai_task_processor.cli.demo.course import main, run

__all__ = ["main", "run"]
