"""An ``argparse`` parser whose errors suggest what may have been meant."""

import re
from argparse import ArgumentParser
from typing import NoReturn

from ai_task_processor.core.spelling import nearest

_CHOICE = re.compile(r"invalid choice: '([^']*)' \(choose from (.*)\)")


class Parser(ArgumentParser):
    """Also for the commands and actions below it."""

    def error(self, message: str) -> NoReturn:
        found = _CHOICE.search(message)
        meant = nearest(found[1], re.findall(r"[\w-]+", found[2])) if found else None
        super().error(f"{message}: did you mean {meant}?" if meant else message)
