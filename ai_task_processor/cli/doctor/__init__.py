"""``ai-task-processor doctor``: checks configuration and remotes, and names a remedy for each problem.

The checks are those of the daemon's own components, with the clients that the daemon uses. Nothing is claimed or
stored, and the only report is that of a task that cannot exist.
"""

from ai_task_processor.cli.doctor.main import main

__all__ = ["main"]
