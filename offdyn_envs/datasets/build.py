"""The former name of `offdyn_envs.datasets.collecting.build`, for code that imports it from here."""

from offdyn_envs.datasets.collecting.build import Built, build, hint, ingredients, missing_behaviour, offered, resolve

__all__ = ["Built", "build", "hint", "ingredients", "missing_behaviour", "offered", "resolve"]
