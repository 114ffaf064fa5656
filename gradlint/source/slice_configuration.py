"""The configuration that hydra would hand to a function of a slice."""

from __future__ import annotations

from typing import Any

from gradlint.source.hydra_configuration import composed
from gradlint.source.slice_scopes import Scope


def hydra_configuration(scope: Scope, parameter: str, script: str) -> dict[str, Any] | None:
    """What the first parameter of a function under `@hydra.main(config_path=…, config_name=…)` is; None if unknown."""
    if scope.function is None or scope.parameters[:1] != [parameter]:
        return None
    return composed(scope.function.decorator_list, script, set())
