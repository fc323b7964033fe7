"""The page at ``/`` in a browser: pictures in ``OPS_OUTPUT``, nothing wider than a phone, contrast of every text."""

import asyncio
import html
import json
import os
import re
import shutil
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from tests.e2e.conftest import DaemonProcess

#: a script in a page around ours measures it: ours allows none
MEASURED = """
<!DOCTYPE html><iframe width="%d" height="4000" srcdoc="%s"></iframe><pre></pre><script>
onload = () => {
  const inside = document.querySelector("iframe").contentDocument, texts = [];
  for (const one of inside.querySelectorAll("h1, h2, p, th, td, a")) {
    if (!one.textContent.trim()) continue;
    let ground = one;
    while (getComputedStyle(ground).backgroundColor === "rgba(0, 0, 0, 0)" && ground.parentElement)
      ground = ground.parentElement;
    texts.push([one.textContent, getComputedStyle(one).color, getComputedStyle(ground).backgroundColor]);
  }
  const width = inside.documentElement.scrollWidth;
  document.querySelector("pre").textContent = JSON.stringify({ width, texts });
};
</script>
"""
DARK = "--blink-settings=preferredColorScheme=0"
PHONE = 375


@pytest.fixture
async def worker(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[DaemonProcess]:
    """A daemon with something to show: dead letters, an open circuit, tasks that run, a long id and a type unknown."""
    settings = sandbox.environment() | {"DATA_DIR": str(tmp_path / "data"), "CONCURRENCY_LIMIT": "8"}
    sandbox.faults.add("patch", status=422, times=2)
    first = [sandbox.tasks.add(text=f"text {number}") for number in range(50)]
    sandbox.tasks.add(type="unknown")
    running = await DaemonProcess(tmp_path, settings | {"POLLING_INTERVAL_SECONDS": "0.5"}).start()
    try:
        await sandbox.tasks.settled(first[2:], timeout=30)
        sandbox.faults.add("patch", status=503)
        for number in range(20):
            sandbox.tasks.add(text=f"more {number}")
        await running.status_when(lambda status: status["circuits"]["api_delivery"]["state"] == "open", 30)
        sandbox.faults.add("model", hang=True)
        for number in range(20):
            sandbox.tasks.add(text=f"slow {number}")
        await running.status_when(lambda status: len(status["running_tasks"]) == 8, 30)
        yield running
    finally:
        await running.kill()


async def chromium(profile: Path, *arguments: str) -> str:
    """What it prints. A profile of its own: nothing is left behind."""
    command = (
        "chromium",
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--disable-dev-shm-usage",
    )
    process = await asyncio.create_subprocess_exec(
        *command,
        f"--user-data-dir={profile}",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )
    async with asyncio.timeout(60):
        return (await process.communicate())[0].decode()


def contrast(one: str, other: str) -> float:
    """Of two computed colours (WCAG 2.2)."""

    def luminance(colour: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", colour)[:3]]
        linear = [part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


async def measured(text: str, folder: Path, width: int, options: Sequence[str]) -> dict[str, object]:
    wrapper = folder / "wrapper.html"
    wrapper.write_text(MEASURED % (width, html.escape(text)))
    dom = await chromium(folder / "profile", *options, "--dump-dom", wrapper.as_uri())
    found: dict[str, object] = json.loads(html.unescape(dom.split("<pre>")[1].split("</pre>")[0]))
    return found


@pytest.mark.skipif(not shutil.which("chromium"), reason="chromium is not installed here (tests/ops/run installs it)")
async def test_the_page_in_a_browser(worker: DaemonProcess, tmp_path: Path, tell: Callable[[str], None]) -> None:
    """Light, dark and on a phone: the style applies under the page's own policy, all texts can be read."""
    output, url = Path(os.environ.get("OPS_OUTPUT", tmp_path)), f"http://127.0.0.1:{worker.port}/"
    for name, options in {
        "light": ["--window-size=1100,1100"],
        "dark": ["--window-size=1100,1100", DARK],
        "phone": ["--window-size=500,2200"],
    }.items():
        picture = output / f"page-{name}.png"
        await chromium(tmp_path / "profile", *options, f"--screenshot={picture}", url)
        assert picture.stat().st_size > 40_000, "a page without style is smaller"
    dom = await chromium(tmp_path / "profile", "--dump-dom", url)
    assert "<h1>" in dom
    assert "open</td>" in dom

    text, least = (await worker.get("/")).text, []
    for width in (PHONE, 1100):
        for options in ([], [DARK]):
            found = await measured(text, tmp_path, width, options)
            assert found["width"] == width
            texts = found["texts"]
            assert isinstance(texts, list)
            assert len(texts) > 50
            least.append(min((contrast(colour, ground), words) for words, colour, ground in texts))
    assert min(least) >= (4.5,), least
    tell(f"page: the least contrast is {min(least)[0]:.1f}:1")
