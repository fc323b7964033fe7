"""The demo: the real daemon processes 300 texts of an embedded sandbox, and the results are checked.

All figures are measured: they come from the sandbox, which saw every request, and from the daemon's
``/metrics`` and ``/status``.
"""

from ai_task_processor.cli.demo.course import main, run

__all__ = ["main", "run"]
