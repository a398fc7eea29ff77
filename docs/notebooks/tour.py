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
# # A tour of offdyn
#
# Open this file with Jupytext (`jupytext --to notebook tour.py`, or JupyterLab with its extension). It needs
# `pip install ".[agents]"` and, once, `offdyn data build hopper-gravity-0.5-medium`.
#
# A task is the environment that scores, a plentiful source of other dynamics, and a scarce target.

# %%
import offdyn

env, source, target = offdyn.load_task("hopper-gravity-0.5-medium")
print(source, target, sep="\n")

# %% [markdown]
# All seeds of an agent are trained side by side; stages before the policy, here an ensemble of the target's dynamics,
# show their progress first.

# %%
run = offdyn.fit(offdyn.agents.DROCO(beta=0.1), source, target, env=env, seeds=2, updates=2_000)
run

# %% [markdown]
# Ten episodes of each seed's policy, with the score of the suite: 0 is a random policy, 100 the target's expert.

# %%
run.evaluate(episodes=10)

# %% [markdown]
# The same policies on a floor that is half as rough: an environment may shift again.

# %%
slippery = offdyn.make("OffDyn/Hopper-gravity-0.5-v0", shifts=[offdyn.Friction(0.5)])
run.evaluate(slippery, episodes=10)

# %% [markdown]
# What was logged. A table is a list of rows, which pandas takes as it is.

# %%
curves = run.curves()
try:
    import pandas
except ModuleNotFoundError:
    frame = curves
else:
    frame = pandas.DataFrame(curves).set_index("updates")
frame

# %% [markdown]
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
