"""The calls of models that lead to a step, and the gradient that each of their outputs has of its own."""

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.probe.calls import direct, passed_through  # noqa: E402
from gradlint.probe.live import trace_call  # noqa: E402
from gradlint.probe.watch import Watch, samples_of  # noqa: E402

pytestmark = pytest.mark.torch


@pytest.fixture
def watch():
    made = Watch()
    made.install()
    yield made
    made.remove()


class Variational(nn.Module):
    """Two of its outputs are used by the third, and by the loss."""

    def __init__(self):
        super().__init__()
        self.mean, self.spread, self.decoder = nn.Linear(6, 3), nn.Linear(6, 3), nn.Linear(3, 6)

    def forward(self, x):
        mean, spread = self.mean(x), self.spread(x)
        return self.decoder(mean + torch.exp(spread) * torch.randn_like(mean)), mean, spread


def seen_by(watch, model, make_loss):
    """(norms of weight gradients as measured, the true ones) of one training step."""
    make_loss().backward()
    mine = frozenset(id(p) for p in model.parameters())
    true = {n: p.grad.norm().item() for n, p in model.named_parameters() if n.endswith("weight")}
    call = watch.call_of(mine)
    watch.busy = True
    _, seen = call.measured(trace_call, watch.scale)
    return {f"{n}.weight": m.weight_gradient for n, m in seen.layers.items() if m.weight_gradient}, true


def test_outputs_that_others_are_made_of_count_once(watch):
    torch.manual_seed(0)
    model, x = Variational(), torch.randn(16, 6)

    def loss():
        made, mean, spread = model(x)
        return (made - x).square().mean() + 0.1 * (mean.square() + spread.exp() - spread).mean()

    measured, true = seen_by(watch, model, loss)
    assert measured == pytest.approx(true, rel=1e-4)


def test_a_loss_among_the_outputs_leaves_nothing_to_the_scores(watch):
    class Labelled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3))

        def forward(self, x, labels):
            scores = self.net(x)
            return {"loss": nn.functional.cross_entropy(scores, labels), "scores": scores}

    model, batch = Labelled(), {"x": torch.randn(8, 4), "labels": torch.randint(0, 3, (8,))}
    measured, true = seen_by(watch, model, lambda: model(**batch)["loss"])
    assert measured == pytest.approx(true, rel=1e-4)


def test_what_stands_alone_keeps_its_gradient():
    x = torch.ones(3, requires_grad=True)
    a, b = x * 2, x + 1
    assert passed_through([a, b]) == set()
    assert direct([a, b], [torch.ones(3), torch.ones(3)])[0] is not None
    c = a * a
    assert passed_through([a, c]) == {0}
    own, whole = direct([a, c], [2 * a.detach() + 1, torch.ones(3)])
    assert torch.allclose(own, torch.ones(3)) and torch.equal(whole, torch.ones(3))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_call_is_measured_under_the_autocast_that_it_was_made_under(watch, dtype):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 2)), torch.randn(8, 16)

    def loss():
        with torch.autocast("cpu", dtype=dtype):
            return model(x).float().square().mean()

    measured, true = seen_by(watch, model, loss)
    assert watch.calls.seen[0].autocast is dtype and samples_of(watch.calls.seen[0]) == 8
    assert measured == pytest.approx(true, rel=1e-3)


def test_wrapped_models_are_met_inside_their_wrapper(watch):
    with torch.no_grad():
        nn.Linear(2, 2)(torch.ones(1, 2))
    assert not watch.calls.seen
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.randn(8, 4)
    compiled = torch.compile(model, backend="eager")
    measured, true = seen_by(watch, model, lambda: compiled(x).square().mean())
    assert measured == pytest.approx(true, rel=1e-5)
    watch.forget(frozenset(id(p) for p in model.parameters()))
    assert not watch.calls.seen and watch.calls.count(compiled) == 0
