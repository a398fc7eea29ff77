"""The former name of `offdyn_envs.benchmark.scoring.scores`, for code that imports it from here."""

from offdyn_envs.benchmark.scoring.scores import (
    Reference,
    ReferenceSet,
    degradation,
    find_reference,
    get_reference,
    has_expert,
    kept_words,
    load_references,
    normalised_score,
    normaliser,
    task_reference,
)

__all__ = [
    "Reference",
    "ReferenceSet",
    "degradation",
    "find_reference",
    "get_reference",
    "has_expert",
    "kept_words",
    "load_references",
    "normalised_score",
    "normaliser",
    "task_reference",
]
