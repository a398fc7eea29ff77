"""What a study is: an agent, a question, and variants that differ in some settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from offdyn_envs.errors import unknown

__all__ = ["FULL", "Study", "Variant", "sweep"]


@dataclass(frozen=True)
class Variant:
    """One row of a study.

    Attributes:
        name: Also part of a folder's name.
        about: What is different, in words.
        settings: Dotted names and text, as for `--set`; everything else is the method's preset.
        target_rows: Size of the target dataset; "" for the task's own.
    """

    name: str
    about: str
    settings: Mapping[str, str] = field(default_factory=dict)
    target_rows: str = ""


@dataclass(frozen=True)
class Study:
    """An agent and the variants of it that are compared.

    Attributes:
        name: For instance "droco-beta".
        agent: Name of the agent.
        about: The question, in words.
        variants: In the order of the table.
    """

    name: str
    agent: str
    about: str
    variants: tuple[Variant, ...]

    @property
    def varied(self) -> tuple[str, ...]:
        """The settings in which variants differ, which cannot be set by hand too."""
        return tuple(dict.fromkeys(key for variant in self.variants for key in variant.settings))

    def only(self, names: Sequence[str]) -> Study:
        """Return the study with some of its variants; with all where no names are given.

        Raises:
            OffDynError: No such variant; the message names the nearest.
        """
        known = {variant.name: variant for variant in self.variants}
        for name in names:
            if name not in known:
                raise unknown(f"variant of study {self.name}", name, known)
        return replace(self, variants=tuple(known[name] for name in dict.fromkeys(names))) if names else self


FULL = Variant("full", "the method")


def sweep(setting: str, word: str, values: Sequence[str]) -> tuple[Variant, ...]:
    """Return a variant for each value of a setting."""
    return tuple(Variant(f"{word}-{value}", f"{setting} = {value}", {setting: value}) for value in values)
