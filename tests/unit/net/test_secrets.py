"""Secrets that are replaced while the process runs: those of the core, too, and what only a restart can change."""

from pathlib import Path

from structlog.testing import capture_logs

from ai_task_processor.core.reading import load_settings
from ai_task_processor.core.settings import OpsSettings, Settings
from ai_task_processor.net.secrets import Secrets


async def test_tokens_of_the_ops_port_are_replaced_and_a_proxy_asks_for_a_restart(tmp_path: Path) -> None:
    """Its clients were made with it: the log does not say that the new one is used."""
    names = {"CONTROL_TOKEN_FILE": "one-of-sixteen-and-more", "HTTPS_PROXY_FILE": "https://me:one@proxy.test"}

    def read() -> Settings:
        return load_settings({name: str(tmp_path / name) for name in names}, None, groups=[])

    def write(number: str) -> None:
        for name, text in names.items():
            (tmp_path / name).write_text(text.replace("one", number))

    write("one")
    secrets = Secrets(read(), read)
    write("two")
    with capture_logs() as lines:
        await secrets.reread()
        await secrets.reread()
    token = secrets[OpsSettings].control_token
    assert (token and token.get_secret_value()) == "two-of-sixteen-and-more"
    assert [(line["event"], line.get("variable")) for line in lines] == [
        ("secret.replaced", "CONTROL_TOKEN"),
        ("settings.warned", None),
    ]
    assert lines[1]["reason"].startswith("HTTPS_PROXY was replaced: restart the daemon")
