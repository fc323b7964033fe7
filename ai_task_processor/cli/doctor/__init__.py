"""``ai-task-processor doctor``: what stands between this configuration and a working daemon, and how to mend it.

The daemon's own components are asked, with the clients that they would use, so that what passes here works there.
Nothing is claimed, reported or kept.
"""

from ai_task_processor.cli.doctor.main import main

__all__ = ["main"]
