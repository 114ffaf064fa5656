"""Options are really read: each one of each rule, set in a configuration file, changes what the rule says somewhere."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest

from gradlint.config import ConfigError, load, selected
from gradlint.finding import Finding
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.graph.signal import profile
from gradlint.hints import optimizers_of, with_loss
from gradlint.probe.experiment import Experiment
from gradlint.rule import MOST, Context, Rule, registry
from gradlint.severity import Band
from gradlint.source.project import Project
from gradlint.source.read import read_script
from gradlint.source.reader import read_models
from gradlint.source.script import Script

OPTIONS = [
    pytest.param(rule, field, id=f"{rule.name}-{field.encode_name}")
    for rule in registry().values()
    for field in msgspec.structs.fields(rule.Options)
]
LOOP = """
criterion = nn.CrossEntropyLoss()
for x, y in loader:
    optimizer.zero_grad()
    criterion(net(x), y).backward()
    optimizer.step()
"""
HEALTHY = """
import torch
from torch import nn

net = nn.Sequential(*[m for _ in range(24) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 10))
for m in net:
    if isinstance(m, nn.Linear):
        nn.init.kaiming_normal_(m.weight, nonlinearity="relu")
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
"""
MILD = """
import torch
from torch import nn

net = nn.Sequential(*[m for _ in range(10) for m in (nn.Linear(64, 64), nn.ReLU())], nn.Linear(64, 10))
for m in net:
    if isinstance(m, nn.Linear):
        nn.init.normal_(m.weight, std=0.095)
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
"""
RESIDUAL = """
import torch
from torch import nn

class Block(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = nn.Linear(64, 64), nn.Linear(64, 64)
        nn.init.kaiming_normal_(self.one.weight)
        nn.init.kaiming_normal_(self.two.weight)

    def forward(self, x):
        return x + self.two(torch.relu(self.one(x)))

net = nn.Sequential(*[Block() for _ in range(10)], nn.Linear(64, 10))
optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
"""
AGENT = """
import torch
from torch import nn

net = nn.LSTM(8, 8)
optimizer = torch.optim.Adam(net.parameters())
for _ in range(100):
    state, rewards, log_probs = env.reset(), [], []
    for _ in range(50):
        out, _ = net(state)
        dist = torch.distributions.Categorical(logits=out)
        action = dist.sample()
        log_probs.append(dist.log_prob(action))
        state, reward, done, _ = env.step(action.item())
        rewards.append(reward)
    loss = -(torch.stack(log_probs) * torch.tensor(rewards)).sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""
ADVERSARIES = """
import torch
from torch import nn

generator, discriminator = nn.Linear(8, 8), nn.Linear(8, 1)
optimizer_G = torch.optim.SGD(generator.parameters(), lr=1e-3)
optimizer_D = torch.optim.SGD(discriminator.parameters(), lr=1e-3)
criterion = nn.BCEWithLogitsLoss()
for real in loader:
    fake = generator(torch.randn(32, 8))
    optimizer_D.zero_grad()
    loss_D = criterion(discriminator(real), one) + criterion(discriminator(fake.detach()), zero)
    loss_D.backward()
    optimizer_D.step()
    optimizer_G.zero_grad()
    loss_G = criterion(discriminator(fake), one)
    loss_G.backward()
    optimizer_G.step()
"""
TUNED = """
import torch
from torch import nn
from torchvision.models import resnet18
from transformers import AutoModelForSequenceClassification, T5ForConditionalGeneration, Adafactor

net = {model}
optimizer = {optimizer}
"""
FURTHER = (
    HEALTHY + LOOP,
    MILD + LOOP,
    RESIDUAL + LOOP,
    AGENT,
    ADVERSARIES,
    TUNED.format(
        model='AutoModelForSequenceClassification.from_pretrained("bert-base-uncased")',
        optimizer="torch.optim.AdamW(net.parameters(), lr=3e-5)",
    )
    + LOOP,
    TUNED.format(
        model="resnet18(pretrained=True)", optimizer="torch.optim.SGD(net.parameters(), lr=1e-3, momentum=0.9)"
    )
    + LOOP,
    TUNED.format(
        model='T5ForConditionalGeneration.from_pretrained("t5-base")',
        optimizer="Adafactor(net.parameters(), lr=1e-3, relative_step=False)",
    )
    + LOOP,
)
"""Scripts between good and bad, and of kinds that the rules' own examples lack."""

SWAPPED = ("torch.optim.SGD(", "torch.optim.Adam(")


RANGES = {
    (1, None, None): "1 or more",
    (0, None, MOST): "0 or more",
    (None, 0, MOST): "above 0",
    (None, 1, MOST): "above 1",
    (None, 0, 1): "above 0, at most 1",
}
"""How documentation words the range of a number, by its lowest value, what it lies above, and its highest value."""

NUMBERS = [
    pytest.param(*option.values, id=option.id)
    for option in OPTIONS
    if type(option.values[1].default) in (int, float)  # type: ignore[attr-defined]
]


def meta(field: Any) -> msgspec.Meta:
    """What the type of an option says of its range."""
    (found,) = (m for m in get_args(field.type) if isinstance(m, msgspec.Meta))
    return found


def bounds(field: Any) -> tuple[float, float]:
    """Between which numbers an option lies."""
    told = meta(field)
    low = told.ge if told.gt is None else told.gt
    assert low is not None
    return float(low), math.inf if told.le is None else float(told.le)


def values(rule: type[Rule], field: Any) -> list[str]:
    """Extreme values of the option within its range, as TOML."""
    match getattr(rule.Options(), field.name):
        case bool(default):
            return [str(not default).lower()]
        case int():
            return ["1", "1000000"]
        case float():
            low, high = bounds(field)
            return [f"{max(low, 0.0) + 1e-9}", f"{min(high, 1e9)}"]
        case Band():
            return [f"{{ info = {x}, warning = {x}, error = {x} }}" for x in ("[1.0, 1.0]", "[1e9, 1e9]", "[0.0, inf]")]
        case dict():
            lowest = "{ low = 1e-13, high = 1e-12, warning = 1e-11, error = 1e-10 }"
            return [f"{{ bert = {lowest}, t5 = {lowest}, cnn = {lowest} }}"]
    raise AssertionError(f"no values are known for {field.name}")


Example = tuple[Script, list[tuple[ModelGraph, Profile, Context]]]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> list[Example]:
    """Scripts of all rules, good and bad, under plain and adaptive optimizers, with their models."""
    folder = tmp_path_factory.mktemp("examples")
    texts = dict.fromkeys(
        text.replace(*swap)
        for text in (*(t for rule in registry().values() for t in (rule.BAD, rule.GOOD)), *FURTHER)
        for swap in (SWAPPED, SWAPPED[::-1])
    )
    project = Project(folder)
    found = []
    for i, text in enumerate(texts):
        path = folder / f"example_{i}.py"
        path.write_text(text)
        source = project.file(path)
        if source is None:
            continue
        script = read_script(source, project)
        models = [
            (graph, profile(graph), Context(script, optimizers_of(script, graph)))
            for graph in (with_loss(g, script) for g in read_models(source, project))
        ]
        found.append((script, models))
    return found


def said(rule: Rule, script: Script, models: Any) -> list[tuple[Finding, list[Experiment], object]]:
    """The rule's findings with what it would measure and mend."""
    findings = list(rule.check_script(script))
    findings += [f for graph, predicted, context in models for f in rule.check_graph(graph, predicted, context)]
    return [(replace(f, subject=None), rule.experiments(f), rule.fix(f, script)) for f in findings]


@pytest.mark.parametrize(("rule", "field"), OPTIONS)
def test_the_option_changes_what_the_rule_says(
    rule: type[Rule], field: Any, tmp_path: Path, examples: list[Example]
) -> None:
    for value in values(rule, field):
        path = tmp_path / "pyproject.toml"
        path.write_text(f"[tool.gradlint.rules.{rule.name}]\n{field.encode_name} = {value}\n")
        changed = next(r for r in selected(load(path)) if r.code == rule.code)
        if any(said(changed, *example) != said(rule(), *example) for example in examples):
            return
    pytest.fail(f"no value of `{field.encode_name}` changes anything")


@pytest.mark.parametrize("rule", registry().values(), ids=lambda r: r.name)
def test_every_option_is_documented(rule: type[Rule]) -> None:
    told = rule.documentation().partition("## Options")[2].partition("\n## ")[0]
    missing = [f.encode_name for f in msgspec.structs.fields(rule.Options) if f"`{f.encode_name}`" not in told]
    assert not missing


@pytest.mark.parametrize(("rule", "field"), NUMBERS)
def test_the_range_of_a_number_is_documented_with_its_default(rule: type[Rule], field: Any) -> None:
    told = meta(field)
    line = next(x for x in rule.documentation().splitlines() if x.startswith(f"- `{field.encode_name}` ("))
    default, _, rest = line.partition("(")[2].partition("; ")
    assert float(default) == field.default
    assert rest.partition("): ")[0] == RANGES[told.ge, told.gt, told.le]


@pytest.mark.parametrize(("rule", "field"), NUMBERS)
def test_a_number_out_of_range_is_refused(rule: type[Rule], field: Any, tmp_path: Path) -> None:
    low, high = bounds(field)
    wrong = [int(low - 1)] if isinstance(field.default, int) else [low - 1, math.inf, math.nan]
    path = tmp_path / "pyproject.toml"
    for value in [*wrong, *([high + 1] if high < MOST else [])]:
        path.write_text(f"[tool.gradlint.rules.{rule.name}]\n{field.encode_name} = {value}\n")
        with pytest.raises(ConfigError, match=rf"tool\.gradlint\.rules\.{rule.name}\.{field.encode_name}: expected "):
            load(path)
