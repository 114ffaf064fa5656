"""One batch, forward and backward: what is measured, and which what-ifs can be asked for.

The package can be called: `gradlint.probe(model, batch, loss_fn)` is `gradlint.api.probe`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any


class _Callable(ModuleType):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        from gradlint.api import probe

        return probe(*args, **kwargs)


sys.modules[__name__].__class__ = _Callable
