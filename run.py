"""Start the daemon without installing the package: ``python run.py`` is ``ai-task-processor run``."""

import sys

from ai_task_processor.core import process

if __name__ == "__main__":
    process.begin()

    from ai_task_processor.cli.main import main

    sys.exit(process.guarded(lambda: main(["run", *sys.argv[1:]])))
