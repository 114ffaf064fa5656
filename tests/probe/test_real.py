"""The script's own first steps, watched from inside its process."""

import textwrap

import pytest

torch = pytest.importorskip("torch")

from gradlint.probe.judging import classify_losses, spikes  # noqa: E402
from gradlint.probe.real import run_script  # noqa: E402

pytestmark = pytest.mark.torch

HEAD = """
import sys
import torch
from torch import nn
torch.set_num_threads(1)
torch.manual_seed(0)
"""

LOOP = (
    HEAD
    + """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.5)
    def forward(self, x):
        return self.b(self.drop(torch.tanh(self.a(x))))

net = Net()
optimizer = torch.optim.SGD(net.parameters(), lr=float(sys.argv[1]), momentum=0.9)
for step in range(100):
    x, y = torch.randn(32, 8), torch.randint(0, 3, (32,))
    optimizer.zero_grad()
    loss = nn.CrossEntropyLoss()(net(x), y)
    loss.backward()
    if step == 0:
        print("TRUE", loss.item(), net.a.weight.grad.norm().item())
    torch.nn.utils.clip_grad_norm_(net.parameters(), 0.01)
    optimizer.step()
    torch.save(net.state_dict(), "checkpoint.pt")
    open("log.txt", "a").write("step")
raise RuntimeError("went on after it was to stop")
"""
)


def script(tmp_path, text):
    path = tmp_path / "train.py"
    path.write_text(text)
    return path


def test_the_first_step_is_measured_as_it_was(tmp_path):
    outcome = run_script(script(tmp_path, LOOP), ["0.1"], seconds=60)
    assert outcome.failed is None, outcome.output
    (seen,) = outcome.watched
    true_loss, true_norm = (float(v) for v in outcome.output.split("TRUE")[1].split()[:2])
    assert seen.measurement.loss == pytest.approx(true_loss, rel=1e-5)
    # Dropout's mask is replayed, and the norm is the one before clipping.
    assert seen.measurement.layers["a"].weight_gradient == pytest.approx(true_norm, rel=1e-4)
    assert (seen.model, seen.optimizer, seen.learning_rates, seen.momentum) == ("Net", "SGD", (0.1,), 0.9)
    assert seen.clipped and seen.measurement.batch == "real"
    # ‖Δw‖ = lr × the gradient clipped to a norm of 0.01 over the whole net.
    assert 0 < seen.measurement.layers["a"].update_ratio < 0.1 * 0.01
    assert not (tmp_path / "checkpoint.pt").exists() and not (tmp_path / "log.txt").exists()


def test_more_steps_give_the_curve_and_another_rate_another_curve(tmp_path):
    path = script(tmp_path, LOOP.replace("torch.nn.utils.clip", "0 and torch.nn.utils.clip"))
    slow = run_script(path, ["0.1"], steps=6, seconds=60).watched[0]
    fast = run_script(path, ["0.1"], steps=6, seconds=60, learning_rate=1e6).watched[0]
    assert len(slow.measurement.losses) == len(slow.measurement.gradient_norms) == 6
    ways = [classify_losses(x.measurement.losses) for x in (fast, slow)]
    assert [way in ("diverging", "nan", "jumping") for way in ways] == [True, False]
    assert not spikes(slow.measurement.gradient_norms)


def test_two_optimizers_are_two_models(tmp_path):
    gan = HEAD + textwrap.dedent(
        """
    g, d = nn.Linear(4, 8), nn.Linear(8, 1)
    og, od = torch.optim.Adam(g.parameters(), 1e-3), torch.optim.Adam(d.parameters(), 1e-3)
    for _ in range(50):
        fake = g(torch.randn(16, 4))
        od.zero_grad()
        (d(fake.detach()).mean() - d(torch.randn(16, 8)).mean()).backward()
        od.step()
        og.zero_grad()
        (-d(fake).mean()).backward()
        og.step()
    """
    )
    outcome = run_script(script(tmp_path, gan), seconds=60)
    assert outcome.failed is None, outcome.output
    assert [w.graph.nodes[-2].attributes.get("out_features") for w in outcome.watched] == [1, 8]
    assert outcome.watched[0].calls == 2
    assert all(layer.weight_gradient for w in outcome.watched for layer in w.measurement.layers.values())


def test_lbfgs_is_asked_for_its_gradient(tmp_path):
    text = HEAD + textwrap.dedent(
        """
    net, x = nn.Linear(4, 1), torch.randn(16, 4)
    optimizer = torch.optim.LBFGS(net.parameters())
    def closure():
        optimizer.zero_grad()
        loss = net(x).square().mean()
        loss.backward()
        return loss
    optimizer.step(closure)
    """
    )
    outcome = run_script(script(tmp_path, text), seconds=60)
    assert outcome.watched and outcome.watched[0].optimizer == "LBFGS", outcome.output


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("print(1)", "without an optimizer step"),
        ("raise ValueError('no data')", "ValueError: no data"),
        ("import os; os._exit(3)", "status 3"),
        ("import sys; sys.exit('usage: train.py DATA')", "usage: train.py"),
        ("while True: pass", "within 4 s"),
        ("def f(:", "SyntaxError"),
    ],
)
def test_scripts_that_do_not_train_say_so_in_a_line(tmp_path, text, reason):
    outcome = run_script(script(tmp_path, text), seconds=4 if "while" in text else 60)
    assert outcome.watched == ()
    assert reason in outcome.failed and "\n" not in outcome.failed


TWO_PHASES = HEAD + textwrap.dedent(
    """
    body = nn.Linear(8, 8)
    first = torch.optim.SGD(body.parameters(), lr=0.01)
    for _ in range(5):
        first.zero_grad()
        body(torch.randn(16, 8)).square().mean().backward()
        first.step()
        print("RATE", first.param_groups[0]["lr"])
    net = nn.Sequential(body, nn.ReLU(), nn.Linear(8, 2))
    second = torch.optim.Adam(
        net.parameters(),
        lr=0.5,
    )
    for _ in range(50):
        second.zero_grad()
        net(torch.randn(16, 8)).square().mean().backward()
        second.step()
    """
)


def test_the_optimizer_that_is_asked_for_is_watched_alone(tmp_path):
    path = script(tmp_path, TWO_PHASES)
    line = TWO_PHASES.splitlines().index("second = torch.optim.Adam(") + 1
    outcome = run_script(path, steps=3, learning_rate=1e-3, optimizer=(str(path), line, line + 3), seconds=60)
    assert outcome.failed is None, outcome.output
    (seen,) = outcome.watched
    assert (seen.optimizer, seen.learning_rates, len(seen.measurement.losses)) == ("Adam", (1e-3,), 3)
    # What comes before it is trained as the script says.
    assert outcome.output.count("RATE 0.01") == 5


def test_the_live_graph_knows_its_lines_and_present_weights(tmp_path):
    outcome = run_script(script(tmp_path, LOOP), ["0.1"], seconds=60)
    graph = outcome.watched[0].graph
    layer = next(n for n in graph.nodes if n.name == "a")
    assert (
        layer.best_location.line
        == LOOP.splitlines().index(
            "        self.a, self.b, self.drop = nn.Linear(8, 16), nn.Linear(16, 3), nn.Dropout(0.5)"
        )
        + 1
    )
    law = graph.weight_law(layer)
    assert law.origin == "measured" and law.std == pytest.approx((1 / (3 * 8)) ** 0.5, rel=0.2)
