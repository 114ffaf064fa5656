"""GL111: the first time steps of a recurrent layer get no gradient from its final state."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from gradlint import claims
from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile, RecurrenceProfile
from gradlint.graph.topology_paths import only_final_state
from gradlint.location import Location
from gradlint.notation import from_log10
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.probe.judging import classify_log10, growth_per_step
from gradlint.replay import UNROLLED, plain_number
from gradlint.rule import Context, Count, Rule
from gradlint.severity import RatioOptions, power, vanishing
from gradlint.verdicts import unmeasured

REMEDIES = {
    "lstm": "initialise the forget gate's bias to 1 or 2, or shorten the sequences",
    "gru": "shorten the sequences, attend over all states, or initialise the update gate's bias to 2",
    "rnn": "use an LSTM with forget bias 1 to 2, an orthogonal `weight_hh`, or attention over all states",
}


class RecurrenceOptions(RatioOptions, frozen=True):
    """`steps`: recurrences over fewer time steps than this are not looked at."""

    steps: Count = 10


@dataclass(frozen=True)
class RecurrenceSubject:
    """The recurrent node, its time steps (`assumed` where neither graph nor script says), and log10 of the
    predicted ‖∂h_T/∂h_0‖."""

    node: str
    steps: int
    total: float
    algorithm: str | None
    claimed: Severity
    remedy: Experiment
    assumed: bool = False


def _time_steps(graph: ModelGraph, node: Node) -> int | None:
    """T, where the graph knows it: of the sequence that enters the layer."""
    steps = node.attributes.get("steps")
    if isinstance(steps, int):
        return steps
    shape = graph.nodes[node.inputs[0]].shape if node.inputs else None
    if shape is None or len(shape) < 2:
        return None
    if len(shape) == 2:
        return shape[0]
    return shape[1] if node.attributes.get("batch_first") else shape[0]


def _script_steps(context: Context) -> int | None:
    """T, where every training step of the script names the same."""
    lengths = {plain_number(step.sequence_length) for step in (context.script.steps if context.script else ())}
    length = lengths.pop() if len(lengths) == 1 else None
    return int(length) if length else None


def _over(predicted: RecurrenceProfile, steps: int) -> RecurrenceProfile:
    """The same recurrence over another number of steps: the factor settles after a few."""
    if steps == predicted.steps:
        return predicted
    return RecurrenceProfile(steps, predicted.per_step, predicted.per_step * steps)


class VanishingRecurrence(Rule):
    """
    ## What it does
    Predicts how much of the gradient at the final state of an RNN, LSTM or GRU reaches its first time step, and
    reports where next to nothing does, in a model that reads nothing but the final state.

    ## Why it hurts
    Every time step multiplies the gradient by the recurrent Jacobian. PyTorch's default init makes that factor
    about 0.55 for a vanilla RNN and 0.62 for an LSTM or GRU: over 50 steps 1e-13, 8e-11 and 7e-11 are left. What
    the first words say cannot be learnt. Clipping does not cure it.

    ## Example
    ```python
    self.lstm = nn.LSTM(64, 128, batch_first=True)
    _, (h, _) = self.lstm(x)  # 50 steps, and only the last state is read
    ```

    ## Use instead
    ```python
    self.lstm = nn.LSTM(64, 128, batch_first=True)
    for name, bias in self.lstm.named_parameters():
        if name.startswith("bias_hh"):
            nn.init.constant_(bias[128:256], 2.0)  # the forget gate: 0.35 of the gradient is left at 50 steps
    ```

    Where neither the graph nor the script says how long the sequences are, the finding tells the factor per step and
    the length from which it matters, for information.

    ## How it is confirmed
    The network is unrolled on one batch and ‖∂L/∂h_t‖ measured for every step, as it is and with the remedy.

    ## Fix safety
    No fix is offered: which remedy suits depends on the task.

    ## Options
    - `steps` (10; 1 or more): shorter recurrences are not looked at
    - `ratio-plain`, `ratio-adaptive`: thresholds `info`, `warning`, `error`; an error is reported as a warning,
      because the last steps do train

    ## References
    - Bengio et al., Learning long-term dependencies with gradient descent is difficult, 1994
    - Jozefowicz et al., An Empirical Exploration of Recurrent Network Architectures, ICML 2015
    """

    code = "GL111"
    name = "vanishing-recurrence"
    since = "0.1"
    severity = Severity.INFO
    Options = RecurrenceOptions
    BAD = """\
import torch
from torch import nn


class Reader(nn.Module):
    def __init__(self):
        super().__init__()
        self.rnn = nn.RNN(16, 64, batch_first=True)
        self.head = nn.Linear(64, 5)

    def forward(self, x):
        _, state = self.rnn(x)
        return self.head(state[-1])


model = Reader()
optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 50, 16), torch.randint(0, 5, (32,))
    optimizer.zero_grad()
    loss = criterion(model(x), y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
"""
    GOOD = BAD.replace("_, state = self.rnn(x)", "states, _ = self.rnn(x)").replace("state[-1]", "states.mean(dim=1)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        for node in graph.of_kind("recurrent"):
            predicted = profile.recurrence.get(node.id)
            if predicted is None or not only_final_state(graph, node):
                continue
            said, traced = _script_steps(context), _time_steps(graph, node)
            steps = said or traced
            recurrence = _over(predicted, steps or UNROLLED)
            if recurrence.steps < self.options.steps:
                continue
            if graph.pretrained or claims.from_checkpoint(graph, [node]):
                continue
            bands = vanishing(self.options.ratio(context.algorithm))
            severity = classify_log10(recurrence.total, bands, uncertainty=0.3)
            location = claims.place(graph, node)
            if severity is None or location is None:
                continue
            whose = "" if said else " of the traced input" if traced else " (assumed)"
            yield self._found(node, location, recurrence, severity, whose, graph, profile, context)

    def _found(
        self,
        node: Node,
        location: Location,
        recurrence: RecurrenceProfile,
        severity: Severity,
        whose: str,
        graph: ModelGraph,
        profile: Profile,
        context: Context,
    ) -> Finding:
        steps, total = recurrence.steps, recurrence.total
        assumed = whose == " (assumed)"
        low = assumed or "low" in (profile.confidence, graph.confidence)
        # Only the first steps starve: the last ones train, and T may be another in the user's data.
        claimed = Severity.WARNING if severity is Severity.ERROR and not low else Severity.INFO
        law, label = ("lstm_forget_bias", "forget bias") if node.op == "lstm" else ("orthogonal", "orthogonal init")
        remedy = Experiment("unroll", label=label, nodes=(node.name,), steps=steps, law=law)
        falls = f"falls to a predicted {from_log10(total)} from its last time step back to the first of {steps}{whose}"
        if assumed:
            least, _ = self.options.ratio(context.algorithm).info
            after = math.ceil(least / recurrence.per_step)
            falls = (
                f"falls to a predicted {from_log10(recurrence.per_step)} with each time step back: of sequences longer "
                f"than {after} steps less than {from_log10(least)} is left for the first"
            )
        return self.finding(
            location,
            f"the gradient of `{node.name}` {falls}, and the model reads only the last state",
            help=REMEDIES.get(node.op, REMEDIES["rnn"]),
            severity=claimed,
            evidence=Evidence(predicted_gradient_ratio=power(total), numbers={"time_steps": steps}),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=claims.confidence(graph, profile),
            subject=RecurrenceSubject(node.name, steps, total, context.algorithm, claimed, remedy, assumed),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        subject = finding.subject
        if not isinstance(subject, RecurrenceSubject):
            return []
        return [Experiment("unroll", nodes=(subject.node,), steps=subject.steps), subject.remedy]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        subject, unrolled = finding.subject, seen.get("unroll")
        if not isinstance(subject, RecurrenceSubject) or unrolled is None:
            failed = seen.of.get("unroll")
            return Verdict(Outcome.UNVERIFIED, failed.error or "not unrolled") if failed else unmeasured(seen, "")
        per_step = growth_per_step(unrolled.hidden_state_gradients)
        if per_step is None:
            return Verdict(Outcome.UNVERIFIED, "the time steps were not seen")
        total = per_step * (len(unrolled.hidden_state_gradients) - 1)
        cured = seen.get(subject.remedy.key)
        after = growth_per_step(cured.hidden_state_gradients) if cured else None
        whatif = {subject.remedy.key: power(after * (len(cured.hidden_state_gradients) - 1))} if cured and after else {}
        evidence = Evidence(
            measured_gradient_ratio=power(total),
            whatif=whatif,
            seeds=unrolled.seeds,
            numbers={"per_step": power(per_step)},
        )
        severity = classify_log10(total, vanishing(self.options.ratio(subject.algorithm)), claimed=subject.claimed)
        told = f"{from_log10(total)} measured over {len(unrolled.hidden_state_gradients)} steps"
        if severity is None:
            return Verdict(Outcome.REFUTED, f"{told}, healthy", Severity.INFO, evidence)
        harmful = severity is Severity.ERROR and not subject.assumed
        return Verdict(Outcome.CONFIRMED, told, Severity.WARNING if harmful else Severity.INFO, evidence)
