"""What ``--help`` says after the options: examples, and for the whole command line the exit codes."""

from typing import Final

MAIN: Final = """\
Begin with:
  ai-task-processor demo       see it work, without an account or a key
  ai-task-processor doctor     check the settings and every remote
  ai-task-processor config     see which settings are in effect, and where they come from

Settings come from the environment and from .env (see .env.example).
Exit codes: 0 done, 69 a remote is down, 70 a bug of ours, 73 data directory unusable,
74 output lost, 75 try again later (outbox locked, results left), 78 configuration wrong.
"""

EXAMPLES: Final = {
    "run": """\
Examples:
  ai-task-processor run                                      as a service
  CONCURRENCY_LIMIT=20 ai-task-processor run --until-empty   as a job: leave when the list is empty
""",
    "demo": """\
Examples:
  ai-task-processor demo
""",
    "doctor": """\
Examples:
  ai-task-processor doctor
  ai-task-processor doctor && ai-task-processor run
A report for a task that cannot exist (its id is doctor- and a random UUID) is sent to the task API,
to see whether it takes reports; nothing is claimed, changed or stored.
""",
    "config": """\
Examples:
  ai-task-processor config                         every setting with its value and where it comes from
  ai-task-processor config --json | jq '.[] | select(.origin != "default")'
  ai-task-processor config --env > .env            a new .env to fill in
  ai-task-processor config --schema                the JSON Schema, for editors and checks
Secrets are never shown: only whether they are set.
""",
    "drain": """\
Examples:
  ai-task-processor drain || echo "results are left"      before the data directory is removed
""",
    "pause": """\
Examples:
  ai-task-processor pause --reason "the database is moved"
  ai-task-processor resume
CONTROL_TOKEN must be the same for this command and for the daemon.
""",
    "log-level": """\
Examples:
  ai-task-processor log-level                      the level of the running daemon
  ai-task-processor log-level DEBUG --for 15m      then that of LOG_LEVEL again
""",
    "outbox": """\
Examples:
  ai-task-processor outbox list --dead             what was given up, and why
  ai-task-processor outbox retry 665f0c00000000000000beef
""",
    "new": """\
Examples:
  ai-task-processor new processor word-count       writes ./word-count-processor
""",
    "types": """\
Examples:
  ai-task-processor types list
  echo '{"text": "hello"}' | ai-task-processor types try sentiment -
""",
    "sources": """\
Examples:
  ai-task-processor sources list
  ai-task-processor sources check ./shop.toml      what a profile makes of the pending tasks
""",
    "sandbox": """\
Examples:
  ai-task-processor sandbox                        then, in another shell, with the settings that it prints:
  ai-task-processor run
  ai-task-processor sandbox --profile due-soon --port 9000
""",
    "status": """\
Examples:
  ai-task-processor status --watch
  ai-task-processor status --json | jq .why_idle
""",
    "healthcheck": """\
Examples:
  ai-task-processor healthcheck && echo well
  METRICS_PORT=9001 ai-task-processor healthcheck  another daemon on this machine
""",
}
