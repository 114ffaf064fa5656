"""Verdicts are pure functions of what was measured."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradlint.finding import Outcome, Severity
from gradlint.location import Location
from gradlint.probe.experiment import LayerMeasurement, Measurement, Measurements
from gradlint.replay import StepSubject
from gradlint.rule import Context
from gradlint.rules.finetune_lr_too_high import FinetuneLrTooHigh, RateSubject
from gradlint.rules.lr_diverges import DivergeSubject, LrDiverges
from gradlint.rules.rectifier_init import RectifierInit
from gradlint.rules.saturating_stack import SaturatingStack
from gradlint.rules.unclipped_recurrent_step import GROWN, UnclippedRecurrentStep
from gradlint.rules.unclipped_step import UnclippedStep, UnclippedSubject
from gradlint.rules.zero_or_constant_init import ZeroOrConstantInit
from tests.rules.build import Net, measured, normal_law, sloped, xavier_law

HERE = Location("train.py", 5)


def stack(decades, count=5):
    net = Net().dense(count, "sigmoid")
    net.linear(10)
    graph = net.graph()
    (finding,) = SaturatingStack().check_graph(graph, sloped(graph, decades), Context())
    return finding


def judged(finding, ratio, **whatif):
    layers = finding.subject.layers
    of = {"baseline": measured(layers, ratio)}
    of |= {key.replace("_", " "): measured(layers, value) for key, value in whatif.items()}
    return SaturatingStack().judge(finding, Measurements(of))


def test_measured_harm_confirms_at_the_measured_severity():
    finding = stack(-1.2)
    assert finding.severity is Severity.WARNING
    verdict = judged(finding, 1e-9, ReLU_with_He_init=0.8)
    assert (verdict.outcome, verdict.severity) == (Outcome.CONFIRMED, Severity.ERROR)
    assert verdict.evidence.measured_gradient_ratio == pytest.approx(1e-9)
    assert verdict.evidence.whatif == {"ReLU with He init": pytest.approx(0.8)}


def test_a_measurement_that_is_milder_lowers_the_severity():
    verdict = judged(stack(-2), 10**-4.6, LayerNorm=1.0)
    assert (verdict.outcome, verdict.severity) == (Outcome.CONFIRMED, Severity.WARNING)


def test_healthy_measurement_refutes_a_claimed_harm():
    verdict = judged(stack(-1.2), 0.5)
    assert (verdict.outcome, verdict.severity) == (Outcome.REFUTED, Severity.INFO)


def test_near_miss_stays_in_its_class():
    assert judged(stack(-1.2), 10**-3.8, LayerNorm=1.0).severity is Severity.WARNING
    assert judged(stack(-1.2), 10**-3.6, LayerNorm=1.0).severity is Severity.INFO


def test_fact_is_confirmed_by_its_effect_per_layer():
    finding = stack(-0.24)
    assert finding.severity is Severity.INFO
    assert judged(finding, 10 ** (-0.24 * 4)).outcome is Outcome.CONFIRMED
    assert judged(finding, 1.0).outcome is Outcome.REFUTED


def test_no_remedy_helps_is_not_a_confirmation():
    verdict = judged(stack(-2), 1e-8, ReLU_with_He_init=1e-8, LayerNorm=1e-8)
    assert verdict.outcome is Outcome.UNVERIFIED


def test_unmeasured_is_unverified_with_the_reason():
    finding = stack(-2)
    assert SaturatingStack().judge(finding, Measurements()).outcome is Outcome.UNVERIFIED
    failed = Measurements({"baseline": Measurement("baseline", error="out of memory")})
    assert SaturatingStack().judge(finding, failed).reason == "out of memory"


def test_nonfinite_forward_is_an_error():
    finding = stack(-1.2)
    baseline = replace(measured(finding.subject.layers, 0.5), first_nonfinite="fc3")
    verdict = SaturatingStack().judge(finding, Measurements({"baseline": baseline}))
    assert verdict.severity is Severity.ERROR
    assert "fc3" in verdict.reason


def test_thresholds_are_options():
    from gradlint.severity import Band

    options = SaturatingStack.Options(ratio_adaptive=Band((1e-9, 1e9), (1e-12, 1e12), (1e-15, 1e15)))
    net = Net().dense(5, "sigmoid")
    net.linear(10)
    graph = net.graph()
    (finding,) = SaturatingStack(options).check_graph(graph, sloped(graph, -2.0), Context())
    assert finding.severity is Severity.INFO


def test_stated_gain_of_an_init_is_measured():
    net = Net().dense(2, "relu", law=xavier_law(64, 64))
    net.linear(10)
    graph = net.graph()
    rule = RectifierInit()
    (finding,) = rule.check_graph(graph, sloped(graph, -0.1), Context())
    layer = finding.subject.gain.layer

    def outcome(before, after):
        base = measured(finding.subject.layers, 0.8)
        he = measured(finding.subject.layers, 0.9)
        base.layers[layer] = LayerMeasurement(layer, activation_std=before, weight_gradient=0.1)
        he.layers[layer] = LayerMeasurement(layer, activation_std=after, weight_gradient=0.1)
        return rule.judge(finding, Measurements({"baseline": base, "He init": he})).outcome

    assert outcome(0.71, 1.0) is Outcome.CONFIRMED
    assert outcome(1.0, 1.0) is Outcome.REFUTED


def recurrent_finding():
    rule = UnclippedRecurrentStep()
    return rule, rule.finding(HERE, "m", subject=StepSubject("SGD", 0.1, 0.0, steps=50))


def test_small_gradient_at_init_never_refutes_an_unclipped_recurrence():
    rule, finding = recurrent_finding()
    quiet = Measurement("step", gradient_norms=(0.1,) * 10, losses=(1.0,) * 11)
    fading = tuple(0.6 ** (50 - t) for t in range(50))
    of = {
        "step": quiet,
        "unroll": Measurement("unroll", hidden_state_gradients=fading),
        GROWN: Measurement("unroll", hidden_state_gradients=fading),
    }
    verdict = rule.judge(finding, Measurements(of))
    assert verdict.outcome is Outcome.UNVERIFIED
    assert "bounded at init" in verdict.reason
    assert "GL111" in verdict.reason


def test_spike_or_grown_explosion_confirms_an_unclipped_recurrence():
    rule, finding = recurrent_finding()
    spiky = Measurement("step", gradient_norms=(0.1, 0.1, 5.0, 0.1))
    assert rule.judge(finding, Measurements({"step": spiky})).outcome is Outcome.CONFIRMED
    grown = Measurement("unroll", hidden_state_gradients=tuple(1.4 ** (50 - t) for t in range(50)))
    assert rule.judge(finding, Measurements({GROWN: grown})).outcome is Outcome.CONFIRMED


def test_fine_tuning_rate_needs_the_real_weights():
    rule = FinetuneLrTooHigh()
    finding = rule.finding(HERE, "m", subject=RateSubject(StepSubject("AdamW", 5e-4), 5e-4, 2e-5))

    def verdict(script, usual, notes=()):
        of = {
            "lr 5e-4": Measurement("step", losses=script, notes=notes),
            "lr 2e-5": Measurement("step", losses=usual, notes=notes),
        }
        return rule.judge(finding, Measurements(of)).outcome

    assert verdict((0.7, 2.0), (0.7, 0.5)) is Outcome.CONFIRMED
    assert verdict((0.7, 0.7), (0.7, 0.5)) is Outcome.CONFIRMED
    assert verdict((0.7, 0.2), (0.7, 0.5)) is Outcome.REFUTED
    assert verdict((0.7, 2.0), (0.7, 0.5), notes=("the weights are not at hand",)) is Outcome.UNVERIFIED


def test_diverging_rate_is_told_from_a_diverging_net():
    rule = LrDiverges()
    finding = rule.finding(HERE, "m", subject=DivergeSubject(StepSubject("SGD", 1.0), 1.0, 0.1))

    def verdict(script, lower):
        of = {"lr 1": Measurement("step", losses=script), "lr 0.1": Measurement("step", losses=lower)}
        return rule.judge(finding, Measurements(of))

    assert verdict((2.3, 9.0), (2.3, 2.0)).outcome is Outcome.CONFIRMED
    assert verdict((2.3, float("nan")), (2.3, 2.0)).severity is Severity.ERROR
    assert verdict((2.3, 9.0), (2.3, 8.0)).outcome is Outcome.UNVERIFIED
    assert verdict((2.3, 2.0), (2.3, 2.2)).outcome is Outcome.REFUTED


def test_rewards_are_not_refuted_by_a_synthetic_batch():
    rule = UnclippedStep()
    finding = rule.finding(HERE, "m", subject=UnclippedSubject(StepSubject("Adam", 0.01), reinforcement=True))
    quiet = Measurement("step", gradient_norms=(1.0, 1.1, 0.9))
    assert rule.judge(finding, Measurements({"step": quiet})).outcome is Outcome.UNVERIFIED
    real = replace(quiet, batch="real")
    assert rule.judge(finding, Measurements({"step": real})).outcome is Outcome.REFUTED
    loud = replace(real, gradient_norms=(1.0, 2000.0))
    verdict = rule.judge(finding, Measurements({"step": loud}))
    assert (verdict.outcome, verdict.severity) == (Outcome.CONFIRMED, Severity.WARNING)


def test_plain_steps_are_confirmed_by_the_norm_of_the_averaged_loss_alone():
    rule = UnclippedStep()
    plain = rule.finding(HERE, "m", subject=UnclippedSubject(StepSubject("SGD", 0.1)))
    adversarial = rule.finding(HERE, "m", subject=UnclippedSubject(StepSubject("SGD", 0.1), adversarial=True))
    at_init = Measurement("baseline", gradient_norms=(1.0, 1.2))
    spiky = Measurement("step", losses=(2.3, 2.0), gradient_norms=(1.0, 1.0, 50.0))
    assert rule.judge(plain, Measurements({"step": spiky, "baseline": at_init})).outcome is Outcome.REFUTED
    assert rule.judge(adversarial, Measurements({"step": spiky, "baseline": at_init})).outcome is Outcome.CONFIRMED
    large = replace(at_init, gradient_norms=(2000.0, 1500.0))
    assert rule.judge(plain, Measurements({"baseline": large})).outcome is Outcome.CONFIRMED
    diverging = replace(spiky, losses=(2.3, 900.0), gradient_norms=(2000.0, 9000.0))
    assert rule.judge(adversarial, Measurements({"step": diverging, "baseline": at_init})).outcome is Outcome.REFUTED


def test_a_remedy_that_ruins_another_number_is_not_shown():
    finding = stack(-1.2)
    verdict = judged(finding, 1e-9, ReLU_with_He_init=1e9, LayerNorm=0.5)
    assert verdict.evidence.whatif == {"LayerNorm": pytest.approx(0.5)}
    assert judged(finding, 1e-9, ReLU_with_He_init=1e9).outcome is Outcome.UNVERIFIED


def test_a_zero_layer_is_confirmed_by_gradients_of_zero_before_it_or_else_of_its_own():
    def judge(before, own):
        subject = (("fc",), ("first",) if before is not None else ())
        finding = replace(stack(-1.2), subject=subject)
        norms = {"first": before, "fc": own}
        layers = {name: LayerMeasurement(name, weight_gradient=g) for name, g in norms.items() if g is not None}
        seen = Measurements({"baseline": Measurement("baseline", layers=layers)})
        return ZeroOrConstantInit().judge(finding, seen).outcome

    assert judge(0.0, 0.5) is Outcome.CONFIRMED
    assert judge(0.1, 0.0) is Outcome.REFUTED
    assert judge(None, 0.0) is Outcome.CONFIRMED
    assert judge(None, 0.5) is Outcome.UNVERIFIED


def test_the_remedy_of_an_init_draws_every_layer_of_its_line_anew():
    net = Net().dense(2, "relu", law=normal_law(1.0, 64, 64, line=7))
    net.linear(10, normal_law(1.0, 64, 10, line=7))
    graph = net.graph()
    (finding,) = RectifierInit().check_graph(graph, sloped(graph, 1.0), Context())
    (remedy,) = finding.subject.remedies
    assert remedy.nodes == tuple(n.name for n in graph.of_kind("linear"))


def test_a_weight_gradient_out_of_band_is_told_with_what_the_remedy_makes_of_it():
    net = Net().dense(1, "relu", law=normal_law(600.0, 64, 64))
    net.linear(10)
    graph = net.graph()
    (finding,) = RectifierInit().check_graph(graph, sloped(graph, 0.0), Context())
    (name,) = finding.subject.layers
    of = {
        key: Measurement("baseline", layers={name: LayerMeasurement(name, gradient=1.0, weight_gradient=norm)})
        for key, norm in {"baseline": 2.6e10, "He init": 1.5}.items()
    }
    verdict = RectifierInit().judge(finding, Measurements(of))
    assert verdict.outcome is Outcome.CONFIRMED
    assert verdict.reason == f"the weight gradient of layer `{name}` has norm 2.6e10 (measured), 1.5 with He init"
