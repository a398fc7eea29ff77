"""How far an agent's dynamics are from target rows that were held out; no simulator is needed."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from offdyn_agents.engine.stages import StageContext
from offdyn_agents.judging.exams import Exam
from offdyn_agents.judging.judge import examine, plain_json
from offdyn_agents.judging.models import fit_models
from offdyn_agents.judging.stages import judge_settings, learned_model

if TYPE_CHECKING:
    from offdyn_agents.engine.agent import Agent
    from offdyn_agents.engine.resources import Hardware
    from offdyn_agents.engine.rows import Layout

__all__ = ["held_out_errors"]


def held_out_errors(
    agent: Agent,
    layout: Layout,
    source: Tensor,
    target: Tensor,
    held: Tensor,
    seeds: Sequence[int],
    hardware: Hardware,
    cache: Path | None,
    *,
    quiet: bool = True,
) -> dict[str, Any]:
    """Train an agent's dynamics without some target rows, or find them in the cache, and examine them on these.

    Args:
        agent: The agent; one that learns dynamics.
        layout: Layout of packed rows.
        source: Packed source rows [N, W], on the hardware's device; none for models of target rows alone.
        target: Packed target rows [M, W].
        held: Which of them are held out, bool [M].
        seeds: One model for each.
        hardware: Where.
        cache: Folder of cached stages, None for none.
        quiet: Show no progress.

    Returns:
        Plain JSON. "model": which of `offdyn_agents.judging.models.MODELS`; "rows": how many were held out; and
        "errors", for each seed what `examine` says: in "dimensions" the squared error of each in units of its mean
        squared change, so that 1 is the error of predicting no change.

    Raises:
        OffDynError: The training failed.
    """
    context = StageContext(
        layout,
        source,
        target[~held],
        tuple(seeds),
        0,
        cache=cache,
        threads=hardware.threads,
        compiled=hardware.compiled,
        quiet=quiet,
        precision=hardware.precision,
    )
    name = learned_model(agent)
    observations, actions, following, rewards, _ = layout.split(target[held].cpu())
    exam = Exam(observations, actions, following, rewards)
    errors = [examine(model, exam) for model in fit_models(judge_settings(agent), context, name)]
    return plain_json({"model": name, "rows": len(rewards), "errors": errors})
