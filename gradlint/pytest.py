"""An assertion for test suites: `from gradlint.pytest import assert_healthy`."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from gradlint.api import probe
from gradlint.finding import Severity
from gradlint.report.measured import Report

if TYPE_CHECKING:
    import torch
    from torch import nn


def assert_healthy(
    model: nn.Module,
    batch: Any,
    loss_fn: Callable[..., torch.Tensor] | None = None,
    optimizer: torch.optim.Optimizer | str | None = None,
    *,
    fail_on: Severity | str = Severity.WARNING,
) -> Report:
    """Fail, with the table of layers, if the gradients of a model on a batch are unhealthy; else the report.

    Arguments are those of `gradlint.api.probe`. `fail_on` is the least severity that fails: "info", "warning" (the
    default: "trains much slower") or "error" ("will not train").
    """
    __tracebackhide__ = True
    report = probe(model, batch, loss_fn, optimizer)
    if report.severity is not None and report.severity.rank >= Severity(fail_on).rank:
        raise AssertionError(f"unhealthy gradients: {'; '.join(report.problems)}\n{report}")
    return report
