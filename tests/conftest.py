"""Settings of every test."""

import os

# Test processes run side by side: more threads in each only wait for one another, and a wait that spins takes the other
# process its core. Before anything imports NumPy or PyTorch, and inherited by the processes that tests start.
for name, value in (("OMP_NUM_THREADS", "1"), ("OMP_WAIT_POLICY", "PASSIVE")):
    os.environ.setdefault(name, value)

from hypothesis import settings  # noqa: E402

# A busy machine is no failure.
settings.register_profile("offdyn", deadline=None)
settings.load_profile("offdyn")
