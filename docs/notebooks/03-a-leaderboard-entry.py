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
# # A leaderboard entry
#
# From a training to a row on the leaderboard, with small budgets: cloning of 5,000 target rows, three seeds. The same commands
# make a real entry. Everything is written into a folder of its own.
#
# In a terminal each step is a command; `offdyn(...)` below is the same.

# %%
import json
from contextlib import suppress
from pathlib import Path

from offdyn_envs.cli import main


def offdyn(line):
    """Do what `offdyn LINE` does."""
    with suppress(SystemExit):
        main(line.split())


offdyn("train bc hopper-gravity-0.5-medium --seeds 3 --updates 500 --eval-every 500 --set width=64 --no-judge --quiet")

# %% [markdown]
# ## Score
#
# 100 episodes of every policy, then under further shifts. A real entry has 20 episodes in every cell; here it is one.

# %%
offdyn("evaluate runs/hopper-gravity-0.5-medium/bc --cell-episodes 1 --quiet")

# %% [markdown]
# ## Make the entry
#
# Policies as ONNX, their raw returns, and what the training cost.

# %%
offdyn("leaderboard add runs/hopper-gravity-0.5-medium/bc --name my-cloning --author Me --leaderboard board")
entry = json.loads(Path("board/submissions/my-cloning/entry.json").read_text())
{key: entry[key] for key in ("name", "method", "authors", "episodes")} | {"policies": len(entry["results"])}

# %% [markdown]
# ## Check it
#
# Every policy is run again, in a process without network, writes or new programs, from other starts. The claim as a whole is
# tested. Here the robustness cells are left out and stay claims.

# %%
offdyn("leaderboard verify board/submissions/my-cloning --no-perturbed --leaderboard board")

# %% [markdown]
# ## Look at the page
#
# One file, which asks nothing of the network.

# %%
offdyn("leaderboard page --leaderboard board")
print(f"{Path('board/index.html').stat().st_size / 1000:.0f} kB")

# %% [markdown]
# To send it in: [submit](../tutorials/submit.md).
