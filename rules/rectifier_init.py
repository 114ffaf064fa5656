"""GL201: a layer that feeds a rectifier starts at a scale that is not He's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from gradlint import claims
from gradlint.finding import Finding, Severity, Verdict
from gradlint.gain import compare, is_default, named, suited
from gradlint.graph.model import RECTIFIERS, InitLaw, ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.graph.topology import HIDDEN_SATURATING, topology
from gradlint.graph.topology_branches import closing_layers, unnormalized_branches
from gradlint.graph.topology_paths import feeds, in_normalized_branch, longest_chain
from gradlint.location import Location
from gradlint.notation import number
from gradlint.path_rule import PathRule, PredictedPath
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.rule import Context, Count, Share
from gradlint.severity import BandOptions
from gradlint.verdicts import GainClaim, PathSubject, judge_gain

TOLERANCE = 0.8
"""Scales from 0.8 to 1/0.8 of He's pass: over ten layers they change the signal by less than a decade."""

XAVIER_TOLERANCE = 0.97
"""Xavier without the rectifier's gain is the wrong pairing whatever the widths make of it; where a layer narrows so
much that it comes to He's scale itself (16 to 1), there is nothing left to say."""

PLAIN_GAIN_SQUARED = 1.2
"""Xavier with a gain² beyond this was told of the rectifier (2 for ReLU)."""

DELIBERATE = frozenset({"eye", "dirac", "sparse", "pretrained", "unknown"})
"""Laws with a purpose of their own, or of which nothing is known."""


SCALED_BRANCHES = "He init, branches scaled by 0.2"
"""What-if of nets with skips and no norm: a branch that starts at zero, as it stands after some training."""


class RectifierOptions(BandOptions, frozen=True):
    """`default_depth`: layers on PyTorch's default init in one path before (b) speaks; `tolerance` on the scale."""

    default_depth: Count = 8
    tolerance: Share = TOLERANCE


@dataclass(frozen=True)
class _Suspect:
    layer: Node
    law: InitLaw
    activation: Node
    gain: float
    forward: float | None
    bound: bool = False
    branch: bool = False


@dataclass(frozen=True)
class _Remedy:
    """The law of the what-if, the label that reports name it by, and the advice in words."""

    label: str
    law: str
    advice: str


class RectifierInit(PathRule):
    """
    ## What it does
    Compares the scale of each weight's init with the activation that the layer feeds.

    (a) An init written in the code (Xavier, a small or large normal, uniform, constant …) on a layer before a
    rectifier (ReLU, LeakyReLU, GELU, SiLU …), where the std is not He's √(2/((1+a²)·fan)), fan_in or fan_out. Xavier
    without the rectifier's gain is compared with fan_in, since it leaves the factor out whatever the widths.
    (b) PyTorch's default init in a path so deep that the gradient leaves the healthy band: about 8 ReLU layers
    without normalisation or skip. Shallow nets on default init are healthy.
    (c) The mirror: He before sigmoid or tanh, where Xavier is right.

    A normalisation right behind the layer divides the scale out, and in a normalised residual branch a small
    init is right (normal 0.02 with LayerNorm, DCGAN with BatchNorm): neither is reported. Nor is an output layer.

    ## Why it hurts
    A rectifier passes half of the second moment. With He's gain of √2 the rest is made up for; with Xavier the
    signal shrinks by 0.71 a layer, with the default init by 0.41, and the gradient with it: after 20 ReLU layers
    on default init 6e-8 of it is left.

    ## Example
    ```python
    def init(module):
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)

    net.apply(init)  # Linear, ReLU, Linear, ReLU …
    ```

    ## Use instead
    ```python
    def init(module):
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
    ```
    `calculate_gain` has no entry for GELU and SiLU: use 1.53 and 1.68.

    ## How it is confirmed
    The gradient ratio, the weight gradients and the forward signal are measured on one batch, as the weights are
    and with He init (for c: Xavier); in a residual net without normalisation with the last layer of each branch
    scaled by 0.2, since bare He init would double the variance in every block. Where nothing suffers yet, the
    stated gain of the first layer is measured.

    ## Fix safety
    No fix is offered: the init of a net that was tuned on it changes its results.

    ## Options
    - `default-depth` (8; 1 or more): layers on default init in one path before (b) speaks
    - `tolerance` (0.8; above 0, at most 1): scales from this to its inverse of He's pass
    - `ratio-plain`, `ratio-adaptive`, `absolute`, `forward`: thresholds `info`, `warning`, `error`

    ## References
    - He et al., Delving Deep into Rectifiers, ICCV 2015
    - Glorot and Bengio, Understanding the difficulty of training deep feedforward neural networks, AISTATS 2010
    """

    code = "GL201"
    name = "rectifier-init"
    since = "0.1"
    severity = Severity.INFO
    Options = RectifierOptions
    BAD = """\
import torch
from torch import nn


def init(module):
    if isinstance(module, nn.Linear):
        nn.init.normal_(module.weight, std=0.01)
        nn.init.zeros_(module.bias)


net = nn.Sequential(
    nn.Linear(64, 64), nn.ReLU(),
    nn.Linear(64, 64), nn.ReLU(),
    nn.Linear(64, 64), nn.ReLU(),
    nn.Linear(64, 64), nn.ReLU(),
    nn.Linear(64, 64), nn.ReLU(),
    nn.Linear(64, 10),
)
net.apply(init)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for _ in range(100):
    x, y = torch.randn(32, 64), torch.randint(0, 10, (32,))
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
    GOOD = BAD.replace("nn.init.normal_(module.weight, std=0.01)", "nn.init.kaiming_normal_(module.weight)")

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        if graph.pretrained:
            return
        bypassed = topology(graph).innermost
        closing = closing_layers(graph)
        wrong: dict[tuple[str, ...], list[_Suspect]] = {}
        default: list[_Suspect] = []
        mirrored: dict[tuple[str, ...], list[_Suspect]] = {}
        for suspect in self._suspects(graph):
            law, activation = suspect.law, suspect.activation
            key = (law.location.path if law.location else "", law.scheme or law.distribution)
            if activation.op in HIDDEN_SATURATING:
                mirrored.setdefault(key, []).append(suspect)
            elif is_default(law):
                default.append(suspect)
            elif suspect.gain == 0 and suspect.layer.id in closing:
                continue  # Fixup, LayerScale, LoRA's B: the block starts as the identity, on purpose.
            elif law.origin != "default" and self._off(suspect, graph):
                # Small or zero weights on a residual branch are Fixup and SkipInit, as long as gradient arrives.
                branch = suspect.gain < 1 and suspect.layer.id in bypassed
                wrong.setdefault(key, []).append(replace(suspect, branch=branch))
        for group in wrong.values():
            yield from self._explicit(group, graph, profile, context)
        yield from self._default(default, graph, profile, context)
        for group in mirrored.values():
            yield from self._mirror(group, graph, profile, context)

    def _suspects(self, graph: ModelGraph) -> Iterator[_Suspect]:
        """Layers whose init matters to the activation that they feed, with the scale they start at."""
        paths = topology(graph)
        for layer in graph.of_kind("linear", "conv", "conv_transpose"):
            law = graph.weight_law(layer)
            if law is None or law.partial or law.distribution in DELIBERATE or layer.id in paths.side:
                continue
            if not paths.before_weights[layer.id]:
                continue  # The output head, though a rectifier may stand behind it.
            fed = feeds(graph, layer)
            if fed.normalized or fed.unknown:
                continue
            for activation in fed.activations:
                wanted = suited(activation) if activation.op in RECTIFIERS else 1.0
                if activation.op not in RECTIFIERS and not self._misfits(activation, law, graph):
                    continue
                scale = compare(law, wanted or 1.0)
                if scale is not None:
                    # Xavier stands between the two fans: what it leaves out shows in the signal.
                    gain = scale.forward if _is_plain_xavier(law) and scale.forward is not None else scale.gain
                    yield _Suspect(layer, law, activation, gain, scale.forward, scale.bound)
                    break

    def _off(self, suspect: _Suspect, graph: ModelGraph) -> bool:
        if _is_plain_xavier(suspect.law):
            off = suspect.gain < XAVIER_TOLERANCE
        else:
            off = not self.options.tolerance <= suspect.gain <= 1 / self.options.tolerance
        return off and not in_normalized_branch(graph, suspect.layer)

    def _misfits(self, activation: Node, law: InitLaw, graph: ModelGraph) -> bool:
        """Whether He was written before a hidden sigmoid or tanh."""
        paths = topology(graph)
        return (
            activation.op in HIDDEN_SATURATING
            and law.origin == "explicit"
            and (law.scheme or "").startswith("kaiming")
            and (law.gain_squared or 0.0) > 1.6
            and activation.id not in paths.gates
            and activation.id not in paths.side
            and paths.before_weights[activation.id]
        )

    def _explicit(
        self, group: Sequence[_Suspect], graph: ModelGraph, profile: Profile, context: Context
    ) -> Iterator[Finding]:
        path = self.predict(_path(graph, group), graph, profile, context)
        if path.severity is Severity.INFO and any(s.branch for s in group):
            group = [s for s in group if not s.branch]
            if not group:
                return
            path = self.predict(_path(graph, group), graph, profile, context)
        first = group[0]
        scales = sorted(s.gain for s in group)
        scale = number(scales[0]) if scales[0] * 1.1 >= scales[-1] else f"{number(scales[0])} to {number(scales[-1])}"
        ops = list(dict.fromkeys(s.activation.op for s in group))
        into = claims.listed(ops)
        many = (
            f"{len(group)} layers that feed {into}" if len(group) > 1 else f"`{first.layer.name}`, which feeds {into},"
        )
        if any(s.bound for s in group):
            scale = f"no {'more' if scales[-1] < 1 else 'less'} than {scale}"
        fact = f"{named(first.law)} starts {many} at {scale} times the scale of He init"
        yield from self._report(path, group, fact, self._remedy(group, graph), first.law.location)

    def _remedy(self, group: Sequence[_Suspect], graph: ModelGraph) -> _Remedy:
        """He init, in residual nets with the branches scaled: bare it would double the variance in every block."""
        advice = self._help(group[0])
        if not unnormalized_branches(graph, frozenset(s.layer.id for s in group)):
            return _Remedy("He init", "kaiming", advice)
        scaled = f"{advice}, and start the last layer of each residual branch at zero (Fixup) or scaled down"
        return _Remedy(SCALED_BRANCHES, "kaiming_residual", scaled)

    def _help(self, suspect: _Suspect) -> str:
        match suspect.activation.op:
            case "leaky_relu" | "prelu" | "rrelu":
                slope = suspect.activation.attributes.get("negative_slope", 0.01)
                return f'use nn.init.kaiming_normal_(weight, a={slope}, nonlinearity="leaky_relu")'
            case "gelu" | "silu":
                gain = (suited(suspect.activation) or 2.0) ** 0.5
                return f"use a normal init with std {gain:.2f}/sqrt(fan_in): `calculate_gain` has no entry for it"
            case _:
                return 'use nn.init.kaiming_normal_(weight, nonlinearity="relu")'

    def _default(
        self, suspects: Sequence[_Suspect], graph: ModelGraph, profile: Profile, context: Context
    ) -> Iterator[Finding]:
        bypassed = topology(graph).innermost
        by_layer = {s.layer.id: s for s in suspects if s.layer.id not in bypassed}
        chain = [by_layer[i] for i in longest_chain(graph, by_layer)]
        if len(chain) < self.options.default_depth:
            return
        health = self.predict([s.layer for s in chain], graph, profile, context).health
        if health.severity is None or health.explodes:
            return
        op = chain[0].activation.op
        fact = f"PyTorch's default init on {len(chain)} layers in a row that feed `{op}` shrinks the gradient"
        path = self.predict(_path(graph, chain), graph, profile, context)
        yield from self._report(path, chain, fact, self._remedy(chain, graph))

    def _mirror(
        self, group: Sequence[_Suspect], graph: ModelGraph, profile: Profile, context: Context
    ) -> Iterator[Finding]:
        op = group[0].activation.op
        many = f"{len(group)} layers" if len(group) > 1 else f"`{group[0].layer.name}`"
        fact = f"He init on {many} before `{op}`, where Xavier keeps the scale"
        advice = f'use nn.init.xavier_uniform_(weight, gain=nn.init.calculate_gain("{op}"))'
        path = self.predict(_path(graph, group), graph, profile, context)
        yield from self._report(path, group, fact, _Remedy("Xavier init", "xavier", advice), group[0].law.location)

    def _report(
        self,
        path: PredictedPath,
        group: Sequence[_Suspect],
        fact: str,
        remedy: _Remedy,
        where: Location | None = None,
    ) -> Iterator[Finding]:
        """A finding at `where`, the line of init code, or at the first layer where none is known."""
        affected = [s.layer for s in group]
        location = where or claims.place(path.graph, *affected)
        if location is None:
            return
        redrawn = [*affected, *_of_the_same_line(path.graph, group)]
        yield self.path_finding(
            path,
            location,
            fact,
            help=remedy.advice,
            related=claims.further(affected, "gets this init", beside=location),
            remedies=[Experiment("reinit", label=remedy.label, nodes=tuple(n.name for n in redrawn), law=remedy.law)],
            nodes=affected,
            gain=_gain(group, remedy, path.graph),
        )

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        verdict = super().judge(finding, seen)
        claim = finding.subject.gain if isinstance(finding.subject, PathSubject) else None
        harmful = verdict.severity is not None and verdict.severity is not Severity.INFO
        if harmful or finding.severity is not Severity.INFO or claim is None:
            return verdict
        gain = judge_gain(seen, claim)
        if gain is None:
            return verdict
        evidence = verdict.evidence.merged(gain.evidence) if verdict.evidence and gain.evidence else gain.evidence
        return Verdict(gain.outcome, gain.reason, Severity.INFO, evidence)


def _gain(group: Sequence[_Suspect], remedy: _Remedy, graph: ModelGraph) -> GainClaim | None:
    """What the init makes of the first layer's output whose scale the remedy does not take down on purpose."""
    ends = closing_layers(graph) if remedy.law == "kaiming_residual" else frozenset()
    plain = next((s for s in group if s.layer.id not in ends), None)
    if plain is None or plain.forward is None:
        return None
    return GainClaim(plain.layer.name, plain.forward, remedy.label)


def _is_plain_xavier(law: InitLaw) -> bool:
    """Whether a law is Xavier's with the gain of a linear layer, by its name or by its variance, 2/(fan_in+fan_out)."""
    named_so = (law.scheme or "").startswith("xavier")
    if law.std is not None and law.fan_in and law.fan_out:
        gain_squared = law.std**2 * (law.fan_in + law.fan_out) / 2
        if named_so:
            return gain_squared < PLAIN_GAIN_SQUARED
        return law.origin == "explicit" and math.isclose(gain_squared, 1.0, rel_tol=1e-6)
    if not named_so:
        return False
    return law.gain_squared is not None and law.gain_squared < PLAIN_GAIN_SQUARED


def _of_the_same_line(graph: ModelGraph, group: Sequence[_Suspect]) -> list[Node]:
    """The further layers, the output among them, that a line of init code draws: who mends it mends them too."""
    known = {s.layer.id for s in group}
    at = {s.law.location for s in group if s.law.location is not None and not is_default(s.law)}
    return [
        node
        for node in graph.of_kind("linear", "conv", "conv_transpose")
        if node.id not in known and (law := graph.weight_law(node)) is not None and law.location in at
    ]


def _path(graph: ModelGraph, group: Sequence[_Suspect]) -> tuple[Node, ...]:
    """The hidden layers from the first of the group to the last before the output, side nets left out."""
    paths = topology(graph)
    first = group[0].layer
    on_path = [
        node
        for node in graph.of_kind("linear", "conv", "conv_transpose", "recurrent", "attention")
        if paths.reaches(first.id, node.id) and node.id not in paths.side and paths.before_weights[node.id]
    ]
    return tuple(on_path) or (first,)
