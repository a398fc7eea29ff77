"""What every agent must do, for this package's tests and those of packages with agents of their own; it needs pytest.

`AgentConformance` is a class to inherit from; docs/write-an-agent.md shows how.
"""

import pytest

# Before the import: pytest shows what an assertion compared only in modules that it was told of.
pytest.register_assert_rewrite("offdyn_agents.testing.conformance")

from offdyn_agents.testing.conformance import AgentConformance, CompiledConformance  # noqa: E402
from offdyn_agents.testing.data import dataset, first_updates, killed_at  # noqa: E402
from offdyn_agents.testing.sizes import small_agent, small_settings  # noqa: E402

__all__ = [
    "AgentConformance",
    "CompiledConformance",
    "dataset",
    "first_updates",
    "killed_at",
    "small_agent",
    "small_settings",
]
