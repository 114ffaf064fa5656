"""Runs the experiments of a probe job on a model of a script, over several seeds."""

from __future__ import annotations

import gc
import math
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from dataclasses import fields, replace
from statistics import median
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.graph.devices import OnModelDevice
from gradlint.probe.experiment import ON_CPU_INSTEAD, OVERFLOW, Experiment, LayerMeasurement, Measurement, Measurements
from gradlint.probe.experiments import ONCE, NotApplicableError, Seen, Subject, perform
from gradlint.probe.initialization import UnknownLawError
from gradlint.probe.loss import OutputError, SyntheticLoss
from gradlint.probe.measure import casting
from gradlint.probe.recurrence import NotRecurrentError
from gradlint.probe.replay import Recipe, UnknownOptimizerError
from gradlint.probe.state import preserved
from gradlint.probe.statistics import BUDGET

if TYPE_CHECKING:
    from gradlint.graph.build import BuiltModel
    from gradlint.graph.trace import Traced
    from gradlint.worker.protocol import ProbeJob

SMALLEST_BATCH = 2
"""Below this, batch statistics and distances between samples mean nothing."""

_OWN = (NotApplicableError, NotRecurrentError, UnknownLawError, UnknownOptimizerError, OutputError)
"""Errors whose message says all; of others the class is named too."""

DTYPES = {"float16": torch.float16, "bfloat16": torch.bfloat16}


class LostDeviceError(Exception):
    """The model broke the device for this process; the message says how."""

    gradlint_stage = "device"


def choose_device(wanted: str) -> torch.device:
    """The device of that name; "auto" is CUDA, else MPS, else CPU."""
    if wanted != "auto":
        return torch.device(wanted)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def run(job: ProbeJob, traced: Traced, built: BuiltModel) -> Measurements:
    """All experiments of the job, by their key. Never raises for what the model does: that is `Measurement.error`.

    A model that does not fit the device is tried with smaller batches, then on the CPU. Raises LostDeviceError where it
    breaks the device: this process can measure no more then, for torch asks every device that it has begun to use for
    its state, on the CPU too.
    """
    notes: list[str] = []
    try:
        device = choose_device(job.device)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        notes.append(f"device {job.device} cannot be used ({one_line(error)}), {ON_CPU_INSTEAD}")
        device = torch.device("cpu")
    batch_size = job.batch_size
    while True:
        try:
            return _run_on(device, batch_size, job, traced, built).with_notes(notes)
        except Exception as error:
            if lost_device(error) and device.type != "cpu":
                raise LostDeviceError(f"{device.type} failed ({one_line(error)})") from None
            if not out_of_memory(error):
                return _all_failed(job.experiments, one_line(error), device)
        gc.collect()
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if batch_size // 2 >= SMALLEST_BATCH:
            batch_size //= 2
            notes.append(f"out of memory on {device.type}: batch of {batch_size}")
        elif device.type != "cpu":
            notes.append(f"does not fit {device.type}, {ON_CPU_INSTEAD}")
            device, batch_size = torch.device("cpu"), job.batch_size
        else:
            return _all_failed(job.experiments, f"out of memory with a batch of {batch_size}", device)


def _run_on(device: torch.device, batch_size: int, job: ProbeJob, traced: Traced, built: BuiltModel) -> Measurements:
    args, kwargs = traced.inputs(batch_size, device, job.seed)
    specified = job.loss if job.loss.kind != "unknown" else traced.graph.loss
    loss = SyntheticLoss(specified, job.seed)
    recipe = None
    if job.optimizer is not None:
        recipe = Recipe(job.optimizer, job.learning_rate, job.momentum, job.weight_decay)
    averaged = SyntheticLoss(replace(specified, reduction="mean"), job.seed) if specified.reduction == "sum" else None
    autocast = DTYPES.get(job.autocast or "")
    subject = Subject(args, kwargs, loss, traced.graph, recipe, BUDGET, autocast, observed=averaged)

    def make(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        module = built.factory(seed)
        if not module.training:
            module.train()
        return module.to(device)

    general: list[str] = []
    with OnModelDevice(device) if traced.names_device else nullcontext():
        if subject.autocast is not None and not casts(subject, make(job.seed)):
            general.append(f"{job.autocast} autocast does not run on {device.type}: measured in float32")
            subject = replace(subject, autocast=None)
        seeds = [job.seed + i for i in range(max(1, job.seeds))]
        found = repeat(job.experiments, subject, make, seeds, job.seconds)
    label = f"synthetic, {batch_size} samples"
    general += loss.notes
    if built.pretrained:
        general.append("the checkpoint's weights are not at hand: measured with fresh ones")
    placed = Measurements({key: replace(m, device=device.type, batch=label) for key, m in found.of.items()})
    return placed.with_notes(general)


def casts(subject: Subject, module: nn.Module) -> bool:
    """Whether the model runs forward under the script's autocast on this device."""
    device = next((p.device for p in module.parameters()), torch.device("cpu"))
    try:
        with preserved(module), torch.no_grad(), casting(device, subject.autocast):
            subject.loss(module(*subject.args, **subject.kwargs))
    except RuntimeError as error:
        if out_of_memory(error) or lost_device(error):
            raise
        return False
    return True


def repeat(
    experiments: Sequence[Experiment],
    subject: Subject,
    make: Callable[[int], nn.Module],
    seeds: Sequence[int],
    seconds: float = math.inf,
) -> Measurements:
    """Each experiment over the seeds. After the first seed no other is begun that would overrun `seconds`.

    `make(seed)` is the model with its weights drawn under that seed. Raises what `make` raises, and errors that say
    that the device is out of memory or lost; any other failure of an experiment is its `Measurement.error`.
    """
    began = time.monotonic()
    results: dict[str, list[Seen]] = {e.key: [] for e in experiments}
    failures: dict[str, str] = {}
    skipped = 0
    for index, seed in enumerate(seeds):
        if index and (time.monotonic() - began) * (index + 1) / index > seconds:
            skipped = len(seeds) - index
            break
        module = make(seed)
        for experiment in experiments:
            if experiment.key in failures or (index and experiment.kind in ONCE):
                continue
            # Curves are drawn for the first seed alone; the pass before the steps is made for each.
            once = replace(experiment, steps=0) if index and experiment.kind == "add_skips" else experiment
            try:
                results[experiment.key].append(perform(once, subject, module, seed))
            except Exception as error:
                if out_of_memory(error) or lost_device(error):
                    raise
                failures[experiment.key] = one_line(error)
        del module
    notes = (f"{skipped} of {len(seeds)} seeds left out: time limit",) if skipped else ()
    of = {}
    for experiment in experiments:
        key = experiment.key
        if key in failures:
            of[key] = Measurement(experiment.kind, experiment.label, error=failures[key])
        else:
            of[key] = combine(experiment, results[key], notes)
    return Measurements(of)


def combine(experiment: Experiment, seen: Sequence[Seen], notes: Iterable[str] = ()) -> Measurement:
    """The measurement over all seeds: medians, and each seed's gradient norms."""
    passes = [s.observed for s in seen if s.observed is not None]
    names = [name for name in passes[0].layers if all(name in p.layers for p in passes)] if passes else []
    reached = [name for name in passes[0].gradients if all(name in p.gradients for p in passes)] if passes else []
    unrolled = [s.unrolled for s in seen if s.unrolled is not None]
    every_note = [n for s in seen for n in (*s.notes, *(s.observed.notes if s.observed else ()))]
    losses = next((s.losses for s in seen if s.losses), ())
    norms = next((s.norms for s in seen if s.norms), ()) or tuple(p.total_norm for p in passes)
    measurement = Measurement(
        kind=experiment.kind,
        label=experiment.label,
        layers={name: middle([p.layers[name] for p in passes]) for name in names},
        per_seed={name: tuple(p.gradients[name] for p in passes) for name in reached},
        seeds=len(seen),
        loss=_median([p.loss for p in passes]) if passes else (losses[0] if losses else None),
        losses=losses,
        plain_losses=next((s.plain_losses for s in seen if s.plain_losses), ()),
        gradient_norms=norms,
        first_nonfinite=next((p.first_nonfinite for p in passes if p.first_nonfinite), None),
        hidden_state_gradients=_medians([u.gradients for u in unrolled]),
        spectral_norm=_median([u.spectral_norm for u in unrolled]),
        curvature=_median([s.curvature for s in seen if s.curvature is not None]),
        notes=tuple(dict.fromkeys((*every_note, *notes))),
    )
    finite: Measurement = writable(measurement)
    return finite


def writable(value: Any) -> Any:
    """The value with every NaN and infinity in it as `OVERFLOW`, since JSON has neither."""
    match value:
        case float():
            return value if math.isfinite(value) else OVERFLOW
        case tuple():
            return tuple(writable(item) for item in value)
        case dict():
            return {key: writable(item) for key, item in value.items()}
        case Measurement() | LayerMeasurement():
            return replace(value, **{f.name: writable(getattr(value, f.name)) for f in fields(value)})
    return value


def middle(layers: Sequence[LayerMeasurement]) -> LayerMeasurement:
    """The medians over seeds, number by number, of those that are known."""
    values: dict[str, Any] = {"name": layers[0].name}
    for f in fields(LayerMeasurement):
        if f.name.endswith("histogram"):
            values[f.name] = getattr(layers[0], f.name)
        elif f.name != "name":
            values[f.name] = _median([v for layer in layers if (v := getattr(layer, f.name)) is not None])
    return LayerMeasurement(**values)


def _median(values: Sequence[float]) -> float | None:
    """The median; a NaN counts as larger than everything, so that one bad seed of three does not hide the others."""
    if not values:
        return None
    return median(sorted(values, key=lambda v: math.inf if math.isnan(v) else v))


def _medians(rows: Sequence[Sequence[float]]) -> tuple[float, ...]:
    return tuple(m for column in zip(*rows, strict=False) if (m := _median(column)) is not None)


def _all_failed(experiments: Sequence[Experiment], reason: str, device: torch.device) -> Measurements:
    return Measurements({e.key: Measurement(e.kind, e.label, error=reason, device=device.type) for e in experiments})


def out_of_memory(error: BaseException) -> bool:
    """Whether the error says that a device's memory is exhausted."""
    if isinstance(error, (MemoryError, torch.cuda.OutOfMemoryError)):
        return True
    text = str(error).lower()
    return isinstance(error, RuntimeError) and ("out of memory" in text or "can't allocate memory" in text)


def lost_device(error: BaseException) -> bool:
    """Whether a kernel broke the device for this process: an index out of range, an illegal access."""
    own = getattr(torch, "AcceleratorError", ())  # torch >= 2.8
    broke = isinstance(error, own) or (isinstance(error, RuntimeError) and str(error).startswith("CUDA error:"))
    return broke and not out_of_memory(error)


def one_line(error: BaseException) -> str:
    """An error as one line: its class where that says more than "error", and its first line."""
    text = str(error).strip().splitlines()
    first = text[0][:300] if text else ""
    name = type(error).__name__
    if not first:
        return name
    plain = name in ("RuntimeError", "ValueError") or isinstance(error, _OWN)
    return first if plain else f"{name}: {first}"
