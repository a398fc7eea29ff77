"""What tests of agents share."""

import pytest
import torch


@pytest.fixture
def float64():
    """New tensors are float64, so that nothing but a formula tells two results apart."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
