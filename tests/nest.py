"""The source of the NestJS API, as its profile makes it, and parts of it."""

import re
from functools import partial

from ai_task_processor.core.plugins import find
from ai_task_processor.models.task import Task
from ai_task_processor.sources.rest import answers
from ai_task_processor.sources.rest.bodies import Bodies
from ai_task_processor.sources.rest.profile import RestProfile
from ai_task_processor.sources.rest.source import RestSource
from ai_task_processor.sources.rest.wire import Invalid, Records


def _source() -> type[RestSource]:
    found: type[RestSource] = find("sources", "aletheia").load()
    return found


NestSource = _source()
PROFILE: RestProfile = NestSource.profile
PENDING, TASK = PROFILE.listing.path, PROFILE.report.path
body_of = Bodies(PROFILE.report).of
BARE_FAILURE = Bodies(PROFILE.report).bare_failure or b""
acknowledged = partial(answers.acknowledged, words=answers.Words.of(PROFILE))


def parse_record(record: bytes, id_pattern: re.Pattern[str]) -> Task | Invalid:
    return Records(PROFILE, id_pattern).parse(record)
