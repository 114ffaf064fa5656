"""Builds the model of a slice, on meta tensors or for real, with every parameter's init law recorded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gradlint.graph.model import InitLaw
from gradlint.location import Location

if TYPE_CHECKING:
    from torch import nn


class BuildError(Exception):
    """The model cannot be built; the message is one line, `location` the user's line that failed."""

    def __init__(self, reason: str, location: Location | None = None) -> None:
        super().__init__(reason)
        self.location = location


@dataclass
class BuiltModel:
    """A model in the child process.

    `module` lives on meta (parameters and buffers without data). `laws` maps parameter names, as in
    `module.named_parameters()`, to how they are drawn; `constructors` maps module paths ("" is the root) to the
    user's line that made them. `aliases` maps the first name of a tied parameter to its other names.
    `frozen_by` maps parameter names to the line that switched `requires_grad` off. `location` is where the
    model is constructed. `root` is the project root (see `gradlint.graph.frames.is_user_file`).
    `factory(seed)` builds it anew for real on the CPU, with its parameters drawn under that seed.
    """

    module: nn.Module
    name: str
    location: Location | None = None
    laws: dict[str, InitLaw] = field(default_factory=dict)
    constructors: dict[str, Location] = field(default_factory=dict)
    aliases: dict[str, tuple[str, ...]] = field(default_factory=dict)
    frozen_by: dict[str, Location] = field(default_factory=dict)
    placeholders: tuple[str, ...] = ()
    pretrained: bool = False
    notes: tuple[str, ...] = ()
    root: str = ""
    rebuild: Callable[[int], nn.Module] | None = None

    def factory(self, seed: int) -> nn.Module:
        """The same model built for real on the CPU, in training mode as the script left it.

        Raises BuildError when the slice cannot run on real tensors.
        """
        if self.rebuild is None:
            raise BuildError("this model cannot be built a second time")
        return self.rebuild(seed)
