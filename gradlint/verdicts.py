"""From measurements to a verdict for claims about the gradient along a path (GL1 to GL3)."""

from __future__ import annotations

from dataclasses import dataclass

from gradlint.finding import Evidence, Finding, Outcome, Severity, Verdict
from gradlint.notation import from_log10, number
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.probe.judging import REMEDY_DECADES
from gradlint.severity import BandOptions, PathHealth, measured_path, power

NOTICEABLE = 0.02
"""log10 of a factor per layer (5 %) below which a fact has no effect to speak of."""


@dataclass(frozen=True)
class GainClaim:
    """That `layer`'s output has `stated` times the scale (std) that it has after the experiment labelled `remedy`."""

    layer: str
    stated: float
    remedy: str


@dataclass(frozen=True)
class PathSubject:
    """What a path finding claims: the weighted `layers` (names, in order) and the predicted severity of the path.

    `nodes` are those a remedy changes. `effect` is the predicted log10 factor on the gradient per layer, where
    the message states one. `remedies` are the experiments that may cure it;
    `share` is how many decades of the predicted change the `nodes` account for. `gain` is what is claimed of one
    layer's output, by a rule that states its scale.
    """

    layers: tuple[str, ...]
    nodes: tuple[str, ...]
    algorithm: str | None
    claimed: Severity
    predicted: float | None = None
    effect: float | None = None
    scale_free: tuple[str, ...] = ()
    zero_gated: tuple[str, ...] = ()
    remedies: tuple[Experiment, ...] = ()
    share: float = 0.0
    gain: GainClaim | None = None


def judge_path(finding: Finding, seen: Measurements, options: BandOptions) -> Verdict:
    """The verdict on a claim about the gradient of a path.

    Confirmed when the harm is measured (at the severity that was measured) or, for an info, when the stated
    effect per layer is. Refuted when ratio, absolute gradient and forward signal all stay inside the info row.
    A warning whose measurement lies in the info row only is confirmed as info. Unverified without a measurement.
    """
    subject = finding.subject
    if not isinstance(subject, PathSubject):
        return unmeasured(seen, "the path is not known")
    now = _measured(seen, "baseline", subject, options)
    if not now.known:
        return unmeasured(seen, "the layers of the path were not seen")
    evidence = _evidence(seen, subject, options, now)
    if now.severity is None:
        return _healthy(subject, now, evidence)
    reason = _reason(now)
    if now.severity is Severity.INFO:
        return Verdict(Outcome.CONFIRMED, f"{reason}: measurable, but training copes", Severity.INFO, evidence)
    helped = _best_remedy(seen, subject, options, now)
    if helped is False:
        return Verdict(
            Outcome.UNVERIFIED, f"{reason}, but no remedy of this rule improves it by a decade", Severity.INFO, evidence
        )
    return Verdict(Outcome.CONFIRMED, reason + _cured(seen, subject, options, now), now.severity, evidence)


def unmeasured(seen: Measurements, otherwise: str) -> Verdict:
    """Unverified, with the error of the baseline measurement if there was one."""
    baseline = seen.of.get("baseline")
    if baseline is None:
        return Verdict(Outcome.UNVERIFIED, "nothing was measured")
    return Verdict(Outcome.UNVERIFIED, baseline.error or otherwise)


def _measured(seen: Measurements, key: str, subject: PathSubject, options: BandOptions) -> PathHealth:
    return measured_path(
        seen.get(key),
        subject.layers,
        subject.algorithm,
        options,
        claimed=subject.claimed,
        scale_free=subject.scale_free,
        zero_gated=subject.zero_gated,
    )


def _healthy(subject: PathSubject, now: PathHealth, evidence: Evidence) -> Verdict:
    steps = len(subject.layers) - 1
    if subject.claimed is Severity.INFO and subject.effect is not None and now.ratio is not None and steps > 0:
        effect = now.ratio / steps
        if effect * subject.effect > 0 and abs(effect) >= max(NOTICEABLE, abs(subject.effect) / 2):
            return Verdict(
                Outcome.CONFIRMED,
                f"each layer was measured to multiply the gradient by {from_log10(effect)}",
                Severity.INFO,
                evidence,
            )
    if now.ratio is None:
        return Verdict(Outcome.UNVERIFIED, "no gradient was seen at the ends of the path", None, evidence)
    return Verdict(
        Outcome.REFUTED, f"gradient ratio {from_log10(now.ratio)} measured, healthy", Severity.INFO, evidence
    )


def _reason(now: PathHealth) -> str:
    if now.overflow is not None:
        return f"`{now.overflow}` was measured not finite"
    if now.ratio_severity is not None and now.ratio_severity is now.severity:
        seeds = f" over {now.seeds} seeds" if now.seeds and now.seeds > 1 else ""
        return f"gradient ratio {from_log10(now.ratio)} measured{seeds}"
    return f"{now.reasons[0]} (measured)" if now.reasons else "measured outside the healthy band"


def _cured(seen: Measurements, subject: PathSubject, options: BandOptions, now: PathHealth) -> str:
    """What a remedy makes of the number that condemns a path, where that is not the gradient ratio."""
    if now.overflow is not None or now.culprit is None or now.ratio_severity is now.severity:
        return ""
    for remedy in subject.remedies:
        layer = seen.of[remedy.key].layers.get(now.culprit) if remedy.key in seen.of else None
        value = getattr(layer, now.quantity, None)
        if value is not None and _improves(now, _measured(seen, remedy.key, subject, options)):
            return f", {number(value)} with {remedy.key}"
    return ""


def _best_remedy(seen: Measurements, subject: PathSubject, options: BandOptions, now: PathHealth) -> bool | None:
    """Whether some remedy that was measured improves the path by a decade; None if none was measured."""
    answers = []
    for remedy in subject.remedies:
        after = _measured(seen, remedy.key, subject, options)
        if after.known:
            answers.append(_improves(now, after))
    return any(answers) if answers else None


def _improves(now: PathHealth, after: PathHealth) -> bool:
    """Whether the worst of the three numbers comes a decade nearer to health, or into it.

    A remedy that cures one number and ruins another (He init in a net with bare skips) is none.
    """
    return after.outside == 0 or now.outside - after.outside >= REMEDY_DECADES


def _evidence(seen: Measurements, subject: PathSubject, options: BandOptions, now: PathHealth) -> Evidence:
    """What was measured; a what-if that does not improve an unhealthy path is not shown as one."""
    whatif = {}
    for remedy in subject.remedies:
        after = _measured(seen, remedy.key, subject, options)
        if after.known and (now.severity is None or _improves(now, after)):
            whatif[remedy.key] = power(after.ratio)
    baseline = seen.baseline
    saturated = [
        layer.saturated
        for layer in (baseline.layers.values() if baseline else ())
        if layer.name in subject.nodes and layer.saturated is not None
    ]
    numbers: dict[str, float | str | None] = {}
    if saturated:
        numbers["saturated"] = max(saturated)
    if now.smallest is not None:
        numbers["measured_weight_gradient"] = power(now.smallest[1])
    return Evidence(
        measured_gradient_ratio=power(now.ratio), whatif=whatif, spread=now.spread, seeds=now.seeds, numbers=numbers
    )


def judge_gain(seen: Measurements, claim: GainClaim) -> Verdict | None:
    """The verdict on "this init gives the layer's output `stated` times the scale it should have".

    Compares the std of the layer's output as it is with that after the remedy. None if not measured.
    """
    before, after = seen.baseline, seen.get(claim.remedy)
    if before is None or after is None or claim.layer not in before.layers or claim.layer not in after.layers:
        return None
    one, other = before.layers[claim.layer].activation_std, after.layers[claim.layer].activation_std
    if not one or not other:
        return None
    gain = one / other
    holds = abs(gain - 1) >= abs(claim.stated - 1) / 2 and (gain - 1) * (claim.stated - 1) > 0
    return Verdict(
        Outcome.CONFIRMED if holds else Outcome.REFUTED,
        f"`{claim.layer}` measured at {number(gain)} times the scale that {claim.remedy} gives",
        Severity.INFO,
        Evidence(numbers={"measured_gain": gain}),
    )
