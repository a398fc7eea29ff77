"""The constants of leaderboard protocol version 2; docs/protocol.md tells it, and what changed.

Everything that decides a figure on the page is named here. A change of any of these values is a new protocol version.
Entries of an earlier version stay readable, without a place.

A score of 0 is the mean return of the random policy, a score of 100 that of the expert of the scoring environment with
DETERMINISTIC actions: entries act deterministically too.
"""

from collections.abc import Mapping
from types import MappingProxyType

PROTOCOL = 2
"""The version that entries, verdicts, references and standings name."""
DIVISIONS: Mapping[str, int] = MappingProxyType({"100k": 100_000, "1m": 1_000_000})
"""The most policy updates of each division; places are given within a division."""

METHOD_FAMILIES = ("cloning", "model-free", "filtering or reweighting", "model-based")
"""Kinds of methods by which the page filters; a learned dynamics model that makes data or targets is model-based."""

RANKED_SEEDS = 5
"""Runs (ids 0-4) that every task of an entry needs for a ranked place."""
LISTED_SEEDS = 3
"""Runs that every task of an entry needs to be listed at all."""

CLEAN_EPISODES = 100
"""Episodes per policy in the unperturbed target, claimed and re-run."""
CELL_EPISODES = 20
"""Episodes per policy in every perturbed cell, re-run in all cells whatever an entry claims."""
EVALUATION_SEED = 1_000_000
"""Row i of a self-reported evaluation is seeded with this plus i: far from the seeds that collect data."""

SCALE_LEVELS = (0.5, 0.8, 1.25, 2.0)
"""Test-time scales of gravity and of friction, applied on top of the scoring environment's own shifts."""
BODY_LEVELS: Mapping[float, str] = MappingProxyType({1.0: "easy", 2.0: "medium", 3.0: "hard"})
"""Levels of the kinematic and morphology families; the episodes of a cell are shared evenly by the robot's parts."""
WORN_SCALE = 0.5
"""What the friction, or the strength of all motors, falls to from 1 as parts wear out."""
WORN_EPISODES = 100
"""Episodes over which it falls; a cell of fewer episodes plays as many of them, evenly spaced."""
MIN_Q_LEVELS = (0.1, 0.2)
"""Half widths of the min-Q attack's box, in target standard deviations."""
MIN_Q, MIN_Q_OWN = "min-q", "min-q-own"
"""The min-Q attack with the suite's critic of the task, and with the entry's own."""
ATTACKS = (MIN_Q, MIN_Q_OWN, "random")
"""The families that move what a policy observes and leave the dynamics alone."""
FAMILIES = tuple(sorted(("friction", "gravity", "kinematic", "morphology", "worn-friction", "worn-motors", *ATTACKS)))
"""Perturbation families that an entry may report."""

HELD_OUT_KINDS = ("gravity", "friction")
"""What is scaled by factors that are in no table, one below and one above 1 each."""
HELD_OUT_RANGE = (0.4, 2.5)
"""Between which the factors are drawn."""
HELD_OUT_MARGIN = 0.05
"""How far a factor lies at least from 1 and from every factor of a table, as a share of it."""

REFERENCE_IQL = "iql"
"""Name of the entry, IQL on merged data, over which the probability of improvement is taken on the same tasks."""

LEVEL = 0.95
"""Level of every interval on the page."""
BOOTSTRAP_REPLICATES = 10_000
"""Replicates of the stratified bootstrap."""
BOOTSTRAP_SEED = 20_260_101
"""Seed of the stratified bootstrap, beside the scores themselves."""

VERIFICATION_LEVEL = 0.999
"""An entry fails when chance alone would explain the difference in fewer than 1 of 1,000 honest entries."""
VERIFIERS: Mapping[int, int] = MappingProxyType({1: 1, PROTOCOL: 3})
"""The version of the verifier whose verdicts count, by protocol: what an earlier one ranked can still be read."""

SCORED_GAP = 5.0
"""A task is scored when expert - random is at least this many standard errors of that difference."""
DEGRADATION_FLOOR = 10.0
"""Nothing is said of the share that a task keeps of a clean score at or below this."""

ENTRY_BYTES = 5 * 2**20
"""Most bytes of the policies and critics of an entry of up to six tasks; with more tasks a sixth of it for each."""
