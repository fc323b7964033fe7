"""``python -m ai_task_processor``."""

import sys

from ai_task_processor.cli import main

sys.exit(main())
