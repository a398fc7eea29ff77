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
# # A tour
#
# Ten minutes with offdyn: a robot whose dynamics change, data from both sides, an agent and its score. The budgets here are small, so
# the whole page runs in about a minute. Real results need 100,000 updates or more.
#
# To run it yourself, open `docs/notebooks/01-tour.py` with Jupytext, or convert it with `jupytext --to notebook 01-tour.py`.
#
# ## Two environments
#
# The same robot under normal gravity and under half gravity. Both are ordinary Gymnasium environments.

# %%
import matplotlib.pyplot as plt

import offdyn

names = "OffDyn/Hopper-v0", "OffDyn/Hopper-gravity-0.5-v0"
figure, panels = plt.subplots(1, 4, figsize=(10, 3), layout="constrained")
for name, pair in zip(names, (panels[:2], panels[2:])):
    env = offdyn.make(name, render_mode="rgb_array")
    env.reset(seed=0)
    env.action_space.seed(0)
    for panel, steps in zip(pair, (1, 24)):
        for _ in range(steps):
            env.step(env.action_space.sample())
        panel.imshow(env.render())
        panel.set_title(f"{name.removeprefix('OffDyn/')}\nafter {'25 steps' if steps > 1 else '1 step'}", fontsize=9)
        panel.axis("off")
    env.close()

# %% [markdown]
# With the same actions, the two robots soon end up in different places. That is the difficulty: data from one environment are wrong
# about the other.
#
# ## Data from both sides
#
# A task has a large source dataset and a small target dataset. The source of `hopper-gravity-0.5-medium` has a million rows;
# `offdyn data build hopper-gravity-0.5-medium` collects them in a minute or two. Here we use a smaller source.

# %%
from contextlib import suppress

from offdyn_envs.cli import main

with suppress(SystemExit):  # As on a command line: offdyn data build offdyn/hopper/nominal/medium-50k-v0
    main(["data", "build", "offdyn/hopper/nominal/medium-50k-v0"])

# %%
env, source, target = offdyn.load_task(
    source="offdyn/hopper/nominal/medium-50k-v0", target="offdyn/hopper/gravity-0p5/medium-5k-v0"
)
print(source, target, sep="\n")

# %% [markdown]
# ## An agent
#
# All seeds of an agent are trained together. DROCO first trains an ensemble of dynamics models on the target. Then it learns from both
# datasets, and is pessimistic about source rows that the target's dynamics might not have produced.

# %%
agent = offdyn.agents.DROCO(beta=0.1, width=64, dynamics={"epochs": 10, "members": 3})
run = offdyn.fit(agent, source, target, env=env, seeds=2, updates=500, eval_every=250)
run

# %% [markdown]
# Evaluate each seed's policy for ten episodes. A score of 0 is a random policy, 100 is the target's expert.

# %%
run.evaluate("hopper-gravity-0.5-medium", episodes=10)

# %% [markdown]
# Now the same policies on a slippery floor. You can add shifts to any environment.

# %%
slippery = offdyn.make("OffDyn/Hopper-gravity-0.5-v0", shifts=[offdyn.Friction(0.5)])
run.evaluate(slippery, episodes=10)

# %% [markdown]
# ## What was logged
#
# Tables are lists of rows. `pandas.DataFrame` accepts them directly.

# %%
curves = run.curves()
figure, panels = plt.subplots(1, 2, figsize=(8, 2.5), layout="constrained")
for panel, names in zip(panels, (("return_0", "return_1"), ("actor_loss",))):
    for name in names:
        panel.plot(curves.column("updates"), curves.column(name), marker="o", label=name)
    panel.set_xlabel("updates")
    panel.legend(frameon=False)
curves

# %% [markdown]
# ## A policy
#
# A policy is a function on NumPy arrays. It takes one observation or many.

# %%
policy = run.policy(seed=0)
observation, total, ended = env.reset(seed=0)[0], 0.0, False
while not ended:
    observation, reward, fell, cut, _ = env.step(policy(observation))
    total, ended = total + reward, fell or cut
print(f"one episode earned {total:.1f}")
policy(target.observations[:3])

# %% [markdown]
# A run is a folder. Pass it to `offdyn evaluate`, `offdyn curves` or `offdyn leaderboard add`, or load it again in Python:

# %%
again = offdyn.load_run(run.folder)
again.export("policies")

# %% [markdown]
# Next: [your own data](02-your-own-data.py), or [train and compare](../tutorials/train-and-compare.md).
