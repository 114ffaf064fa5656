"""The base of rules that claim something of the gradient along one path of weighted layers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gradlint import claims
from gradlint.finding import Finding, Related, Severity, Verdict
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.profile import Profile
from gradlint.location import Location
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.rule import Context, Rule
from gradlint.severity import BandOptions, PathHealth, predicted_path
from gradlint.verdicts import GainClaim, PathSubject, judge_path


@dataclass(frozen=True)
class PredictedPath:
    """Weighted `layers` in order from the input, the output layer left out, and the `health` predicted of them."""

    layers: tuple[Node, ...]
    health: PathHealth
    graph: ModelGraph
    profile: Profile
    context: Context

    @property
    def severity(self) -> Severity:
        """How severe the path is as far as the prediction is sure of it."""
        return claims.claimed(self.health, self.graph, self.profile)

    @property
    def effect(self) -> str:
        """What is predicted, in words to put behind a fact."""
        return claims.predicted(self.health, self.severity, self.layers)


class PathRule(Rule):
    """A rule whose findings are settled by the measured numbers of a path, as it is and after each remedy."""

    severity = Severity.INFO
    Options = BandOptions

    def predict(self, layers: Sequence[Node], graph: ModelGraph, profile: Profile, context: Context) -> PredictedPath:
        """The path with what the profile says of it under the thresholds of this rule."""
        health = predicted_path(profile, layers, context.algorithm, self.options)
        return PredictedPath(tuple(layers), health, graph, profile, context)

    def path_finding(
        self,
        path: PredictedPath,
        location: Location,
        fact: str,
        *,
        help: str,  # noqa: A002 -- the field's term in every compiler
        related: Sequence[Related],
        remedies: Sequence[Experiment],
        nodes: Sequence[Node] = (),
        gain: GainClaim | None = None,
    ) -> Finding:
        """A finding that states a fact and its predicted effect.

        `nodes` are what the fact is about (the layers), `gain` is what it claims of one layer's output.
        """
        graph, profile, context, health = path.graph, path.profile, path.context, path.health
        about = tuple(nodes) or path.layers
        return self.finding(
            location,
            fact + path.effect,
            help=help,
            severity=path.severity,
            related=related,
            evidence=claims.evidence(graph, profile, health, path.layers),
            model=claims.model_key(graph),
            optimizer=context.algorithm,
            confidence=claims.confidence(graph, profile),
            subject=claims.subject(graph, profile, context, health, path.layers, about, path.severity, remedies, gain),
        )

    def experiments(self, finding: Finding) -> list[Experiment]:
        if not isinstance(finding.subject, PathSubject):
            return []
        return [Experiment("baseline"), *finding.subject.remedies]

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        return judge_path(finding, seen, self.options)
