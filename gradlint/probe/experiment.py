"""The closed vocabulary of experiments, and what comes back from them, as plain data.

Standard library only: rules name experiments without torch, the worker's child runs them.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

HISTOGRAM_DECADES = (-12, 4)
"""Histograms of absolute values have one bin a decade between these powers of ten."""

OVERFLOW = sys.float_info.max
"""Stands for a measured NaN or infinity, which JSON cannot carry."""


LOSS = "loss"
"""What `first_nonfinite` says where all of the model is finite and its loss is not."""


@dataclass(frozen=True)
class Experiment:
    """One measurement. `kind` is one of

    - `baseline`: the model as it is;
    - `reinit`: weights of `nodes` (all linear/conv if empty) drawn anew by `law`: "kaiming", "kaiming_residual"
      (the last layer of each residual branch scaled by `branch_scale`), "xavier", "orthogonal", "default",
      "lstm_forget_bias"; the gain follows the activation that each layer feeds;
    - `swap_activation`: every activation of `nodes` replaced by `to` ("relu", "gelu", "tanh" …) with the
      init that suits it on the layers that feed them;
    - `insert_norm`: `norm` ("layer", "batch") put before every activation of `nodes`;
    - `add_skips`: identity paths around every `every` weighted layers of `nodes`, the branch scaled by
      `branch_scale` (grown: 0.2; never 0, which would be true by construction);
    - `unroll`: ‖∂L/∂h_t‖ over `steps` time steps of the recurrent `nodes`, and their spectral norm, with the
      recurrent weights multiplied by `weight_factor`; after a `law` ("lstm_forget_bias", "orthogonal") if given;
    - `step`: `steps` optimizer steps on the same batch at `learning_rate` with `optimizer`;
    - `clip`: as `step`, with gradients clipped to `max_norm`;
    - `curvature`: largest Hessian eigenvalue by Lanczos, informational.

    `label` is how a person would name it ("He init", "LayerNorm", "lr 3e-5"); it keys `Evidence.whatif`.
    `nodes` are node *names* of the ModelGraph.
    """

    kind: str
    label: str = ""
    nodes: tuple[str, ...] = ()
    law: str | None = None
    to: str | None = None
    norm: str | None = None
    every: int = 2
    branch_scale: float = 0.2
    steps: int = 10
    weight_factor: float = 1.0
    learning_rate: float | None = None
    optimizer: str | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    max_norm: float | None = None

    @property
    def key(self) -> str:
        """What `Measurements.of` is keyed by."""
        return self.label or self.kind


@dataclass(frozen=True)
class LayerMeasurement:
    """What was seen at one node of the graph, medians over seeds, plain floats (not log10).

    `activation_std`, `gradient` (norm ‖∂L/∂h‖ over the whole batch tensor, absolute), `weight_gradient`
    (norm of the parameter gradient, None for nodes without weights), `saturated`, `dead` (share of units
    that are 0 for every sample), `update_ratio` (‖Δw‖/‖w‖ under the script's optimizer).

    `weight_histogram` and `gradient_histogram` are shares of the weight's (its gradient's) elements by absolute value:
    first what is below 1e-12 (zeros too), then a bin a decade up to 1e4, then what is above or not finite. Of the
    first seed, from a sample of the elements; empty for nodes without weights.
    """

    name: str
    activation_mean: float | None = None
    activation_std: float | None = None
    gradient: float | None = None
    weight_gradient: float | None = None
    saturated: float | None = None
    dead: float | None = None
    update_ratio: float | None = None
    weight_norm: float | None = None
    distinct: float | None = None
    weight_histogram: tuple[float, ...] = ()
    gradient_histogram: tuple[float, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """The result of one experiment. A number that was measured as NaN or infinite is `OVERFLOW`.

    `layers` by node name. `per_seed` holds, for every node name, the absolute gradient norm of each seed
    (so that a rule can take ratios per seed and their spread). `loss` is the first loss; `losses` the
    curve of `step`/`clip` (also of `add_skips`, where the script's rate is known), `plain_losses` that of plain
    SGD at lr/(1−β) where the optimizer has momentum β; `gradient_norms` the total gradient norm before each step,
    or of each seed's pass. `first_nonfinite`
    names the node that made the first NaN or Inf ("loss": the loss itself), `nonfinite_step` the optimizer step
    before which it did, where several were watched. `hidden_state_gradients` (unroll) are ‖∂L/∂h_t‖ for
    t = 1…T; `spectral_norm` that of W_hh. `error` says why it could not be done; then all else is empty.
    """

    kind: str
    label: str = ""
    layers: dict[str, LayerMeasurement] = field(default_factory=dict)
    per_seed: dict[str, tuple[float, ...]] = field(default_factory=dict)
    seeds: int = 1
    loss: float | None = None
    losses: tuple[float, ...] = ()
    plain_losses: tuple[float, ...] = ()
    gradient_norms: tuple[float, ...] = ()
    first_nonfinite: str | None = None
    nonfinite_step: int | None = None
    hidden_state_gradients: tuple[float, ...] = ()
    spectral_norm: float | None = None
    curvature: float | None = None
    device: str = "cpu"
    batch: str = "synthetic"
    notes: tuple[str, ...] = ()
    error: str | None = None


ON_CPU_INSTEAD = "measured on the CPU"
"""How a note ends that says why the device that was asked for was left."""


@dataclass(frozen=True)
class Measurements:
    """All that was measured for one model, by `Experiment.key`."""

    of: dict[str, Measurement] = field(default_factory=dict)

    def get(self, key: str) -> Measurement | None:
        """The measurement of that experiment, or None if it was not made or failed."""
        found = self.of.get(key)
        return None if found is None or found.error else found

    @property
    def baseline(self) -> Measurement | None:
        """The model as it is."""
        return self.get("baseline")

    def with_notes(self, notes: Sequence[str]) -> Measurements:
        """The same measurements with notes that hold for each of them."""
        return Measurements({key: replace(m, notes=(*m.notes, *notes)) for key, m in self.of.items()})
