"""buildah and podman on a machine without systemd and without a registry."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ai_task_processor import __version__
from tests.commands import ran
from tests.ops.prometheus import executable

ROOT = Path(__file__).parents[3]
IMAGE = f"ai-task-processor:{__version__}"
#: No systemd is needed, and no right to raise a limit. netavark, because the names of a network are known to it alone.
CONFIGURATION = """
[containers]
default_ulimits = ["nofile=4096:4096", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
[network]
network_backend = "netavark"
"""


def base_image() -> str:
    """The image that the Dockerfile builds on."""
    tag = (ROOT / "Dockerfile").read_text().partition("ARG PYTHON_TAG=")[2].split()[0]
    return f"python:{tag}"


def build(engine: dict[str, str], folder: Path, tag: str) -> None:
    """Build a folder with a Dockerfile; with the certificates of this machine, which may trust a mirror of its own."""
    options = ["--isolation=chroot", "--pull-never", "--format=docker", "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
    command = [executable("buildah"), "bud", "--quiet", *options, "--tag", tag]
    built = ran(*command, folder, env=engine, timeout=300)
    assert built.returncode == 0, built.stderr


def podman(engine: dict[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    done = ran(executable("podman"), *arguments, env=engine, timeout=90)
    assert done.returncode == 0 or not check, done.stderr
    return done


def inspected(engine: dict[str, str], name: str, kind: str = "image") -> dict[str, Any]:
    found: list[dict[str, Any]] = json.loads(podman(engine, kind, "inspect", name).stdout)
    return found[0]


def logged(engine: dict[str, str], container: str) -> str:
    done = podman(engine, "logs", container)
    return done.stdout + done.stderr
