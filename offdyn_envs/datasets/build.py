"""The former name of `offdyn_envs.datasets.collecting.build`, for code that imports it from here."""

from offdyn_envs.datasets.collecting.build import Built, build, ingredients, missing_behaviour, resolve

__all__ = ["Built", "build", "ingredients", "missing_behaviour", "resolve"]
