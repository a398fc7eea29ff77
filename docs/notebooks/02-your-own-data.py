# ---
# jupyter:
#   jupytext:
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Your own data
#
# You have logs of a robot: many from a simulator or an older machine, and few from the one you care about. You can learn from them
# without a simulator. If you have one, policies also get a score.
#
# In this example the robot is a cart on a rail with drag. The source's rail is smooth, the target's is rough.

# %%
import matplotlib.pyplot as plt
import numpy as np

import offdyn


def step(states, actions, drag):
    """Return states after a step: positions [N, 0] and speeds [N, 1]."""
    speeds = states[:, 1] * (1 - drag) + 0.5 * actions[:, 0]
    return np.stack([states[:, 0] + 0.1 * speeds, speeds], axis=1)


def log(rows, drag, seed):
    """Return the log of a mediocre driver who steers towards the middle."""
    rng = np.random.default_rng(seed)
    states = rng.normal(size=(rows, 2))
    actions = np.clip(-states[:, :1] - 0.5 * states[:, 1:] + rng.normal(0, 0.7, (rows, 1)), -2, 2)
    after = step(states, actions, drag)
    columns = {"observations": states, "actions": actions, "next_observations": after}
    columns |= {"rewards": -(after**2).sum(1), "terminations": np.zeros(rows, bool), "truncations": np.ones(rows, bool)}
    return columns | {"action_low": [-2.0], "action_high": [2.0]}


source, target = log(5_000, drag=0.05, seed=0), log(300, drag=0.5, seed=1)

# %% [markdown]
# ## How different are they?
#
# The same state and the same action lead to different speeds on the two rails.

# %%
states = np.stack([np.zeros(50), np.linspace(-2, 2, 50)], axis=1)
figure, panel = plt.subplots(figsize=(5, 2.8), layout="constrained")
for name, drag in (("source", 0.05), ("target", 0.5)):
    panel.plot(states[:, 1], step(states, np.zeros((50, 1)), drag)[:, 1], label=name)
panel.set_xlabel("speed before")
panel.set_ylabel("speed after, no action")
panel.legend(frameon=False)

# %% [markdown]
# ## Train
#
# Pass the arrays directly. You can also load npz, CSV, Parquet, LeRobot, HDF5 and Minari files: see
# [your own data](../your-own-data.md).

# %%
small = {"width": 32}
names = {"target alone": ("bc", None), "both": ("iql", source)}
runs = {
    label: offdyn.fit(
        {"bc": offdyn.agents.BC, "iql": offdyn.agents.IQL}[agent](**small),
        rows,
        target,
        seeds=2,
        updates=400,
        progress=False,
    )
    for label, (agent, rows) in names.items()
}
runs["both"]

# %% [markdown]
# ## Try the policies
#
# Policies return actions in your own units. Here they drive the target's cart from 200 initial states.

# %%
starts = np.random.default_rng(2).normal(size=(200, 2))
figure, panel = plt.subplots(figsize=(5, 2.8), layout="constrained")
for label, run in runs.items():
    policy, states, distances = run.policy(), starts, []
    for _ in range(40):
        states = step(states, policy(states.astype(np.float32)), 0.5)
        distances.append(np.abs(states[:, 0]).mean())
    panel.plot(distances, label=label)
panel.set_xlabel("steps")
panel.set_ylabel("mean distance from the middle")
panel.legend(frameon=False)

# %% [markdown]
# ## Export a policy
#
# `export` writes ONNX files and a contract with names, order, units and bounds. You do not need offdyn to run them: see
# [deploy](../deploy.md).

# %%
from pathlib import Path

runs["both"].export("policies")
sorted(str(path) for path in Path("policies").rglob("*") if path.is_file())
