"""GL601 looks at the output that the loss reads, and says nothing where it is not known which that is."""

from __future__ import annotations

from textwrap import indent

import pytest
from scripts import found, lines

from gradlint.finding import Severity
from gradlint.hints import with_loss
from gradlint.rule import Context
from gradlint.rules.double_softmax import DoubleSoftmax
from gradlint.source.project import Project
from gradlint.source.read import read_script
from gradlint.source.reader import read_models

MODEL = """
import torch.nn.functional as F
from dataclasses import dataclass
from typing import NamedTuple

class Output(NamedTuple):
    logits: torch.Tensor
    probs: torch.Tensor

@dataclass
class Record:
    logits: torch.Tensor
    probs: torch.Tensor

class Net(nn.Module):
    def __init__(self, dim=1):
        super().__init__()
        self.body = nn.Linear(16, 10)
        self.act = nn.Softmax(dim=dim)
        self.head = nn.Sequential(nn.Linear(16, 10), nn.Softmax(dim=1))

    def forward(self, x{parameters}):
        logits = self.body(x)
        probs = self.act(logits)
{returned}
"""
LOOP = """
model = Net()
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.CrossEntropyLoss()
for x, y in loader:
    optimizer.zero_grad()
{step}
    loss.backward()
    optimizer.step()
"""


def script(returned: str, step: str, parameters: str = "") -> str:
    text = MODEL.replace("{parameters}", parameters).replace("{returned}", indent(returned, " " * 8))
    return text + LOOP.replace("{step}", indent(step, " " * 4))


RIGHT_AND_WRONG = {
    "tuple": ("return logits, probs", "a, b = model(x)\nloss = criterion({}, y)", "a", "b"),
    "index": ("return logits, probs", "loss = criterion(model(x)[{}], y)", "0", "1"),
    "negative index": ("return probs, logits", "out = model(x)\nloss = criterion(out[{}], y)", "-1", "-2"),
    "nested tuple": ("return (logits, probs), x", "(a, b), c = model(x)\nloss = criterion({}, y)", "a", "b"),
    "cat": ("return logits, probs", "a, b = model(x)\nloss = criterion(torch.cat([{}, {}]), y)", "a", "b"),
    "dict": ('return {"l": logits, "p": probs}', 'out = model(x)\nloss = criterion(out["{}"], y)', "l", "p"),
    "dict by get": ('return {"l": logits, "p": probs}', 'loss = criterion(model(x).get("{}"), y)', "l", "p"),
    "dict call": ("return dict(l=logits, p=probs)", 'loss = criterion(model(x)["{}"], y)', "l", "p"),
    "filled dict": (
        'out = {}\nout["l"] = logits\nout["p"] = probs\nreturn out',
        'loss = criterion(model(x)["{}"], y)',
        "l",
        "p",
    ),
    "NamedTuple": ("return Output(logits, probs)", "loss = criterion(model(x).{}, y)", "logits", "probs"),
    "NamedTuple by index": ("return Output(logits, probs)", "loss = criterion(model(x)[{}], y)", "0", "1"),
    "NamedTuple unpacked": ("return Output(logits, probs)", "a, b = model(x)\nloss = criterion({}, y)", "a", "b"),
    "dataclass": ("return Record(probs=probs, logits=logits)", "loss = criterion(model(x).{}, y)", "logits", "probs"),
    "view": ("return logits, probs", "a, b = model(x)\nloss = criterion({}.view(-1, 10).float(), y)", "a", "b"),
    "slice": ("return logits, probs", "a, b = model(x)\nloss = criterion({}[:, -1], y)", "a", "b"),
    "keyword": ("return logits, probs", "a, b = model(x)\nloss = criterion(target=y, input={})", "a", "b"),
    "function": ("return logits, probs", "a, b = model(x)\nloss = F.cross_entropy({}, y)", "a", "b"),
    "two heads": ("return self.body(x), self.head(x)", "a, b = model(x)\nloss = criterion({}, y)", "a", "b"),
    "in the step": ("return logits", "out = model(x)\nloss = criterion({}, y)", "out", "F.softmax(out, dim=1)"),
    "method": ("return logits", "out = model(x)\nloss = criterion({}, y)", "out", "out.softmax(-1)"),
    "flag": (
        "if normalised:\n    return probs\nreturn logits",
        "loss = criterion(model(x, {}), y)",
        "False",
        "normalised=True",
    ),
    "forward by name": ("return logits, probs", "a, b = model.forward(x)\nloss = criterion({}, y)", "a", "b"),
}


@pytest.mark.parametrize(("returned", "step", "right", "wrong"), RIGHT_AND_WRONG.values(), ids=RIGHT_AND_WRONG)
def test_the_output_that_the_loss_reads_counts(returned, step, right, wrong, tmp_path):
    parameters = ", normalised=False" if "normalised" in returned else ""
    assert not found("GL601", script(returned, step.replace("{}", right), parameters), tmp_path)
    (finding,) = found("GL601", script(returned, step.replace("{}", wrong), parameters), tmp_path)
    assert finding.severity is Severity.WARNING
    assert "`CrossEntropyLoss` reads the output of `softmax`" in finding.message


@pytest.mark.parametrize(
    ("returned", "step"),
    [
        ("return (logits, probs) if x.sum() > 0 else (probs, logits)", "a, b = model(x)\nloss = criterion(a, y)"),
        ("return logits, probs", "i = pick()\nloss = criterion(model(x)[i], y)"),
        ("return logits, probs", "*rest, last = model(x)\nloss = criterion(last, y)"),
        ("return [f(probs) for f in self.heads]", "loss = criterion(model(x)[0], y)"),
        ("return torch.log(probs)", "loss = nn.NLLLoss()(model(x), y)"),
        ("return logits, probs", "a, b = model(x)\nloss = criterion(torch.log(b), y)"),
        ("if self.training:\n    return logits\nreturn probs", "loss = criterion(model(x), y)"),
        ("if not self.training:\n    logits = probs\nreturn logits", "loss = criterion(model(x), y)"),
        (
            "return logits, probs",
            "a, b = model(x)\nloss = criterion(a, y)\nwith torch.no_grad():\n    v = criterion(b, y)",
        ),
        (
            "return logits, probs",
            "out = {'p': model(x)[1]}\nout.update(p=model(x)[0])\nloss = criterion(out['p'], y)",
        ),
        ("return {**other, 'l': probs}", "loss = criterion(model(x)['l'], y)"),
        ("return torch.cat([logits, probs])", "loss = criterion(model(x), y)"),
        ("return logits * probs", "loss = criterion(model(x), y)"),
        ("out = probs.clone()\nout[:] = logits\nreturn out", "loss = criterion(model(x), y)"),
        (
            "return logits",
            "if isinstance(criterion, nn.CrossEntropyLoss):\n    loss = criterion(model(x), y)\n"
            "elif isinstance(criterion, nn.MSELoss):\n    loss = criterion(model(x).softmax(1), y)",
        ),
    ],
)
def test_what_is_not_known_or_does_not_train_is_not_reported(returned, step, tmp_path):
    assert not found("GL601", script(returned, step), tmp_path)


def test_an_output_that_a_method_switches_is_not_known(tmp_path):
    text = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.head, self.probable = nn.Linear(16, 4), True

        def give_logits(self):
            SWITCH

        def forward(self, x):
            logits = self.head(x)
            if self.probable:
                logits = logits.softmax(1)
            return logits

    model = Net()
    model.give_logits()
    for x, y in loader:
        nn.CrossEntropyLoss()(model(x), y).backward()
    """
    assert not found("GL601", text.replace("SWITCH", "self.probable = False"), tmp_path)
    assert found("GL601", text.replace("SWITCH", "pass"), tmp_path)


def test_the_place_is_the_activation_whether_it_is_called_or_a_part_of_a_sequential(tmp_path):
    called = found("GL601", script("return logits, probs", "loss = criterion(model(x)[1], y)"), tmp_path)
    assert lines(called, tmp_path) == ["probs = self.act(logits)"]
    part = found("GL601", script("return logits, self.head(x)", "loss = criterion(model(x)[1], y)"), tmp_path)
    assert lines(part, tmp_path) == ["self.head = nn.Sequential(nn.Linear(16, 10), nn.Softmax(dim=1))"]
    assert part[0].model is not None and part[0].model.endswith("train.py:Net")
    assert part[0].optimizer == "SGD"


@pytest.mark.parametrize(
    "change",
    [
        "net[-1] = nn.Identity()",
        "net.pop(1)",
        "del net[1]",
        "net.append(nn.Linear(4, 4))",
        "net.add_module('out', nn.Linear(4, 4))",
    ],
)
@pytest.mark.parametrize("owner", ["", "self."])
def test_a_sequential_whose_parts_are_changed_is_not_read_as_it_was_written(change, owner, tmp_path):
    text = """
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net = nn.Sequential(nn.Linear(16, 4), nn.Softmax(dim=1))
            CHANGE

        def forward(self, x):
            return self.net(x)

    model = Net()
    for x, y in loader:
        nn.CrossEntropyLoss()(model(x), y).backward()
    """
    text = text.replace("net = net", "net") if owner else text
    assert not found("GL601", text.replace("CHANGE", change.replace("net", f"{owner}net", 1)), tmp_path)
    assert found("GL601", text.replace("CHANGE", "pass"), tmp_path)


def test_two_models_with_losses_of_their_own_are_told_apart(tmp_path):
    text = """
    generator = nn.Sequential(nn.Linear(8, 8), nn.Sigmoid())
    critic = nn.Sequential(nn.Linear(8, 1){})
    optimizer = torch.optim.Adam([*generator.parameters(), *critic.parameters()])
    for real in loader:
        fake = generator(torch.randn(4, 8))
        loss = nn.MSELoss()(fake, real) + nn.functional.binary_cross_entropy_with_logits(critic(fake), ones)
        loss.backward()
        optimizer.step()
    """
    assert not found("GL601", text.replace("{}", ""), tmp_path)
    (finding,) = found("GL601", text.replace("{}", ", nn.Sigmoid()"), tmp_path)
    assert "`BCEWithLogitsLoss` reads the output of `sigmoid`" in finding.message
    assert lines([finding], tmp_path) == ["critic = nn.Sequential(nn.Linear(8, 1), nn.Sigmoid())"]


@pytest.mark.parametrize(
    ("step", "count"),
    [
        ("loss = 0\nfor out in torch.softmax(model(x)[0], 1):\n    loss += criterion(out, y)", 1),
        ("loss = 0\nfor out in model(x)[0]:\n    loss += criterion(out, y)", 0),
        ("loss = criterion(torch.exp(model(x)[0].log_softmax(1)), y)", 1),
        ("loss = criterion(model(x)[0].log_softmax(1).exp(), y)", 1),
        ("loss = criterion(torch.exp(model(x)[0]), y)", 0),
    ],
)
def test_elements_and_exponentials_are_followed(step, count, tmp_path):
    findings = found("GL601", script("return logits, probs", step), tmp_path)
    assert [f.severity for f in findings] == [Severity.WARNING] * count


def test_a_log_softmax_is_an_info(tmp_path):
    text = script("return logits, logits.log_softmax(1)", "loss = criterion(model(x)[1], y)")
    (finding,) = found("GL601", text, tmp_path)
    assert finding.severity is Severity.INFO


def test_losses_of_functions_and_of_lightning_modules_are_read(tmp_path):
    helper = """
    def loss_of(outputs, y):
        return nn.functional.cross_entropy(outputs[{}], y)
    """
    step = "loss = loss_of(model(x), y)"
    text = helper + "    " + script("return logits, probs", step).replace("\n", "\n    ")
    assert not found("GL601", text.replace("[{}]", "[0]"), tmp_path)
    assert len(found("GL601", text.replace("[{}]", "[1]"), tmp_path)) == 1
    lightning = """
    import pytorch_lightning as pl

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = nn.Linear(4, 3)

        def forward(self, x):
            out = self.net(x)
            return out, out.softmax(1)

        def training_step(self, batch, i):
            x, y = batch
            logits, probs = self(x)
            return nn.functional.cross_entropy(NAME, y)

        def validation_step(self, batch, i):
            x, y = batch
            return nn.functional.cross_entropy(self(x)[1], y)
    """
    assert not found("GL601", lightning.replace("NAME", "logits"), tmp_path)
    assert len(found("GL601", lightning.replace("NAME", "probs"), tmp_path)) == 1


def test_a_model_of_another_file_is_followed(tmp_path):
    text = """
    from nets import Net
    model = Net()
    for x, y in loader:
        loss = nn.CrossEntropyLoss()(model(x)["p"], y)
        loss.backward()
    """
    net = MODEL.replace("{parameters}", "").replace("{returned}", '        return {"l": logits, "p": probs}')
    (finding,) = found("GL601", text, tmp_path, nets=net)
    assert finding.location.path.endswith("nets.py")


def test_the_graph_is_asked_only_where_no_loss_was_followed(tmp_path):
    (tmp_path / "pyproject.toml").touch()

    def said(step: str) -> int:
        (tmp_path / "t.py").write_text("import torch\nfrom torch import nn\n" + script("return probs", step))
        project = Project(tmp_path)
        source = project.file(tmp_path / "t.py")
        assert source is not None
        read = read_script(source, project)
        graphs = [with_loss(g, read) for g in read_models(source, project)]
        rule = DoubleSoftmax()
        return sum(1 for g in graphs for _ in rule.check_graph(g, None, Context(read)))

    assert said("loss = criterion(unknown(model(x)), y)") == 1
    assert said("loss = criterion(torch.utils.checkpoint.checkpoint(model, x), y)") == 1
    assert said("loss = criterion(torch.cat([model(x), unknown(x)]), y)") == 1
    assert said("loss = criterion(torch.log(model(x)), y)") == 0
    assert said("loss = criterion(model.body(x), y)") == 0
