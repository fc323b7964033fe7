"""The demo: the real daemon makes 300 embeddings and takes 40 verification requests through their chain of five tasks.

It works for an embedded sandbox, and every result is checked.

All figures are measured: they come from the sandbox, which saw every request, and from the daemon's
``/metrics`` and ``/status``.
"""

from ai_task_processor.cli.demo.course import main, run

__all__ = ["main", "run"]
