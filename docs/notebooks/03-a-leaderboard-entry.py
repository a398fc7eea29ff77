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
# From training to a row on the leaderboard, with a small budget: behaviour cloning on 5,000 target rows, with three seeds. A real entry
# needs the same commands. Everything is written to the current folder.
#
# In a terminal each step is a command. In this notebook, `offdyn(...)` does the same.

# %%
import json
from contextlib import suppress
from pathlib import Path

from offdyn_envs.cli import main


def offdyn(line):
    """Run the command `offdyn LINE`."""
    with suppress(SystemExit):
        main(line.split())


offdyn("train bc hopper-gravity-0.5-medium --seeds 3 --updates 500 --eval-every 500 --set width=64 --no-judge --quiet")

# %% [markdown]
# ## Score
#
# Evaluate each policy for 100 episodes, and then under further shifts. A real entry has 20 episodes per shift; here it is one.

# %%
offdyn("evaluate runs/hopper-gravity-0.5-medium/bc --cell-episodes 1 --quiet")

# %% [markdown]
# ## Create the entry
#
# An entry holds the policies as ONNX, the return of every episode, and the training cost.

# %%
offdyn("leaderboard add runs/hopper-gravity-0.5-medium/bc --name my-cloning --author Me --leaderboard board")
entry = json.loads(Path("board/submissions/my-cloning/entry.json").read_text())
{key: entry[key] for key in ("name", "method", "authors", "episodes")} | {"policies": len(entry["results"])}

# %% [markdown]
# ## Verify it
#
# Every policy is run again from different initial states, in a sandbox without network access, file writes or new processes. Then the
# reported returns are tested against the new ones. To save time we skip the results under further shifts; they stay unverified.

# %%
offdyn("leaderboard verify board/submissions/my-cloning --no-perturbed --leaderboard board")

# %% [markdown]
# ## Look at the page
#
# The page works offline.

# %%
offdyn("leaderboard page --leaderboard board")
print(f"{Path('board/index.html').stat().st_size / 1000:.0f} kB")

# %% [markdown]
# To submit your own: [submit](../tutorials/submit.md).
