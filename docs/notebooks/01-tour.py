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
# Ten minutes with offdyn: a robot whose dynamics change, data of both sides, an agent, its score. Budgets are small, so that
# this page is made in a minute; results take 100,000 updates and more.
#
# To run it yourself, open `docs/notebooks/01-tour.py` with Jupytext, or `jupytext --to notebook 01-tour.py`.
#
# ## Two worlds
#
# The same robot under normal gravity, and under half of it. An environment is a Gymnasium environment.

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
# With the same actions the two are soon in different places. That is the whole difficulty: rows of one world say something
# else than rows of the other.
#
# ## Data of both
#
# A task has a plentiful source and a scarce target. `hopper-gravity-0.5-medium` has a source of a million rows, which
# `offdyn data build hopper-gravity-0.5-medium` makes in a minute or two. Here the source is smaller.

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
# All seeds of an agent are trained side by side. DROCO first trains an ensemble of the target's dynamics; then it learns from
# both datasets, and distrusts source rows where the target might have led elsewhere.

# %%
agent = offdyn.agents.DROCO(beta=0.1, width=64, dynamics={"epochs": 10, "members": 3})
run = offdyn.fit(agent, source, target, env=env, seeds=2, updates=500, eval_every=250)
run

# %% [markdown]
# Ten episodes of each seed's policy. A score of 0 is a random policy, 100 the target's expert.

# %%
run.evaluate("hopper-gravity-0.5-medium", episodes=10)

# %% [markdown]
# The same policies on a floor that is half as rough: an environment may shift again.

# %%
slippery = offdyn.make("OffDyn/Hopper-gravity-0.5-v0", shifts=[offdyn.Friction(0.5)])
run.evaluate(slippery, episodes=10)

# %% [markdown]
# ## What was logged
#
# A table is a list of rows, which `pandas.DataFrame` takes as it is.

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
# A policy is a function of NumPy arrays, one observation or many.

# %%
policy = run.policy(seed=0)
observation, total, ended = env.reset(seed=0)[0], 0.0, False
while not ended:
    observation, reward, fell, cut, _ = env.step(policy(observation))
    total, ended = total + reward, fell or cut
print(f"one episode earned {total:.1f}")
policy(target.observations[:3])

# %% [markdown]
# The run is a folder that every command takes: `offdyn evaluate`, `offdyn curves`, `offdyn leaderboard add`.

# %%
again = offdyn.load_run(run.folder)
again.export("policies")

# %% [markdown]
# Next: [your own data](02-your-own-data.py), or [train and compare](../tutorials/train-and-compare.md).
