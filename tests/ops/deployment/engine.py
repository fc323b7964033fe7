"""buildah and podman on a machine without systemd and without a registry."""

import json
import subprocess
from pathlib import Path
from typing import Any

from ai_task_processor import __version__
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
    options = ["--isolation=chroot", "--pull-never", "--format=docker"]
    command = [executable("buildah"), "bud", "--quiet", *options, "--volume=/etc/ssl/certs:/etc/ssl/certs:ro"]
    built = subprocess.run(
        [*command, "--tag", tag, str(folder)], env=engine, capture_output=True, text=True, check=False, timeout=300
    )
    assert built.returncode == 0, built.stderr


def podman(engine: dict[str, str], *arguments: str, check: bool = True) -> subprocess.CompletedProcess[str]:
    command = [executable("podman"), *arguments]
    done = subprocess.run(command, env=engine, capture_output=True, text=True, check=False, timeout=90)
    assert done.returncode == 0 or not check, done.stderr
    return done


def inspected(engine: dict[str, str], name: str) -> dict[str, Any]:
    (found,) = json.loads(podman(engine, "image", "inspect", name).stdout)
    answer: dict[str, Any] = found
    return answer
