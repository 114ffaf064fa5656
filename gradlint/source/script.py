"""What a training script says: the facts that rules reason about, as plain data."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradlint.location import Location
from gradlint.source.value import UNKNOWN, Call, Resolution


@dataclass(frozen=True)
class Recurrence:
    """Recurrent layers in a model: `kinds` are "RNN", "LSTM", "GRU", "RNNCell" …, or "hand-written".

    `locations` are the constructor lines (perhaps in another file).
    """

    kinds: tuple[str, ...]
    locations: tuple[Location, ...]


@dataclass(frozen=True)
class Pretrained:
    """Weights that come from a checkpoint.

    `family`: bert, t5, gpt2, decoder-1b, vit, cnn, speech, clip, other (see GL501's table); `size` in
    parameters where the name tells. `call` is the load ("transformers.AutoModel.from_pretrained"), `name` the
    checkpoint as written ("bert-base-uncased", "weights=ResNet50_Weights.DEFAULT"). `certain` is False when it
    only holds on a branch or for another value of a flag than the default.
    """

    family: str
    call: Call
    name: str | None = None
    size: int | None = None
    certain: bool = True


@dataclass(frozen=True)
class Frozen:
    """Parameters that are not trained: `what` is "all", "backbone", "features", "part"; `how` requires_grad,
    no_grad, eval-only, not-in-optimizer, peft."""

    what: str
    how: str
    location: Location


@dataclass(frozen=True)
class ModelClass:
    """A class of this project that is a torch.nn.Module (or Lightning module).

    `layers` maps attribute names to the qualified name of what is assigned in `__init__`, where it is one.
    """

    name: str
    qualified_name: str
    location: Location
    bases: tuple[str, ...] = ()
    recurrence: Recurrence | None = None
    pretrained: Pretrained | None = None
    layers: dict[str, str] = field(default_factory=dict, hash=False)


@dataclass(frozen=True)
class Model:
    """A model instance in a script: the expression that constructs it.

    `name` is the variable ("net", "self.model"); `classes` the qualified names it can be an instance of;
    `expression` its source text. `location` is the constructing call. `model_class` is set where the class
    is one of this project's. `recurrence`, `pretrained` and `frozen` are what is known of the instance
    (through its class, its parts and what the script does to it).
    """

    name: str
    classes: tuple[str, ...]
    location: Location
    expression: str = ""
    model_class: ModelClass | None = None
    recurrence: Recurrence | None = None
    pretrained: Pretrained | None = None
    frozen: tuple[Frozen, ...] = ()
    adapter: str | None = None
    scope: str = ""
    candidates: bool = False


@dataclass(frozen=True)
class ParameterGroup:
    """A group of parameters under one learning rate.

    `models` are the models (by identity in `Script.models`) any of whose parameters are in it; `part` is "all",
    "head", "backbone", "trainable" (filtered by requires_grad), "decay"/"no_decay", "layers" (layer-wise) or
    "some". `expression` is the source.
    """

    models: tuple[Model, ...]
    part: str
    learning_rate: Resolution
    weight_decay: Resolution = UNKNOWN
    expression: str = ""
    location: Location | None = None


@dataclass(frozen=True)
class Schedule:
    """A learning-rate schedule. `peak_factor` multiplies the base rate at its largest (1.0 for decay-only,
    None if unknown); `max_lr` where the schedule names the peak itself (OneCycleLR). `warmup` is True,
    False, or None when it cannot be read."""

    name: str
    location: Location
    peak_factor: float | None = 1.0
    max_lr: Resolution | None = None
    warmup: bool | None = None


@dataclass(frozen=True)
class Optimizer:
    """An optimizer as constructed.

    `name` is the variable; `algorithms` the class names it can be ("AdamW"; several under a dispatch),
    empty when unknown. `groups` has at least one group. `learning_rate` is the default rate with the
    optimizer's own default filled in when it is omitted (Adam: 1e-3). `arguments` are the others.
    """

    name: str
    algorithms: tuple[str, ...]
    location: Location
    groups: tuple[ParameterGroup, ...]
    learning_rate: Resolution
    momentum: Resolution = UNKNOWN
    arguments: dict[str, Resolution] = field(default_factory=dict, hash=False)
    schedules: tuple[Schedule, ...] = ()
    layer_decay: bool = False

    @property
    def algorithm(self) -> str | None:
        """The one algorithm, or None when it depends or is unknown."""
        return self.algorithms[0] if len(self.algorithms) == 1 else None

    @property
    def models(self) -> tuple[Model, ...]:
        """All models with parameters in this optimizer, in order, once each."""
        return tuple(dict.fromkeys(m for g in self.groups for m in g.models))


@dataclass(frozen=True)
class Clipping:
    """A bound on the gradient between backward and step.

    `how`: clip_grad_norm_, clip_grad_value_, trainer argument, hook, by hand, optimizer, helper, config.
    `bound` is max_norm or clip_value. `conditional` is True under an `if`; `enabled` False when the resolved
    condition or value switches it off by default. `targets` are the models whose parameters are clipped (empty:
    unknown). `position`: "between" (backward and step), "after_step", "before_backward", "before_unscale" (between
    the two, while the factor of a GradScaler is still on the gradient).
    """

    how: str
    location: Location
    bound: Resolution = UNKNOWN
    conditional: bool = False
    enabled: bool = True
    targets: tuple[Model, ...] = ()
    position: str = "between"


@dataclass(frozen=True)
class StepEvent:
    """Something that happens in a training step, in source order: forward, loss, backward, unscale, clip,
    step, zero_grad, scheduler_step, update (GradScaler)."""

    kind: str
    location: Location
    receiver: str = ""


@dataclass(frozen=True)
class TrainingStep:
    """One pair of backward and optimizer step.

    `optimizer_step` is the decisive line (for Lightning and the HF Trainer: the Trainer or its arguments).
    `optimizer` and `models` are what is known of whom it updates; `models` may be filled from the loss where
    the optimizer is a parameter of the function. `function` is the qualified name of the enclosing function or
    "". `framework`: "plain", "lightning", "transformers", "accelerate", "fabric", "deepspeed", "apex",
    "dist_autograd", "ignite". `clipping` is None when nothing bounds the gradient. `scaler`: GradScaler in use;
    `autocast`: "float16", "bfloat16" or None. `loop_depth` counts enclosing for/while loops in the function.
    `reinforcement` is True where the loss is built from rewards or advantages; `adversarial` in GANs. `cleared`: a
    `zero_grad` may reach the parameters that it updates. `early_schedule` is where the optimizer's schedule is
    stepped first in the loop of the two, or None. `given`: the optimizer is a parameter of the function, and nobody
    in reach passes one.
    """

    optimizer_step: Location
    backward: Location | None
    optimizer: Optimizer | None
    models: tuple[Model, ...]
    clipping: Clipping | None = None
    misplaced_clipping: Clipping | None = None
    events: tuple[StepEvent, ...] = ()
    function: str = ""
    framework: str = "plain"
    scaler: bool = False
    cleared: bool = True
    early_schedule: Location | None = None
    autocast: str | None = None
    accumulation: bool = False
    loop_depth: int = 0
    reinforcement: bool = False
    adversarial: bool = False
    sequence_length: Resolution = UNKNOWN
    loss: Location | None = None
    notes: tuple[str, ...] = ()
    given: bool = False


@dataclass(frozen=True)
class Forgotten:
    """Trainable parameters that no optimizer updates.

    `how`: "container" (modules in a plain list or dict), "forward" (a module built anew in `forward`), "moved" (a
    Parameter that was moved before it was assigned), "replaced" (a part put into a model after the optimizer was
    made, at `optimizer`), "not given" (a network in the loss that no optimizer is given). `name` is the attribute,
    variable or class, `owner` the class or model that holds it. `trains` is False for norms and the like only.
    """

    how: str
    name: str
    owner: str
    location: Location
    trains: bool = True
    optimizer: Location | None = None


@dataclass(frozen=True)
class CarriedState:
    """A hidden state that one backward pass hands to the next together with its graph.

    `name` is the variable, `backward` the pass in whose loop it is carried, `location` where the model gives it back.
    `retains`: the pass keeps the graph (`retain_graph=True`); `thrown_away`: a `detach()` stands there whose result is
    not used.
    """

    name: str
    backward: Location
    location: Location
    retains: bool
    thrown_away: bool = False


@dataclass(frozen=True)
class BrokenGraph:
    """A place where the gradient of what is trained ends.

    `how`: "loss" (nothing that `backward` starts from leads to a parameter), "revived" (the loss itself is made to
    require a gradient), "term" (one term of the loss), "forward" (the only way from the `layer` of a module to its
    output). `text` is the expression that cuts, at `location`.
    """

    how: str
    text: str
    location: Location
    backward: Location | None
    layer: str = ""


@dataclass(frozen=True)
class Singularity:
    """An operation on the way to a loss that is infinitely steep where what it is applied to is 0.

    `op`: log, log2, log10, sqrt, rsqrt. `how` it comes to 0: "rectified" (a ReLU), "clamped" (at 0), "1-sigmoid",
    "1-softmax", "sigmoid", "softmax" (rounded to 0 for large logits), "itself" (squared distances of a tensor to
    itself), "error" (a squared error), "squares" (a norm that is written out), "masked" (exponentials behind a mask),
    "probability", "1-probability" (of which the logarithms of p and 1 - p are taken). `text` is the expression at
    `location`.
    """

    op: str
    how: str
    text: str
    location: Location


@dataclass(frozen=True)
class LossRead:
    """What a training loss reads: the result of the operation `op` (in lower case) that stands at `operation`.

    `loss` is the class or function of torch that is called at `location`; `model` the model whose output is read, None
    where the operation stands outside of any.
    """

    loss: str
    location: Location
    op: str
    operation: Location
    model: Model | None = None


@dataclass(frozen=True)
class Skipped:
    """Something gradlint could not look into, and why, in one line.

    `unconstructed` is the qualified name of a class that this file does not construct; another file may.
    """

    location: Location
    reason: str
    unconstructed: str | None = None


@dataclass(frozen=True)
class Script:
    """All facts of one file, with what it imports from its own project taken into account.

    `losses` are the criteria constructed or called; `dataset` names a known data set or transform size
    (("MNIST", (1, 28, 28)) …) for input inference.
    """

    path: str
    root: str
    text: str
    models: tuple[Model, ...] = ()
    classes: tuple[ModelClass, ...] = ()
    optimizers: tuple[Optimizer, ...] = ()
    steps: tuple[TrainingStep, ...] = ()
    losses: tuple[Call, ...] = ()
    forgotten: tuple[Forgotten, ...] = ()
    carried: tuple[CarriedState, ...] = ()
    broken: tuple[BrokenGraph, ...] = ()
    singular: tuple[Singularity, ...] = ()
    reads: tuple[LossRead, ...] = ()
    dataset: tuple[str, tuple[int, ...]] | None = None
    skipped: tuple[Skipped, ...] = ()
    files: tuple[str, ...] = ()
    facts: dict[str, Any] = field(default_factory=dict, compare=False)
