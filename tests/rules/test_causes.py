"""One cause is one primary finding; the others on its path stand beside it."""

from __future__ import annotations

from dataclasses import replace

from gradlint.causes import merge
from gradlint.finding import Finding, Outcome, Related, Severity, Verdict
from gradlint.location import Location
from gradlint.verdicts import PathSubject


def finding(code, line, severity=Severity.WARNING, layers=("a", "b"), share=0.0, model="Net"):
    subject = PathSubject(layers=layers, nodes=layers, algorithm=None, claimed=severity, share=share)
    return Finding(code, code.lower(), severity, code, Location("train.py", line), model=model, subject=subject)


def test_the_rule_that_explains_most_is_primary_and_lists_the_others():
    merged = merge([finding("GL301", 5), finding("GL201", 9, share=3.0), finding("GL101", 7, share=1.0)])
    assert [(f.code, f.primary) for f in merged] == [("GL301", False), ("GL201", True), ("GL101", False)]
    assert [r.location.line for r in merged[1].related] == [7, 5]


def test_severity_goes_before_attribution_and_a_refuted_one_comes_last():
    mild = finding("GL201", 9, Severity.INFO, share=9.0)
    merged = merge([mild, finding("GL101", 7)])
    assert [f.primary for f in merged] == [False, True]
    refuted = replace(finding("GL101", 7, Severity.ERROR), verdict=Verdict(Outcome.REFUTED, "healthy"))
    assert [f.primary for f in merge([refuted, finding("GL102", 5)])] == [False, True]


def test_other_paths_and_other_models_stay_apart():
    merged = merge([finding("GL101", 1), finding("GL201", 2, layers=("c",)), finding("GL201", 3, model="Other")])
    assert [(f.primary, f.related) for f in merged] == [(True, ())] * 3


def test_a_model_seen_twice_is_one_finding_with_the_places_of_both():
    first = replace(finding("GL301", 5), related=(Related(Location("train.py", 50), "built here"),))
    second = replace(finding("GL301", 5, Severity.ERROR), related=(Related(Location("train.py", 60), "built here"),))
    (merged,) = merge([first, second])
    assert merged.severity is Severity.ERROR
    assert sorted(r.location.line for r in merged.related) == [50, 60]


def test_an_unclipped_step_stands_behind_its_misplaced_clipping():
    step = Location("train.py", 20)
    clip = Finding(
        "GL402", "clip-misplaced", Severity.ERROR, "m", Location("train.py", 21), related=(Related(step, ""),)
    )
    unclipped = Finding("GL401", "unclipped-recurrent-step", Severity.WARNING, "m", step)
    assert [f.primary for f in merge([unclipped, clip])] == [False, True]


def test_the_norm_of_a_plain_step_stands_behind_the_rate_that_makes_it():
    proven = Verdict(Outcome.CONFIRMED, "measured")
    at = Location("train.py", 20)
    step = Finding("GL404", "unclipped-step", Severity.WARNING, "m", at, tentative=True, verdict=proven)
    rate = Finding("GL502", "lr-diverges", Severity.ERROR, "m", Location("train.py", 12), verdict=proven)
    merged = merge([step, rate])
    assert [f.primary for f in merged] == [False, True]
    assert [r.location for r in merged[1].related] == [at]
    rewards = replace(step, tentative=False)
    assert [f.primary for f in merge([rewards, rate])] == [True, True]


def test_equal_weights_come_before_their_scale():
    scale = finding("GL201", 5)
    equal = Finding("GL202", "zero-or-constant-init", Severity.WARNING, "m", Location("train.py", 5), model="Net")
    assert [f.primary for f in merge([scale, equal])] == [False, True]


def test_large_logits_stand_behind_the_signal_that_grows_on_the_way_to_them():
    proven = Verdict(Outcome.CONFIRMED, "measured")
    loss = Finding("GL604", "x", Severity.WARNING, "m", Location("train.py", 9), model="Net", verdict=proven)
    sums = Finding("GL302", "x", Severity.ERROR, "m", Location("train.py", 5), model="Net", verdict=proven)
    assert [f.primary for f in merge([loss, sums])] == [False, True]
    assert [f.primary for f in merge([loss, replace(sums, model="Other")])] == [True, True]
