"""``ai-task-processor doctor``: what stands between this configuration and a working daemon, and how to mend it.

The daemon's own parts are asked (client, token source, list reader, provider), so that what passes
here works there. Nothing is claimed, reported or kept.
"""

from ai_task_processor.cli.doctor.examination import main

__all__ = ["main"]
