"""GL503 finds parameters that nothing trains, and leaves alone what is registered, frozen or handed over elsewhere."""

from __future__ import annotations

import pytest
from scripts import found, lines

from gradlint.finding import Severity

NET = """
class Net(nn.Module):
    def __init__(self, device):
        super().__init__()
        {made}

    def forward(self, x):
        {run}
        return x
"""
LOOP = "for layer in self.layers: x = layer(x)"


def net(made: str, run: str = LOOP) -> str:
    return NET.format(made=made.replace("\n", "\n        "), run=run.replace("\n", "\n        "))


@pytest.mark.parametrize(
    "made",
    [
        "self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]",
        "self.layers = []\nfor _ in range(3):\n    self.layers.append(nn.Linear(4, 4))",
        "layers = []\nfor _ in range(3):\n    layers.append(nn.Linear(4, 4))\nself.layers = layers",
        "self.layers = [nn.Sequential(nn.Linear(4, 4), nn.ReLU()) for _ in range(3)]",
        "self.layers = {}\nself.layers['a'] = nn.Linear(4, 4)",
        "self.layers = []\nfor _ in range(3):\n    layer = nn.Linear(4, 4)\n    nn.init.zeros_(layer.bias)\n"
        "    self.layers.append(layer)",
    ],
)
def test_layers_in_a_plain_container_are_found(made, tmp_path):
    (finding,) = found("GL503", net(made), tmp_path)
    assert finding.severity is Severity.WARNING
    assert "self.layers" in finding.message


@pytest.mark.parametrize(
    "made",
    [
        "self.layers = [nn.Linear(4, 4) for _ in range(3)]\nself.layers = nn.ModuleList(self.layers)",
        "layers = [nn.Linear(4, 4) for _ in range(3)]\nself.layers = nn.ModuleList(layers)",
        "self.layers = [nn.Linear(4, 4) for _ in range(3)]\nself.net = nn.Sequential(*self.layers)",
        "self.layers = []\nfor i in range(3):\n    layer = nn.Linear(4, 4)\n    self.add_module(str(i), layer)\n"
        "    self.layers.append(layer)",
        "self.layers = []\nfor i in range(3):\n    layer = nn.Linear(4, 4)\n    register(self, layer)\n"
        "    self.layers.append(layer)",
        "self.layers = []\nlayer = nn.Linear(4, 4)\nself.first = layer\nself.layers.append(layer)",
        "self.a = nn.Linear(4, 4)\nself.b = nn.Linear(4, 4)\nself.layers = [self.a, self.b]",
        "self.layers = [nn.ReLU(), nn.Dropout(0.5)]",
        "self.layers = [nn.Linear(4, 4) for _ in range(3)]\nfor p in self.layers[0].parameters():\n"
        "    p.requires_grad = False",
        "layers = [nn.Linear(4, 4)]\nregister(self, layers)\nself.layers = layers",
    ],
)
def test_layers_that_are_registered_or_frozen_are_left_alone(made, tmp_path):
    assert found("GL503", net(made), tmp_path) == []


@pytest.mark.parametrize(
    ("device", "count"),
    [("torch.device('cpu')", 0), ("'cpu'", 0), ("torch.float32", 0), ("torch.float16", 1), ("torch.device('cuda')", 1)],
)
def test_a_parameter_that_is_moved_to_where_it_is_stays_one(device, count, tmp_path):
    made = "self.scale = nn.Parameter(torch.ones(4)).to(device)"
    text = net(made, "x = x * self.scale") + f"place = {device}\nmodel = Net(place)\n"
    assert len(found("GL503", text, tmp_path)) == count


def test_a_list_that_is_handed_to_the_optimizer_elsewhere_is_left_alone(tmp_path):
    text = net("self.layers = [nn.Linear(4, 4), nn.Linear(4, 4)]") + (
        "model = Net('cpu')\noptimizer = torch.optim.Adam([p for m in model.layers for p in m.parameters()])\n"
    )
    assert found("GL503", text, tmp_path) == []


def test_a_network_that_is_hidden_in_a_list_of_one_is_left_alone(tmp_path):
    text = net("self.layers = [Teacher()]") + (
        "class Teacher(nn.Module):\n"
        "    def __init__(self):\n        super().__init__()\n        self.fc = nn.Linear(4, 4)\n"
    )
    assert found("GL503", text, tmp_path) == []


def test_a_layer_that_forward_builds_is_found_and_a_norm_is_only_noted(tmp_path):
    (weights,) = found("GL503", net("pass", "x = nn.Linear(4, 4)(x)"), tmp_path)
    (norm,) = found("GL503", net("pass", "x = nn.LayerNorm(4)(x)"), tmp_path)
    assert (weights.severity, norm.severity) == (Severity.WARNING, Severity.INFO)


def test_one_forward_that_builds_several_layers_is_one_finding(tmp_path):
    (finding,) = found("GL503", net("pass", "x = nn.Linear(4, 4)(x)\nx = nn.LayerNorm(4)(x)"), tmp_path)
    assert "`Linear` and `LayerNorm`" in finding.message


@pytest.mark.parametrize(
    "run",
    [
        "if self.fc is None:\n    self.fc = nn.Linear(x.shape[1], 4)\nx = self.fc(x)",
        "blur = nn.Conv2d(3, 3, 3)\nblur.weight = self.kernel\nx = blur(x)",
        "with torch.no_grad():\n    x = nn.Linear(4, 4)(x)",
        "x = nn.ReLU()(x)",
    ],
)
def test_a_module_that_forward_keeps_or_fills_is_left_alone(run, tmp_path):
    assert found("GL503", net("self.fc = None", run), tmp_path) == []


@pytest.mark.parametrize("made", ["nn.Parameter(torch.zeros(4)).cuda()", "0.1 * nn.Parameter(torch.zeros(4))"])
def test_a_parameter_that_is_changed_before_it_is_assigned_is_found(made, tmp_path):
    (finding,) = found("GL503", net(f"self.scale = {made}", "x = x * self.scale"), tmp_path)
    assert "self.scale" in finding.message


@pytest.mark.parametrize(
    "made",
    [
        "self.scale = nn.Parameter(torch.zeros(4).cuda())",
        "self.scale = nn.Parameter(torch.zeros(4), requires_grad=False).cuda()",
        "self.scale = nn.Parameter(torch.zeros(4)).cuda()\nself.scale = nn.Parameter(self.scale)",
    ],
)
def test_a_parameter_that_stays_one_is_left_alone(made, tmp_path):
    assert found("GL503", net(made, "x = x * self.scale"), tmp_path) == []


REPLACED = """
from torchvision.models import resnet18
model = resnet18()
{before}
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
{after}
for x, y in loader:
    optimizer.zero_grad()
    nn.functional.cross_entropy(model(x), y).backward()
    optimizer.step()
"""


def test_a_head_that_is_put_in_after_the_optimizer_is_found(tmp_path):
    findings = found("GL503", REPLACED.format(before="", after="model.fc = nn.Linear(512, 10)"), tmp_path)
    assert lines(findings, tmp_path) == ["model.fc = nn.Linear(512, 10)"]


@pytest.mark.parametrize(
    "after",
    [
        "",
        "model.fc = nn.Linear(512, 10)\noptimizer = torch.optim.SGD(model.parameters(), lr=0.1)",
        "model.fc = nn.Linear(512, 10)\noptimizer.add_param_group({'params': model.fc.parameters()})",
    ],
)
def test_a_head_that_the_optimizer_knows_is_left_alone(after, tmp_path):
    assert found("GL503", REPLACED.format(before="model.fc = nn.Linear(512, 10)", after=after), tmp_path) == []


PAIR = """
class Encoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 4)

    def forward(self, x):
        return self.fc(x)

encoder = Encoder()
decoder = nn.Linear(4, 4)
optimizer = torch.optim.Adam({given})
for x, y in loader:
    {run}
    loss = ((decoder(h) - y) ** 2).mean()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
"""


def test_a_network_in_the_loss_that_no_optimizer_is_given_is_found(tmp_path):
    findings = found("GL503", PAIR.format(given="decoder.parameters()", run="h = encoder(x)"), tmp_path)
    assert lines(findings, tmp_path) == ["encoder = Encoder()"]


def test_a_network_that_is_called_in_the_loss_itself_is_found(tmp_path):
    text = PAIR.format(given="decoder.parameters()", run="pass")
    text = text.replace("loss = ((decoder(h) - y) ** 2).mean()", "pass")
    text = text.replace("loss.backward()", "((decoder(encoder(x)) - y) ** 2).mean().backward()")
    assert lines(found("GL503", text, tmp_path), tmp_path) == ["encoder = Encoder()"]


@pytest.mark.parametrize(
    ("given", "run"),
    [
        ("list(encoder.parameters()) + list(decoder.parameters())", "h = encoder(x)"),
        ("decoder.parameters()", "h = encoder(x).detach()"),
        ("decoder.parameters()", "h = encoder(x); h = torch.randn(4, 8)"),
        ("decoder.parameters()", "with torch.no_grad(): h = encoder(x)"),
        ("decoder.parameters()", "encoder.eval(); h = encoder(x)"),
        ("decoder.parameters()", "encoder.load_state_dict(saved); h = encoder(x)"),
        ("unknown(decoder)", "h = encoder(x)"),
    ],
)
def test_a_network_that_is_optimised_cut_off_or_loaded_is_left_alone(given, run, tmp_path):
    assert found("GL503", PAIR.format(given=given, run=run), tmp_path) == []
