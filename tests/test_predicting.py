"""Predictions are shared by scripts that make the same net, and by no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gradlint import predicting
from gradlint.graph.model import Loss, ModelGraph
from gradlint.graph.signal import profile
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models

TEXT = "from torch import nn\nnet = nn.Sequential({})\n"


def graph(*layers: str) -> ModelGraph:
    file = SourceFile("/nowhere/train.py", TEXT.format(", ".join(layers)), module="train")
    (found,) = read_models(file, Project(Path("/nowhere")), strict=True)
    return found


def deep(activation: str, width: int = 8) -> ModelGraph:
    return graph(*[f"nn.Linear({width}, {width}), nn.{activation}()"] * 4)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[ModelGraph]:
    made: list[ModelGraph] = []

    def counted(one: ModelGraph, *, batch_size: int) -> object:
        made.append(one)
        return profile(one, batch_size=batch_size)

    monkeypatch.setattr(predicting, "profile", counted)
    return made


def test_the_same_net_of_another_script_is_predicted_once(asked: list[ModelGraph]) -> None:
    known, net = predicting.Predictions(), deep("Sigmoid")
    first = known.of(net, 32)
    assert known.of(replace(net, name="other", location=None, class_name="Other"), 32) == first == profile(net)
    assert len(asked) == 1


def test_whatever_a_prediction_reads_tells_nets_apart(asked: list[ModelGraph]) -> None:
    known, net = predicting.Predictions(), deep("Sigmoid")
    others = [
        deep("Tanh"),
        deep("Sigmoid", 16),
        replace(net, parameters=net.parameters[:-1]),
        replace(net, confidence="medium"),
        replace(net, batch_size=4),
        replace(net, loss=Loss("mse")),
    ]
    for one in (net, *others):
        assert known.of(one, 32) == profile(one, batch_size=32)
    assert known.of(net, 64) == profile(net, batch_size=64)
    assert len(asked) == len(others) + 2


def test_the_last_used_are_kept(asked: list[ModelGraph], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(predicting, "KEPT", 2)
    known = predicting.Predictions()
    one, two, three = (deep("Tanh", width) for width in (4, 5, 6))
    for net in (one, two, one, three, one, two):
        known.of(net, 32)
    assert asked == [one, two, three, two]
