"""The daemon with the remotes that it was made for: NestJS, and an OAuth2 server that keeps to the letter."""

import asyncio
import json
from pathlib import Path

import pytest

from ai_task_processor.sandbox.app import Sandbox
from ai_task_processor.sandbox.vectors import as_float32
from tests.e2e.conftest import WAKE_UPS, DaemonProcess, Start, eventually
from tests.e2e.nestjs.upstream import KEY_CLIENT_ID, PROJECT, Upstream, new_key, target_id

SMALL, LARGE = "text-embedding-3-small", "text-embedding-3-large"
WAKE_TOKEN = "a-token-of-the-tests"
SIGNING = {"OAUTH2_CLIENT_ID": KEY_CLIENT_ID, "OAUTH2_CLIENT_SECRET": "", "OAUTH2_AUTH_METHOD": "private_key_jwt"}


def content(text: str, model: str = SMALL) -> dict[str, object]:
    return {"content": {"text": text, "model": model}}


async def held(upstream: Upstream, *ids: str) -> bool:
    return set(ids) <= set((await upstream.look())["held"])


async def succeeded(upstream: Upstream, *ids: str) -> bool:
    states = (await upstream.look())["states"]
    return all(states[task_id] == "succeeded" for task_id in ids)


async def assert_metrics(worker: DaemonProcess, expected: dict[str, float]) -> None:
    """What is served may be a moment old."""
    for _ in range(50):
        if (found := {sample: await worker.metric(sample) for sample in expected}) == expected:
            return
        await asyncio.sleep(0.05)
    assert found == expected


async def test_200_tasks_through_expiry_rotation_and_a_restart(
    sandbox: Sandbox, daemon: Start, upstream: Upstream
) -> None:
    """Tokens expire under way, keys change, the API is killed before it answers: one callback a task, no more."""
    spellings = ("text_embedding", "text-embedding")
    unknown = await upstream.add(*({"type": "horoscope", "content": {"sign": "leo"}} for _ in range(3)))
    ids = await upstream.add(*({**content(f"text {n}"), "type": spellings[n % 2]} for n in range(200)))
    sandbox.model_latency_s = 0.25
    late, unanswered = ids[:3], ids[150]
    await upstream.hold("arrival", *late)
    await upstream.hold("answer", unanswered)
    worker = await daemon(**upstream.settings(), CIRCUIT_BREAKER_THRESHOLD=50)

    # A token is renewed at 80 % of its life: after two renewals it has expired.
    await eventually(lambda: held(upstream, *late), timeout=30)
    renewed = len(worker.events("token.refreshed"))
    kid = await upstream.rotate_keys()
    await eventually(lambda: len(worker.events("token.refreshed")) >= renewed + 2, timeout=30)
    await upstream.release(*late)

    await eventually(lambda: held(upstream, unanswered), timeout=60)
    seen = await upstream.look()
    assert seen["refusedTokens"] >= len(late)
    assert seen["keys"][1:] == [kid]
    assert [event["task_type"] for event in worker.events("type.skipped")] == ["horoscope"]
    assert "the task API answered 401 to a token that had expired" in {
        event["reason"] for event in worker.events("token.refused")
    }
    await assert_metrics(worker, {"token_refusals_total": seen["refusedTokens"]})
    await asyncio.to_thread(upstream.api.kill)
    await eventually(lambda: worker.events("poll.failed") and worker.events("delivery.deferred"))
    await asyncio.to_thread(upstream.api.start)

    await eventually(lambda: succeeded(upstream, *ids), timeout=60)
    await eventually(lambda: len(worker.events("token.refreshed")) >= 4, timeout=30)
    targets = await upstream.targets()
    assert {key: target["updates"] for key, target in targets.items()} == {target_id(n): 1 for n in range(200)}
    for number in range(200):
        vector = as_float32(targets[target_id(number)]["embedding"])
        assert vector == sandbox.vector(f"text {number}", SMALL)
    assert sandbox.stats.model_inputs == 200

    await eventually(lambda: worker.events("poll.recovered"))
    assert not worker.events("remote.paused")  # each 401 was answered by the next token
    assert unanswered in {event["task_id"] for event in worker.events("delivery.deferred")}
    await assert_metrics(
        worker,
        {
            'deliveries_total{outcome="acknowledged"}': 200,
            'deliveries_total{outcome="retried"}': len(worker.events("delivery.deferred")),
            "dead_letters": 0,
        },
    )
    assert await worker.metric("ambiguous_deliveries_total") >= 1
    assert await worker.metric('token_requests_total{outcome="ok"}') >= 4
    assert await worker.metric('polls_total{outcome="network_error"}') >= 1
    assert await worker.metric('tasks_skipped_total{reason="unknown_type"}') >= len(unknown)
    states = (await upstream.look())["states"]
    assert {states[task_id] for task_id in unknown} == {"pending"}
    await worker.status_when(lambda status: "every listed task is skipped: 3 unknown_type" in str(status["why_idle"]))
    await eventually(lambda: worker.events("token.accepted"), timeout=30)
    for task_id in unknown:
        await upstream.delete(task_id)
    await eventually(lambda: worker.events("type.gone"))
    assert await worker.stop() == 0


async def test_a_result_that_is_refused_for_good_is_kept(sandbox: Sandbox, daemon: Start, upstream: Upstream) -> None:
    """Deleted meanwhile, decided meanwhile, too large for the API: a dead letter each, and no callback.

    A task that failed is not among them: the API takes the reason.
    """
    deleted, decided, large, fine, empty = await upstream.add(
        content("deleted"), content("decided"), content("large", LARGE), content("fine"), content("")
    )
    await upstream.hold("arrival", deleted, decided)
    worker = await daemon(**upstream.settings())
    await eventually(lambda: held(upstream, deleted, decided), timeout=30)
    await upstream.delete(deleted)
    await upstream.set_state(decided, "failed")
    await upstream.release(deleted, decided)
    await eventually(lambda: len(worker.events("delivery.refused")) == 3, timeout=30)
    assert {event["task_id"]: event["reason"] for event in worker.events("delivery.refused")} == {
        deleted: f"gone (HTTP 404): AI task {deleted} not found",
        decided: f"conflict (HTTP 409): AI task {decided} is already failed",
        large: "refused (HTTP 413): request entity too large",
    }
    refusals = {f'deliveries_total{{outcome="{outcome}"}}': 1.0 for outcome in ("gone", "conflict", "refused")}
    await assert_metrics(worker, {**refusals, 'deliveries_total{outcome="acknowledged"}': 2, "dead_letters": 3})
    asked = sandbox.stats.model_requests
    await worker.metric_when('tasks_skipped_total{reason="dead_letter"}', lambda skipped: skipped >= 2)
    assert sandbox.stats.model_requests == asked
    assert (await upstream.look())["states"] == {
        decided: "failed",
        large: "pending",
        fine: "succeeded",
        empty: "failed",
    }
    assert [(event["task_id"], event["code"]) for event in worker.events("task.failed")] == [(empty, "empty_text")]
    assert {key: target["updates"] for key, target in (await upstream.targets()).items()} == {target_id(3): 1}
    listed = (await worker.command("outbox", "list", "--dead")).out
    assert all(task_id in listed for task_id in (deleted, decided, large))


async def test_a_client_signs_with_its_private_key(
    sandbox: Sandbox, daemon: Start, upstream: Upstream, private_key: Path
) -> None:
    """``private_key_jwt``: a new assertion for every token."""
    (task_id,) = await upstream.add(content("signed"))
    worker = await daemon(**upstream.settings() | SIGNING, OAUTH2_PRIVATE_KEY_FILE=private_key)
    await eventually(lambda: succeeded(upstream, task_id), timeout=30)
    await eventually(lambda: len(worker.events("token.refreshed")) >= 2, timeout=30)
    assert not worker.events("token.failed")
    assert {event["life_s"] for event in worker.events("token.refreshed")} == {5.0}


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ({"OAUTH2_CLIENT_SECRET": "another"}, "invalid_client"),
        ({"OAUTH2_AUDIENCE": "https://elsewhere.test"}, "invalid_target"),
        (SIGNING, "invalid_client"),
    ],
    ids=["secret", "audience", "key"],
)
async def test_a_client_that_is_refused_says_why_and_leaves_its_tasks_pending(
    sandbox: Sandbox, daemon: Start, upstream: Upstream, tmp_path: Path, wrong: dict[str, str], code: str
) -> None:
    """A wrong secret, an audience or a key that the server does not know: no token, nothing processed, not ready."""
    if wrong is SIGNING:
        wrong = wrong | {"OAUTH2_PRIVATE_KEY_FILE": str(new_key(tmp_path / "another.pem"))}
    (task_id,) = await upstream.add(content("waits"))
    worker = await daemon(**upstream.settings() | wrong)
    (event,) = await eventually(lambda: worker.events("token.failed"))
    assert code in event["reason"]
    await assert_metrics(worker, {'token_requests_total{outcome="rejected"}': 1})
    reasons = (await worker.get("/ready")).json()["reasons"]
    assert reasons[0] == f"token_unavailable: the token endpoint refuses the client: {code}"
    assert (await upstream.look())["states"] == {task_id: "pending"}
    assert sandbox.stats.model_requests == 0


async def test_a_mark_is_a_claim_where_the_api_lets_only_one_through(
    sandbox: Sandbox, daemon: Start, upstream: Upstream
) -> None:
    """``in_progress`` only from ``pending``: whoever comes second gets a 409, and leaves the task to the other."""
    taken, own = await upstream.add(content("taken"), content("own"))
    await upstream.hold("arrival", taken)
    worker = await daemon(**upstream.settings(), MARK_IN_PROGRESS="true")
    await eventually(lambda: held(upstream, taken))
    await upstream.set_state(taken, "in_progress")
    await upstream.release(taken)
    (event,) = await eventually(lambda: worker.events("task.taken"))
    assert (event["task_id"], event["reason"]) == (taken, "conflict (HTTP 409)")
    await eventually(lambda: succeeded(upstream, own))
    assert (await upstream.look())["states"][taken] == "in_progress"
    assert sandbox.stats.model_inputs == 1


async def test_the_api_wakes_an_idle_daemon(sandbox: Sandbox, daemon: Start, upstream: Upstream) -> None:
    """A task that is saved is acknowledged moments later, long before the next poll."""
    worker = await daemon(**upstream.settings() | {"POLLING_INTERVAL_SECONDS": "3600", "WAKE_TOKEN": WAKE_TOKEN})
    wake_url = f"http://127.0.0.1:{worker.port}/wake"
    await upstream.set_environment(WORKER_WAKE_URL=wake_url, WAKE_TOKEN=WAKE_TOKEN)
    # An idle daemon polls after half a second, one, two, four: by itself the next poll comes six seconds later.
    await worker.metric_when('polls_total{outcome="empty"}', lambda polls: polls == 5, timeout=30)
    (task_id,) = await upstream.add(content("new"))
    await eventually(lambda: succeeded(upstream, task_id), timeout=5)
    await assert_metrics(worker, {WAKE_UPS: 1})


def test_the_lock_names_no_host() -> None:
    """The packages come from whatever registry npm is told to use."""
    packages = json.loads((PROJECT / "package-lock.json").read_text())["packages"]
    assert [name for name, package in packages.items() if "resolved" in package] == []
    assert all("integrity" in package for name, package in packages.items() if name)
