"""The front door of offdyn: everything a user types, each name imported when it is first used.

>>> import offdyn
>>> env = offdyn.make("OffDyn/Hopper-gravity-0.5-v0", shifts=[offdyn.Friction(0.5)])
>>> env.reset(seed=0)[0].shape
(11,)
>>> target = offdyn.load_dataset("offdyn/hopper/gravity-0p5/medium-5k-v0")
>>> len(target)
5000
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gymnasium import make, make_vec

    from offdyn import agents
    from offdyn_agents.api.comparing import compare
    from offdyn_agents.api.fitting import fit
    from offdyn_agents.api.policies import load_policy
    from offdyn_agents.api.run import evaluate, load_run
    from offdyn_envs.datasets import identify, load_dataset, load_task
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.robots import Robot, State, register_robot
    from offdyn_envs.scalar.shifted import shifted
    from offdyn_envs.shifts import (
        Actuator,
        Armature,
        Damping,
        Delay,
        Field,
        Friction,
        Frictionloss,
        Gravity,
        Kinematic,
        Local,
        Mass,
        Morphology,
        Noise,
        Payload,
        register_shift,
        sample_shifts,
    )
    from offdyn_envs.tasks import register_dynamics, register_task
    from offdyn_envs.version import __version__

__all__ = [
    "Actuator",
    "Armature",
    "Damping",
    "Delay",
    "Field",
    "Friction",
    "Frictionloss",
    "Gravity",
    "Kinematic",
    "Local",
    "Mass",
    "Morphology",
    "Noise",
    "OffDynError",
    "Payload",
    "Robot",
    "State",
    "__version__",
    "agents",
    "compare",
    "evaluate",
    "fit",
    "identify",
    "load_dataset",
    "load_policy",
    "load_run",
    "load_task",
    "make",
    "make_vec",
    "register_dynamics",
    "register_robot",
    "register_shift",
    "register_task",
    "sample_shifts",
    "shifted",
]

_HOMES = {
    "offdyn_agents.api.comparing": ("compare",),
    "offdyn_agents.api.fitting": ("fit",),
    "offdyn_agents.api.policies": ("load_policy",),
    "offdyn_agents.api.run": ("evaluate", "load_run"),
    "offdyn_envs.datasets": ("identify", "load_dataset", "load_task"),
    "offdyn_envs.errors": ("OffDynError",),
    "offdyn_envs.robots": ("Robot", "State", "register_robot"),
    "offdyn_envs.scalar.shifted": ("shifted",),
    "offdyn_envs.shifts": (
        *("Actuator", "Armature", "Damping", "Delay", "Field", "Friction", "Frictionloss"),
        *("Gravity", "Kinematic", "Local", "Mass", "Morphology", "Noise", "Payload"),
        *("register_shift", "sample_shifts"),
    ),
    "offdyn_envs.tasks": ("register_dynamics", "register_task"),
    "offdyn_envs.version": ("__version__",),
    "gymnasium": ("make", "make_vec"),
}
_PLACES = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    """Import a name's home when it is first used."""
    if name == "agents":
        return import_module("offdyn.agents")
    if name not in _PLACES:
        raise AttributeError(f"module 'offdyn' has no attribute '{name}'; it has {', '.join(__all__)}")
    import_module("offdyn_envs")  # Registers the environments.
    found = getattr(import_module(_PLACES[name]), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return __all__
