"""``python -m ai_task_processor``."""

import sys

from ai_task_processor.core import process

process.begin()

from ai_task_processor.cli.main import main  # noqa: E402 - the handlers of signals come first

sys.exit(main())
