"""The predicted signal and gradient of every layer, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class LayerProfile:
    """What the mean-field prediction says of one weighted layer and its output h.

    All scales are log10, so that a gradient of 1e-400 is not lost; None means that it is not known.

    `activation_std`: log10 std of h's elements. `gradient`: log10 of ‖∂L/∂h‖ relative to the last hidden
    layer's. `weight_gradient`: log10 of the absolute norm of ∂L/∂W under the mean-reduced loss.
    `band`: (low, high) log10 of `gradient`. `weight_band`: that of `weight_gradient`, whose upper edge allows for the
    targets of a dense output being alike. `saturated`: share of units of the activation that consumes h
    in its flat part. `distinct`: 1 − c, how far two different inputs stay apart. `scale_free`: the weight
    feeds a normalisation, so that its absolute gradient says nothing. `gradient` is None too where none flows
    at all; `zero_gated` tells that this is so only as long as a zero-initialised branch has not grown. `redundant`:
    each weight only scales a channel that a batch norm divides by its scale, so that next to no gradient reaches it,
    by design and without harm.
    """

    node: int
    name: str
    kind: str
    activation_std: float | None = None
    gradient: float | None = None
    weight_gradient: float | None = None
    band: tuple[float, float] | None = None
    weight_band: tuple[float, float] | None = None
    saturated: float | None = None
    distinct: float | None = None
    scale_free: bool = False
    zero_gated: bool = False
    redundant: bool = False


@dataclass(frozen=True)
class Profile:
    """The prediction for a whole model.

    `gradient_at[i]` and `std_at[i]` give, for every node id, log10 of the root-mean-square gradient norm
    ‖∂L/∂h_i‖ (absolute) and log10 of the activation's std, None where unknown; rules take ratios of them
    along a path. `uncertainty_at[i]` is the half-width in decades of `gradient_at[i]`. `coverage` is
    the share of operations on the path from input to loss that have a rule; `unknown_ops` names the
    others; `void[i]` is True where an operation without a rule lies between node i and the loss or the
    input, so that nothing about it may be claimed. `attribution` lists (node id, log10 contribution to the
    change of the gradient), largest first. `grown` is the same profile with zero-initialised branches
    evaluated as grown, or None when there are none.
    """

    layers: tuple[LayerProfile, ...]
    gradient_at: tuple[float | None, ...] = ()
    std_at: tuple[float | None, ...] = ()
    uncertainty_at: tuple[float, ...] = ()
    void: tuple[bool, ...] = ()
    coverage: float = 1.0
    unknown_ops: tuple[str, ...] = ()
    confidence: str = "high"
    notes: tuple[str, ...] = ()
    attribution: tuple[tuple[int, float], ...] = ()
    first_loss: float | None = None
    grown: Profile | None = None
    recurrence: dict[int, RecurrenceProfile] = field(default_factory=dict)


@dataclass(frozen=True)
class RecurrenceProfile:
    """Gradient through a recurrent node's time steps.

    `steps` is T; `per_step` log10 of the factor on ‖∂L/∂h_t‖ per step back; `total` log10 of
    ‖∂h_T/∂h_0‖ over T steps.
    """

    steps: int
    per_step: float
    total: float
