"""The product keeps the bounds of the pace benchmark in every scene: virtual time, one seed."""

import pytest

from tests.bench.pace.__main__ import missed, runs
from tests.bench.pace.play import Scene
from tests.bench.pace.scenes import SCENES


@pytest.mark.parametrize("scene", SCENES, ids=lambda scene: scene.name)
def test_the_bounds_of_each_scene_hold(scene: Scene) -> None:
    """Of one run: averages are left to ``python -m tests.bench.pace``."""
    assert not missed(scene, runs(scene, "Limiter", seeds=1))


def test_a_controller_that_backs_off_misses_them() -> None:
    """The bounds are bounds."""
    random = [scene for scene in SCENES if scene.name in ("a random 5%", "a random 12%", "e a crash at 600 rpm")]
    assert [scene.name for scene in random if not missed(scene, runs(scene, "backoff", seeds=1))] == []
