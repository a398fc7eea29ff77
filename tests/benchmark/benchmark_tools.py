"""Programs that a test needs and that need not be installed."""

from __future__ import annotations

import os
from typing import NoReturn

import pytest


def require(variable: str, what: str) -> NoReturn:
    """Skip the test for want of a program, or fail where continuous integration has set the variable."""
    if os.environ.get(variable):
        pytest.fail(f"{what}, and {variable} is set")
    pytest.skip(what)
