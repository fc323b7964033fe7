"""Start the daemon without installing the package: ``python run.py`` is ``ai-task-processor run``."""

import sys

from ai_task_processor.cli import main

if __name__ == "__main__":
    sys.exit(main(["run", *sys.argv[1:]]))
