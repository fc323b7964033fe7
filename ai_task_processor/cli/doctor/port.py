"""The check whether the daemon can listen on METRICS_HOST and METRICS_PORT, and which process has the port."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from ai_task_processor.core.checks import Finding, halves, wrong
from ai_task_processor.core.settings import OpsSettings
from ai_task_processor.ops.listener import Listener, Response, unusable

#: the state LISTEN in /proc/net/tcp
_LISTEN: Final = "0A"


async def occupied(ops: OpsSettings) -> Finding | None:
    """The finding for a host or port that the daemon could not use; None when it could."""
    listener = Listener(lambda _: Response())
    try:
        await listener.start(ops.metrics_host, ops.metrics_port)
    except (OSError, UnicodeError) as error:
        text, remedy = halves(unusable(error, ops.metrics_host, ops.metrics_port))
        owner = owner_of(ops.metrics_port) if "METRICS_PORT" in text else None
        return wrong(f"{text}, by {owner}" if owner else text, f"stop it, or {remedy}" if owner else remedy)
    finally:
        await listener.aclose()
    return None


def owner_of(port: int, proc: Path = Path("/proc")) -> str | None:
    """Name and id of a process that listens on a TCP port; None when /proc does not tell."""
    sockets = {f"socket:[{inode}]" for table in ("tcp", "tcp6") for inode in _listening(proc / "net" / table, port)}
    for process in proc.glob("[0-9]*") if sockets else ():
        with suppress(OSError):  # it has ended, or belongs to another user
            if any(str(each.readlink()) in sockets for each in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()!r} (process {process.name})"
    return None


def _listening(table: Path, port: int) -> Iterator[str]:
    """The inodes of sockets that listen on a port (proc(5), /proc/net/tcp)."""
    with suppress(OSError):
        for line in table.read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == _LISTEN and int(columns[1].rpartition(":")[2], 16) == port:
                yield columns[9]
