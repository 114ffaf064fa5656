"""GL603 finds cuts on the only way to what is trained, and none beside another way."""

from __future__ import annotations

import pytest
from scripts import found, lines

STEP = """
model = nn.Linear(16, 4)
optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
criterion = nn.MSELoss()
for x, y in loader:
    optimizer.zero_grad()
    {body}
    loss.backward()
    optimizer.step()
"""


def step(body: str) -> str:
    return STEP.format(body=body.replace("\n", "\n    "))


@pytest.mark.parametrize(
    ("body", "line"),
    [
        ("loss = criterion(model(x).detach(), y)", "loss = criterion(model(x).detach(), y)"),
        ("out = model(x)\nbest = out.argmax(1).float()\nloss = criterion(best, y)", "best = out.argmax(1).float()"),
        ("_, best = torch.max(model(x), 1)\nloss = criterion(best, y)", "_, best = torch.max(model(x), 1)"),
        ("with torch.no_grad():\n    out = model(x)\nloss = criterion(out.requires_grad_(), y)", "out = model(x)"),
        ("loss = criterion(model(x), y)\nloss = torch.tensor(loss.item(), requires_grad=True)", None),
        ("loss = measure(model(x), y)\nloss.requires_grad = True", "loss.requires_grad = True"),
        ("loss = criterion(model(x), y) + penalty(model(x)).item()", None),
        ("extra = model(x)\nloss = criterion(extra, y) + 0.1 * extra.detach()", None),
    ],
)
def test_a_cut_on_every_way_or_of_a_term_is_found(body, line, tmp_path):
    if "penalty" in body:
        body = body.replace("penalty(model(x))", "model(x)")
    findings = found("GL603", step(body), tmp_path)
    assert len(findings) == 1
    assert line is None or lines(findings, tmp_path) == [line]


@pytest.mark.parametrize(
    "body",
    [
        "loss = criterion(model(x), y)\ntotal += loss.item()",
        "loss = criterion(model(x), model(y).detach())",
        "loss = (model(x) * advantage(model(x)).detach()).mean()",
        "out = model(x)\nout = out + (out.round() - out).detach()\nloss = criterion(out, y)",
        "loss = unknown(model(x).argmax(1), y)",
        "loss = torch.tensor(0.0, requires_grad=True)\nfor a in x: loss = loss + criterion(model(a), y)",
        "losses = [None] * 2\nlosses[0] = criterion(model(x), y)\nloss = sum(losses) / len(model(x))",
        "loss = criterion(model(x), y)\nif not loss.requires_grad:\n    loss.requires_grad = True",
        "aux = criterion(model(x), y)\naux.backward(retain_graph=True)\nloss = criterion(model(y), x) + aux.detach()",
        "acc = (model(x).argmax(1) == y).float().mean()\nloss = criterion(model(x), y)",
    ],
)
def test_targets_weights_straight_through_and_logging_are_left_alone(body, tmp_path):
    assert found("GL603", step(body), tmp_path) == []


def test_the_gradient_that_a_backward_is_given_is_not_what_it_starts_from(tmp_path):
    text = """
    model = nn.Linear(16, 4)
    outputs = model(x)
    gradient = torch.autograd.Variable(torch.randn(outputs.size()))
    outputs.backward(gradient)
    """
    assert found("GL603", text, tmp_path) == []


def test_what_runs_a_backward_starts_it_from_the_loss_that_it_is_given(tmp_path):
    body = "loss = criterion(model(x).detach(), y)"
    text = step(body).replace("loss.backward()", "accelerator.backward(loss)")
    assert lines(found("GL603", text, tmp_path), tmp_path) == [body]


def test_the_step_of_a_discriminator_is_left_alone(tmp_path):
    text = """
    generator, discriminator = nn.Linear(8, 8), nn.Linear(8, 1)
    optimizer = torch.optim.Adam(discriminator.parameters())
    for real in loader:
        fake = generator(torch.randn(32, 8))
        loss = discriminator(fake.detach()).mean() - discriminator(real).mean()
        loss.backward()
        optimizer.step()
    """
    assert found("GL603", text, tmp_path) == []


NET = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Linear(16, 16)
        self.second = nn.Linear(16, 4)
        {more}

    def forward(self, x):
        {body}
"""


def net(body: str, more: str = "") -> str:
    return NET.format(body=body.replace("\n", "\n        "), more=more)


@pytest.mark.parametrize(
    "cut", ["h.detach()", "h.data", "torch.tensor(h)", "torch.from_numpy(h.detach().cpu().numpy())"]
)
def test_a_cut_on_the_only_way_through_forward_is_found(cut, tmp_path):
    (finding,) = found("GL603", net(f"h = self.first(x)\nh = {cut}\nreturn self.second(h)"), tmp_path)
    assert "self.first" in finding.message


@pytest.mark.parametrize(
    ("body", "more"),
    [
        ("h = self.first(x)\ng = h.detach()\nreturn self.second(g) + h", ""),
        ("h = self.first(x)\nif self.frozen:\n    h = h.detach()\nreturn self.second(h)", ""),
        ("h = self.first(x)\nh = h.detach()\nreturn self.second(h)", "self.first.requires_grad_(False)"),
        ("x = x.detach()\nreturn self.second(self.first(x))", ""),
        ("h = self.first(x)\nself.seen = h.detach()\nreturn self.second(h)", ""),
    ],
)
def test_a_cut_beside_another_way_or_of_what_is_frozen_is_left_alone(body, more, tmp_path):
    assert found("GL603", net(body, more), tmp_path) == []


def test_a_pass_that_records_in_some_runs_is_left_alone(tmp_path):
    body = "with torch.no_grad() if quiet else torch.enable_grad():\n    out = model(x)\nloss = out.sum()"
    assert found("GL603", "quiet = ask()\n" + step(body), tmp_path) == []
