"""What a rule may conclude from measured numbers."""

import math

import pytest

from gradlint.finding import Severity
from gradlint.probe import judging
from gradlint.probe.experiment import OVERFLOW, LayerMeasurement, Measurement


def measured(per_seed=None, layers=(), **rest):
    return Measurement("baseline", per_seed=per_seed or {}, layers={x.name: x for x in layers}, **rest)


def test_ratio_is_taken_per_seed_before_the_median():
    ratio = judging.gradient_ratio(measured({"a": (1.0, 20.0, 9.0), "b": (1.0, 2.0, 3.0)}), "a", "b")
    assert ratio is not None
    assert ratio.median == 3.0 and ratio.spread == 10.0


def test_ratio_of_an_unmeasured_layer_is_unknown():
    assert judging.gradient_ratio(measured({"a": (1.0,)}), "a", "b") is None
    assert judging.gradient_ratio(measured({"a": (0.0,), "b": (0.0,)}), "a", "b") is None
    assert judging.gradient_ratio(measured(error="out of memory"), "a", "b") is None


def test_vanished_gradient_is_an_error_and_an_overflow_too():
    for value in (0.0, math.inf, math.nan, OVERFLOW):
        assert judging.classify(value, judging.RATIO_SGD) is Severity.ERROR


@pytest.mark.parametrize(
    ("value", "sgd", "adam"),
    [(1.0, None, None), (5e-3, Severity.INFO, None), (1e-3, Severity.WARNING, Severity.INFO),
     (1e-5, Severity.ERROR, Severity.WARNING), (1e-6, Severity.ERROR, Severity.ERROR)],
)  # fmt: skip
def test_ratio_bands_depend_on_the_optimizer(value, sgd, adam):
    assert judging.classify(value, judging.ratio_bands("SGD")) is sgd
    assert judging.classify(value, judging.ratio_bands("AdamW")) is adam
    assert judging.classify(value, judging.ratio_bands(None)) is adam


def test_hysteresis_keeps_the_predicted_class_near_its_threshold():
    just_inside, just_outside = 1.5e-3, 0.8e-3
    assert judging.classify(just_inside, judging.RATIO_SGD) is Severity.INFO
    assert judging.classify(just_inside, judging.RATIO_SGD, claimed=Severity.WARNING) is Severity.WARNING
    assert judging.classify(just_outside, judging.RATIO_SGD, claimed=Severity.INFO) is Severity.INFO
    assert judging.classify(1e-1, judging.RATIO_SGD, claimed=Severity.ERROR) is None


def test_uncertainty_compares_the_edge_nearest_to_healthy():
    assert judging.classify(1e-6, judging.RATIO_SGD, uncertainty=2.0) is Severity.WARNING
    assert judging.classify(1e-6, judging.RATIO_SGD, uncertainty=9.0) is None


def test_health_names_the_layer_that_starves():
    seen = measured(
        {"a": (1e-7,), "b": (1.0,)},
        [
            LayerMeasurement("a", activation_std=0.1, weight_gradient=1e-8),
            LayerMeasurement("b", activation_std=0.1, weight_gradient=0.1),
        ],
    )
    verdict = judging.health(seen, ["a", "b"], "SGD")
    assert verdict.severity is Severity.ERROR
    assert verdict.smallest == ("a", 1e-8)
    assert any("`a`" in reason for reason in verdict.reasons)


def test_explosion_of_a_weight_before_a_norm_is_not_judged():
    seen = measured({"a": (1.0,), "b": (1.0,)}, [LayerMeasurement("a", weight_gradient=1e6)])
    assert judging.health(seen, ["a", "b"]).severity is Severity.ERROR
    assert judging.health(seen, ["a", "b"], scale_free={"a"}).severity is None


def test_nothing_measured_is_not_health():
    assert not judging.health(None, ["a"]).measured
    assert not judging.health(measured(), ["a", "b"]).measured


def curve(*losses):
    return Measurement("step", losses=losses)


def test_learning_rates_separate():
    assert judging.lr_separates(curve(1.0, 9.0), curve(1.0, 0.5)).how == "diverges"
    assert judging.lr_separates(curve(1.0, math.nan), curve(1.0, 0.5)).how == "diverges"
    assert judging.lr_separates(curve(-1.0, OVERFLOW), curve(-1.0, -2.0)).how == "diverges"
    assert judging.lr_separates(curve(1.0, 1.0), curve(1.0, 0.5)).how == "collapses"
    assert not judging.lr_separates(curve(1.0, 0.4), curve(1.0, 0.5))
    assert not judging.lr_separates(curve(1.0, 9.0), curve(1.0, 9.0))
    assert judging.lr_separates(curve(1.0, 9.0), None) is None


def test_momentum_diverges_when_plain_sgd_at_its_long_run_rate_does():
    assert judging.diverges(Measurement("step", losses=(1.0, 1.2), plain_losses=(1.0, 3.0)))
    assert not judging.diverges(Measurement("step", losses=(1.0, 0.9), plain_losses=(1.0, 1.2)))


def test_spikes_need_a_tenfold_norm():
    assert judging.spikes([1.0, 1.1, 0.9, 12.0])
    assert not judging.spikes([1.0, 1.1, 0.9, 2.0])
    assert judging.spikes([1e4])
    assert judging.spikes([1.0, math.nan])
    assert judging.spikes([]) is None


def test_growth_per_step_reads_backwards_in_time():
    assert judging.growth_per_step([1e-4, 1e-3, 1e-2, 1e-1]) == pytest.approx(-1.0)
    assert judging.growth_per_step([0.0, 0.0, 1e-2, 1e-1]) == pytest.approx(-1.0)
    assert judging.growth_per_step([1.0]) is None


@pytest.mark.parametrize(
    ("losses", "word"),
    [
        ([2.0, 1.8, 1.5, 1.2, 1.0], "healthy"),
        ([2.3, 2.3, 2.31, 2.3, 2.3], "flat"),
        ([2.0, 1.0, math.nan], "nan"),
        ([2.0, 5.0, 20.0, 90.0, 400.0], "diverging"),
        ([2.0, 1.9, 80.0, 1.9, 1.8, 1.7], "jumping"),
        ([2.0, 1.0, 2.0, 1.0, 2.0, 1.0, 2.0], "oscillating"),
        ([2.0], "too short"),
    ],
)
def test_loss_curves_have_names(losses, word):
    assert judging.classify_losses(losses) == word
