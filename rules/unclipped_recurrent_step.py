"""GL401: a recurrent model is trained with nothing to bound its gradient."""

from __future__ import annotations

from collections.abc import Iterator
from statistics import median

from gradlint.clipping import clip_after_backward
from gradlint.finding import Evidence, Finding, Fix, Outcome, Related, Severity, Verdict
from gradlint.notation import from_log10, number
from gradlint.probe.experiment import Experiment, Measurement, Measurements
from gradlint.probe.judging import EXPLODED_NORM, growth_per_step, spikes
from gradlint.replay import StepSubject, gradient_norms, replay, step_subject
from gradlint.rule import Positive, Rule, RuleOptions
from gradlint.source.script import Model, Script, TrainingStep
from gradlint.verdicts import unmeasured

GROWN = "recurrent weights doubled"


class UnclippedOptions(RuleOptions, frozen=True):
    """`reinforcement`: also report steps on rewards that spike; `max_norm`: the bound that the fix writes."""

    reinforcement: bool = True
    max_norm: Positive = 1.0


class UnclippedRecurrentStep(Rule):
    """
    ## What it does
    Looks for a training step (backward, then optimizer step) over a model that holds an RNN, LSTM, GRU or a
    hand-written recurrence, with no clipping between the two. Known as clipping: `clip_grad_norm_`,
    `clip_grad_value_`, accelerate's, Fabric's, Lightning's and DeepSpeed's own, HF Trainer's `max_grad_norm`,
    clamping by hand, hooks, and helpers that do so in another file.

    ## Why it hurts
    Back-propagation multiplies by the recurrent Jacobian once for every time step. As training makes the
    recurrent weights grow, the product explodes on some batches: the loss surface has cliffs, and one step over
    one of them undoes thousands. A bound on the norm turns the cliff into a step. Clipping does not cure the
    opposite: default-init recurrent layers *vanish* over 50 steps, which is GL111.

    ## Example
    ```python
    loss.backward()
    optimizer.step()
    ```

    ## Use instead
    ```python
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)
    optimizer.step()
    ```

    ## How it is confirmed
    The step is replayed ten times and the network unrolled over its time steps, as it is and with the recurrent
    weights doubled, which training commonly does. Confirmed when the norm of the gradient spikes (largest ≥ 10 ×
    median, or above 1e3) or the grown net explodes. A small gradient at init never refutes this rule.

    ## Fix safety
    Safe: inserts `clip_grad_norm_` with `max_norm=1.0` after `backward()`, and `scaler.unscale_(optimizer)`
    before it under a GradScaler.

    ## Options
    - `reinforcement` (true): also report recurrent models trained on rewards
    - `max-norm` (1.0; above 0): the bound that the fix writes

    ## References
    - Pascanu et al., On the difficulty of training recurrent neural networks, ICML 2013, §2.1 and §3.2
    """

    code = "GL401"
    name = "unclipped-recurrent-step"
    since = "0.1"
    severity = Severity.WARNING
    Options = UnclippedOptions
    BAD = """\
import torch
from torch import nn


class Tagger(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(16, 64, nonlinearity="relu", batch_first=True)
        nn.init.eye_(self.rnn.weight_hh_l0)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        out, _ = self.rnn(x)
        return self.head(out[:, -1])


model = Tagger()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 40, 16), torch.randint(0, 5, (32,))
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    optimizer.step()
"""
    GOOD = BAD.replace(
        "    loss.backward()\n",
        "    loss.backward()\n    torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=1.0)\n",
    )

    def check_script(self, script: Script) -> Iterator[Finding]:
        seen = set()
        for step in script.steps:
            if step.optimizer_step in seen or (step.reinforcement and not self.options.reinforcement):
                continue
            if step.clipping is not None and step.clipping.enabled:
                continue
            recurrent = [m for m in step.models if _recurrent(m)]
            if not recurrent:
                continue
            seen.add(step.optimizer_step)
            yield self._found(step, recurrent[0])

    def _found(self, step: TrainingStep, model: Model) -> Finding:
        recurrence = model.recurrence or (model.model_class.recurrence if model.model_class else None)
        kinds = recurrence.kinds if recurrence else ()
        places = recurrence.locations if recurrence else ()
        what = "/".join(dict.fromkeys(kinds)) or "recurrence"
        related = [Related(at, f"the recurrence ({what})") for at in dict.fromkeys(places)]
        if step.clipping is not None:
            related.append(Related(step.clipping.location, "this clipping is switched off by default"))
        if step.backward is not None and step.backward != step.optimizer_step:
            related.append(Related(step.backward, "the gradient comes from here"))
        clip = f"torch.nn.utils.clip_grad_norm_({model.name}.parameters(), max_norm={self.options.max_norm:g})"
        return self.finding(
            step.optimizer_step,
            f"`{model.name}` is recurrent ({what}), and nothing clips its gradient before the optimizer step",
            help=f"clip between `backward()` and `step()`: `{clip}`; 1.0 to 5.0 is customary",
            related=related,
            model=model.name,
            optimizer=step.optimizer.algorithm if step.optimizer else None,
            subject=step_subject(step, kinds),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        subject = finding.subject
        if not isinstance(subject, StepSubject):
            return []
        unrolled = [
            Experiment("unroll", steps=subject.steps),
            Experiment("unroll", label=GROWN, steps=subject.steps, weight_factor=2.0),
        ]
        return [Experiment("baseline"), *replay(subject), *unrolled]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        series = spikes(gradient_norms(seen))
        unrolled, grown = seen.get("unroll"), seen.get(GROWN)
        evidence = Evidence(numbers=_numbers(seen, unrolled, grown))
        if series and series.spiking:
            reason = f"gradient norm measured up to {number(series.largest)}, median {number(series.median)}"
            return Verdict(Outcome.CONFIRMED, reason, evidence=evidence)
        per_step = growth_per_step(grown.hidden_state_gradients) if grown else None
        if grown and explodes(grown):
            how = f", by {from_log10(per_step)} with each time step" if per_step is not None else ""
            return Verdict(
                Outcome.CONFIRMED, f"with its recurrent weights doubled the gradient explodes{how}", evidence=evidence
            )
        if not series and unrolled is None and grown is None:
            return unmeasured(seen, "the recurrence was not seen")
        now = growth_per_step(unrolled.hidden_state_gradients) if unrolled else None
        vanishes = (
            f"; the gradient shrinks by {from_log10(now)} with each time step, which clipping does not cure (GL111)"
            if _small(now)
            else ""
        )
        return Verdict(Outcome.UNVERIFIED, f"bounded at init{vanishes}", evidence=evidence)

    def fix(self, finding: Finding, script: Script) -> Fix | None:
        step = next((s for s in script.steps if s.optimizer_step == finding.location), None)
        return clip_after_backward(step, script, self.options.max_norm) if step else None


def _recurrent(model: Model) -> bool:
    return model.recurrence is not None or (model.model_class is not None and model.model_class.recurrence is not None)


def _small(per_step: float | None) -> bool:
    return per_step is not None and per_step < -0.1


def explodes(measurement: Measurement) -> bool:
    """Whether the gradient of the first hidden state is more than 1e3 times that of the last, or not finite."""
    series = measurement.hidden_state_gradients
    if measurement.first_nonfinite is not None or any(x != x or x == float("inf") for x in series):  # noqa: PLR0124
        return True
    finite = [x for x in series if x > 0]
    return len(finite) > 1 and max(finite[: max(1, len(finite) // 2)]) >= EXPLODED_NORM * finite[-1]


def _numbers(
    seen: Measurements, unrolled: Measurement | None, grown: Measurement | None
) -> dict[str, float | str | None]:
    series = gradient_norms(seen)
    found: dict[str, float | str | None] = {}
    if series:
        found |= {"gradient_norm_largest": max(series), "gradient_norm_median": median(series)}
    if unrolled is not None:
        found["spectral_norm"] = unrolled.spectral_norm
        found["growth_per_step_log10"] = growth_per_step(unrolled.hidden_state_gradients)
    if grown is not None:
        found["growth_per_step_doubled_log10"] = growth_per_step(grown.hidden_state_gradients)
    return found
