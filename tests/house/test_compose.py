"""The image and the compose file keep their promises to operators: rights, limits, ports, what starts with what."""

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import uvloop
import yaml

from ai_task_processor.core.plugins import BUILT_IN, built_in_groups
from ai_task_processor.core.variables import variables
from tests.commands import ran

ROOT = Path(__file__).parents[2]
DAEMON = "ai-task-processor"

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
INSTRUCTIONS = [
    tuple(line.split(maxsplit=1))
    for line in re.sub(r"\\\n|^#.*\n", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE).splitlines()
    if line
]

KEYS = {
    "build", "cap_drop", "command", "cpus", "env_file", "environment", "healthcheck", "image", "logging", "mem_limit",
    "pids_limit", "ports", "profiles", "read_only", "restart", "security_opt", "stop_grace_period", "tmpfs", "user",
    "volumes",
}  # fmt: skip

#: ``up -d ai-task-processor`` starts only the daemon: nothing is pulled in, no network is shared by force
PULLED_IN = {"depends_on", "links", "network_mode", "volumes_from"}
RIGHTS = {"privileged", "cap_add", "pid", "ipc", "devices"}

#: files for one profile each, which are put over the compose file
OVER = {file.stem: file for file in sorted((ROOT / "deploy" / "compose").glob("*.yml"))}

every_service = pytest.mark.parametrize("name", SERVICES)


def instructions(word: str) -> list[str]:
    found = [rest for first, rest in INSTRUCTIONS if first == word]
    assert found, f"no {word} in the Dockerfile"
    return found


def test_the_services_are_the_documented_ones() -> None:
    """The daemon (8001), Prometheus (9090) and Grafana (3001) start together; the others only with their profiles."""
    profiles = {name: service.get("profiles", []) for name, service in SERVICES.items()}
    optional = {name: [name] for name in ("alertmanager", "sandbox")}
    assert profiles == {DAEMON: [], "prometheus": [], "grafana": [], **optional}
    ports = {DAEMON: "8001:8001", "prometheus": "9090:9090", "alertmanager": "9093:9093", "grafana": "3001:3000"}
    assert {name: SERVICES[name]["ports"] for name in ports} == {name: [f"127.0.0.1:{ports[name]}"] for name in ports}


@every_service
def test_a_service_has_known_keys(name: str) -> None:
    """A misspelt key is an error to Docker Compose and nothing to others: a new one must be written down here."""
    assert COMPOSE.keys() == {"x-hardened", "x-image", "services", "volumes"}
    assert SERVICES[name].keys() <= KEYS
    assert SERVICES[name]["healthcheck"].keys() == {"test", "interval", "timeout", "start_period", "retries"}
    assert not KEYS & PULLED_IN
    assert not KEYS & RIGHTS


@every_service
def test_a_service_has_few_rights(name: str) -> None:
    """Read-only root, no capability, no new privileges."""
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@every_service
def test_a_service_has_limits_and_a_probe(name: str) -> None:
    """Memory, CPU, processes and logs are bounded, health is checked, and a crash is followed by a restart."""
    service = SERVICES[name]
    assert service.keys() >= {"mem_limit", "cpus", "pids_limit"}
    assert service["logging"]["options"].keys() >= {"max-size", "max-file"}
    assert service["healthcheck"]["test"][0] == "CMD"
    assert service["restart"] == "unless-stopped"


@every_service
def test_images_are_pinned_and_ports_are_on_loopback(name: str) -> None:
    """An image has the tag of a full version, and no registry host. Nothing is reachable from another machine."""
    assert SERVICES[name]["ports"]
    assert all(re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port) for port in SERVICES[name]["ports"])
    assert re.fullmatch(r"[a-z-]+(/[a-z-]+)?:v?\d+\.\d+\.\d+", SERVICES[name]["image"])


@every_service
def test_mounted_files_exist_and_are_read_only(name: str) -> None:
    """Docker would make an empty directory of a missing file; named volumes are declared."""
    for volume in SERVICES[name].get("volumes", ()):
        source, _, mode = (*volume.split(":"), "")[:3]
        if source.startswith("."):
            assert (ROOT / source).exists(), source
            assert mode == "ro", source
        else:
            assert source in COMPOSE["volumes"]


def test_the_daemon_keeps_its_outbox_and_gets_time_to_drain() -> None:
    """The outbox is a volume with a fixed name; 30 s pass between SIGTERM and SIGKILL; ``.env`` cannot move either."""
    service = SERVICES[DAEMON]
    assert service["volumes"] == ["outbox:/data"]
    assert COMPOSE["volumes"]["outbox"] == {"name": "ai-task-processor-outbox"}
    assert service["stop_grace_period"] == "30s"
    assert service["env_file"] == ".env"
    assert service["environment"] == {"DATA_DIR": "/data", "METRICS_HOST": "0.0.0.0", "METRICS_PORT": "8001"}
    assert service["user"] == "10001:10001"


def test_grafana_has_one_variable_for_its_password() -> None:
    """admin/admin, unless GRAFANA_ADMIN_PASSWORD says otherwise; it gets none of the daemon's secrets."""
    service = SERVICES["grafana"]
    assert service["environment"]["GF_SECURITY_ADMIN_USER"] == "admin"
    assert service["environment"]["GF_SECURITY_ADMIN_PASSWORD"] == "${GRAFANA_ADMIN_PASSWORD:-admin}"
    assert "env_file" not in service


def test_monitoring_finds_its_remotes() -> None:
    """Prometheus scrapes the daemon under the job its rules name; Grafana asks Prometheus and finds its dashboards."""
    config = yaml.safe_load((ROOT / "monitoring/prometheus.yml").read_text())
    scraped = {job["job_name"]: job["static_configs"][0]["targets"] for job in config["scrape_configs"]}
    assert scraped[DAEMON] == [f"{DAEMON}:8001"]
    assert config["rule_files"] == ["/etc/prometheus/rules.yml"]
    (receiver,) = config["alerting"]["alertmanagers"]
    assert receiver == {"dns_sd_configs": [{"names": ["alertmanager"], "type": "A", "port": 9093}]}
    assert "./monitoring:/etc/prometheus:ro" in SERVICES["prometheus"]["volumes"]
    provisioning = ROOT / "grafana/provisioning"
    source = yaml.safe_load((provisioning / "datasources/prometheus.yml").read_text())["datasources"][0]
    assert source["url"] == "http://prometheus:9090"
    folder = yaml.safe_load((provisioning / "dashboards/files.yml").read_text())["providers"][0]["options"]["path"]
    assert f"./grafana/dashboards:{folder}:ro" in SERVICES["grafana"]["volumes"]


@pytest.mark.parametrize("profile", OVER)
def test_a_file_for_a_profile_changes_only_what_it_must(profile: str) -> None:
    """It selects its profile, mounts what is there, and says how it is run; settings are those that the daemon has."""
    text = OVER[profile].read_text()
    over = yaml.safe_load(text)
    daemon, *others = over["services"].items()
    path = f"deploy/compose/{profile}.yml"
    command = " ".join(["up -d", DAEMON, *(name for name, _ in others)])
    assert f"#   docker-compose -f docker-compose.yml -f {path} {command}\n" in text
    assert over.keys() <= {"services", "volumes"}
    assert daemon[0] == DAEMON
    assert daemon[1].keys() <= {"environment", "volumes"}
    assert daemon[1]["environment"]["TASK_SOURCE"] == profile
    if profile in BUILT_IN["sources"]:
        assert daemon[1]["environment"].keys() <= {variable.name for variable in variables(built_in_groups())}
    for name, service in over["services"].items():
        for volume in service.get("volumes", ()):
            source, mode = volume.split(":")[0], volume.rpartition(":")[2]
            assert source in over.get("volumes", ()) or mode == "ro", (name, volume)
            assert not source.startswith("./") or (ROOT / source).is_file(), source
    for _, service in others:
        assert service.keys() <= KEYS
        assert service.keys() >= {"read_only", "cap_drop", "restart", "mem_limit", "cpus", "pids_limit", "healthcheck"}
        assert re.fullmatch(r"[a-z-]+:\d+\.\d+(\.\d+)?", service["image"])
        assert "ports" not in service


def test_the_dockerfile_is_clean() -> None:
    """hadolint has nothing to say, at its lowest threshold."""
    linted = ran(Path(sys.executable).with_name("hadolint"), "--failure-threshold", "style", "Dockerfile", cwd=ROOT)
    assert (linted.returncode, linted.stdout) == (0, "")


def test_the_image_runs_as_a_numbered_user() -> None:
    """Kubernetes can check ``runAsNonRoot`` only for numbers; the data directory is the one writable place."""
    assert instructions("USER") == ["10001:10001"]
    assert instructions("VOLUME") == ["/data"]
    assert any("-o 10001 -g 10001 /data" in line for line in instructions("RUN"))


def test_the_daemon_is_process_one() -> None:
    """Exec forms only: with a shell in between SIGTERM would never arrive; no curl is needed for the probe."""
    assert json.loads(instructions("ENTRYPOINT")[0]) == ["ai-task-processor"]
    assert json.loads(instructions("CMD")[0]) == ["run"]
    assert instructions("HEALTHCHECK")[0].endswith('CMD ["ai-task-processor", "healthcheck"]')


def test_the_image_knows_its_place() -> None:
    """Inside, everything listens where a container must, and prints at once."""
    environment = dict(pair.split("=", 1) for line in instructions("ENV") for pair in line.split())
    expected = {"DATA_DIR": "/data", "METRICS_HOST": "0.0.0.0", "METRICS_PORT": "8001", "PYTHONUNBUFFERED": "1"}
    assert environment.items() >= expected.items()


def test_all_that_the_image_downloads_is_hash_checked() -> None:
    """Each install either requires hashes or asks no index; the base image is chosen by tag and names no registry."""
    commands = [part for line in instructions("RUN") for part in line.split("&&")]
    installs = [part for part in commands if re.search(r"\b(pip|uv)\b.* (install|sync)\b", part)]
    assert len(installs) == 3
    assert all("--require-hashes" in part or "--no-index" in part for part in installs)
    assert not [part for part in commands if re.search(r"\b(curl|wget|apt|apt-get)\b", part)]
    assert {line.split()[0] for line in instructions("FROM")} == {"python:${PYTHON_TAG}"}


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    """.dockerignore refuses everything but the sources of COPY: no .env and no data can slip into a layer."""
    copied = {source for line in instructions("COPY") if not line.startswith("--from") for source in line.split()[:-1]}
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    assert {line[1:] for line in lines if line.startswith("!")} == copied


def test_only_symbols_are_cut_off(tmp_path: Path) -> None:
    """A compiled module with debug symbols gets much smaller and still works; what is no module is left as it is."""
    folder = tmp_path / uvloop.__name__
    shutil.copytree(Path(str(uvloop.__file__)).parent, folder)
    other = folder / "README.so"
    other.write_bytes(b"no module")
    before = sum(file.stat().st_size for file in folder.glob("*.so"))
    ran(sys.executable, ROOT / "deploy/strip_symbols.py", tmp_path).check_returncode()
    after = sum(file.stat().st_size for file in folder.glob("*.so"))
    assert after < before / 4, "uvloop comes without debug symbols now"
    assert other.read_bytes() == b"no module"
    code = "import asyncio, uvloop; uvloop.run(asyncio.sleep(0.01)); print(uvloop.__file__)"
    done = ran(sys.executable, "-c", code, env={"PYTHONPATH": str(tmp_path)})
    assert done.stdout.startswith(str(tmp_path)), done.stderr
