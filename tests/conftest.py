"""Settings of every test."""

from hypothesis import settings

# A busy machine is no failure.
settings.register_profile("offdyn", deadline=None)
settings.load_profile("offdyn")
