"""The precision of float32 products, and the threads inside one."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch

__all__ = ["exact_fast_products", "rounded_products", "threads_inside"]


def rounded_products(device: str, precision: str) -> AbstractContextManager[Any]:
    """Return the context of a loss: autocast where products are to be rounded to bf16, else none.

    Args:
        device: "cpu" or "cuda".
        precision: One of `resources.PRECISIONS`.
    """
    return torch.autocast(device, torch.bfloat16) if precision == "bf16" else nullcontext()


@contextmanager
def threads_inside(count: int) -> Generator[None]:
    """Set the number of threads inside one operation for the block."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def exact_fast_products(width: int, inputs: Sequence[int], batch: int) -> Generator[bool]:
    """Use oneDNN for float32 products for the block where it is both exact and available.

    PyTorch hands float32 products to MKL, which keeps AMD processors on AVX2. Its "bf16" setting hands them to oneDNN
    with leave, but no order, to round: on processors without bf16 matrix units oneDNN computes in full float32 with
    AVX-512, twice as fast. Whether it does is found out with products of the shapes that will be used; if one is less
    exact than float32 should be, everything stays as it was.

    Args:
        width: Width of hidden layers.
        inputs: Widths of inputs.
        batch: Rows of a batch.

    Yields:
        Whether oneDNN is used.
    """
    flags: Any = getattr(torch.backends.mkldnn, "matmul", None)
    before = getattr(flags, "fp32_precision", None)
    if before is None or not torch.backends.mkldnn.is_available():
        yield False
        return
    flags.fp32_precision = "bf16"
    try:
        exact = all(_exact_products(batch, k, width) for k in (*inputs, width))
        if not exact:
            flags.fp32_precision = before
        yield exact
    finally:
        flags.fp32_precision = before


def _exact_products(batch: int, inner: int, width: int) -> bool:
    """Whether the forward product and both backward ones of a layer are as exact as float32 allows."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, batch, inner, generator=generator)
    w = torch.randn(1, inner, width, generator=generator)
    g = torch.randn(1, batch, width, generator=generator)
    for left, right in ((x, w), (x.mT, g), (g, w.mT)):
        error = (torch.bmm(left, right).double() - torch.bmm(left.double(), right.double())).abs().max()
        # float32 sums stay below 3e-6 sqrt(k); rounding to bf16 would leave about 2e-3 sqrt(k).
        if float(error) > 1e-5 * left.shape[-1] ** 0.5:
            return False
    return True
