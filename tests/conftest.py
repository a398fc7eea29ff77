"""Settings of every test."""

import os

# Test processes run side by side: more threads in each only wait for one another, and a wait that spins takes the other
# process its core. Before anything imports NumPy or PyTorch, and inherited by the processes that tests start.
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
    os.environ.setdefault(name, value)

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

# A busy machine is no failure.
settings.register_profile("offdyn", deadline=None)
settings.load_profile("offdyn")


@pytest.fixture
def own_robots(monkeypatch):
    """Let a test register robots, dynamics and tasks; what it adds is gone after it."""
    import gymnasium

    from offdyn_envs import tasks
    from offdyn_envs.robots import registry

    known = [registry._ROBOTS, registry._POLICIES, tasks._DYNAMICS, tasks._task_table(), gymnasium.registry]
    before = [dict(table) for table in known]
    slugs = {name: dict(table) for name, table in tasks._DYNAMICS.items()}
    yield
    for table, entries in zip(known, before, strict=True):
        table.clear()
        table.update(entries)
    tasks._DYNAMICS.update(slugs)
    registry._points.cache_clear()
    registry.find_others.cache_clear()


@pytest.fixture(autouse=True, scope="module")
def robots_stay():
    """Refuse a file of tests that leaves robots or dynamics behind: others would count them, in some order of files."""
    from offdyn_envs.robots.registry import ROBOTS
    from offdyn_envs.tasks import DYNAMICS

    before = set(ROBOTS), {robot: set(table) for robot, table in DYNAMICS.items()}
    yield
    assert before == (set(ROBOTS), {robot: set(table) for robot, table in DYNAMICS.items()})
