"""Whether a training before the policy has led anywhere: judged by errors on rows held out, before and after."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["better", "fault"]


def better(old: Tensor, fresh: Tensor, improvement: float) -> Tensor:
    """Return which members' errors have fallen by more than a share: bool [K].

    An error that is not finite is no improvement on anything, and any finite one is an improvement on it.

    Args:
        old: The errors so far, [K].
        fresh: The new ones, [K].
        improvement: The share.
    """
    fallen = (old - fresh) / old.clamp(min=1e-12) > improvement
    return torch.isfinite(fresh) & (fallen | ~torch.isfinite(old))


def fault(start: Tensor, kept: Tensor, last: Tensor, ended: bool) -> str:
    """Return why an ensemble must not be used, or "".

    Without this its members may be those of its start, or worse, and nothing else would show it.

    Args:
        start: The members' errors before the first step, [K].
        kept: Those of the parameters that were kept, [K].
        last: Those of the parameters after the last step, [K].
        ended: Whether training ended because nothing improved any more. Where it was cut short instead, it is enough
            that some member is not far from its start.
    """
    improved, near = (torch.isfinite(errors) & ~(errors >= far) for errors, far in ((kept, start), (last, 2.0 * start)))
    if not bool(improved.any()) and (ended or not bool(near.any())):
        return f"training made none of {len(kept)} members better than at the start"
    # A member that has not become better may have little to learn, or few steps to do it in; not one that overflows.
    lost = int((~improved & ~torch.isfinite(last)).sum())
    return f"{lost} of {len(kept)} members diverged before they became any better" if lost else ""
