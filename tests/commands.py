"""Commands that tests of the house and of the operations run."""

import subprocess
from pathlib import Path
from typing import Any


def ran(*command: str | Path, timeout: float = 60, **options: Any) -> subprocess.CompletedProcess[str]:
    """A command at its end, with what it printed; whether it may fail is the caller's business."""
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=timeout, **options)
