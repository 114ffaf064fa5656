"""The probe from Python: a report for notebooks, an assertion for tests."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("rich")

from torch import nn  # noqa: E402

from gradlint.api import probe  # noqa: E402
from gradlint.finding import Severity  # noqa: E402
from gradlint.pytest import assert_healthy  # noqa: E402

pytestmark = pytest.mark.torch


def stack(depth, act, width=32):
    torch.manual_seed(0)
    layers = [m for _ in range(depth) for m in (nn.Linear(width, width), act())]
    return nn.Sequential(*layers, nn.Linear(width, 4))


def batch():
    torch.manual_seed(1)
    return torch.randn(16, 32), torch.randint(0, 4, (16,))


def test_a_vanishing_stack_is_an_error_and_says_where():
    report = probe(stack(10, nn.Sigmoid), batch(), nn.CrossEntropyLoss())
    assert report.severity is Severity.ERROR and not report.healthy
    assert any("`0`" in problem for problem in report.problems)
    assert "error: gradient ratio" in str(report)
    assert "◂◂◂" in report._repr_html_()


def test_a_healthy_net_is_healthy():
    model = stack(3, nn.ReLU)
    report = assert_healthy(model, batch(), nn.CrossEntropyLoss(), torch.optim.AdamW(model.parameters()))
    assert report.healthy and report.optimizer == "AdamW"
    # AdamW's first step moves each weight by about lr: 1e-3 over weights of U(±1/√32).
    assert report.measurement.layers["0"].update_ratio == pytest.approx(1e-3 / (32**-0.5 / 3**0.5), rel=0.1)


def test_the_assertion_fails_with_the_table():
    with pytest.raises(AssertionError, match=r"(?s)unhealthy gradients.*layer"):
        assert_healthy(stack(10, nn.Sigmoid), batch(), nn.CrossEntropyLoss())


def test_thresholds_follow_the_optimizer():
    model = stack(3, nn.Sigmoid)
    assert probe(model, batch(), nn.CrossEntropyLoss(), "Adam").severity is None
    # A ratio of 0.141² = 0.02 over two layers is healthy under both; over four it is not under SGD.
    deeper = stack(5, nn.Sigmoid)
    ratio = probe(deeper, batch(), nn.CrossEntropyLoss(), "SGD").health.ratio.median
    assert 1e-4 < ratio < 1e-3
    assert probe(deeper, batch(), nn.CrossEntropyLoss(), "SGD").severity is Severity.WARNING
    assert probe(deeper, batch(), nn.CrossEntropyLoss(), "Adam").severity is Severity.INFO


def test_nothing_of_the_model_changes():
    model = stack(3, nn.ReLU)
    before, numbers = [p.detach().clone() for p in model.parameters()], torch.get_rng_state()
    probe(model, batch(), nn.CrossEntropyLoss(), torch.optim.SGD(model.parameters(), 0.1))
    torch.manual_seed(1)
    assert all(torch.equal(a, b) and b.grad is None for a, b in zip(before, model.parameters(), strict=True))
    assert all(not hasattr(p, "_gradlint_node") for p in model.parameters())
    assert numbers.shape == torch.get_rng_state().shape


def test_mappings_and_own_losses():
    class Own(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(8, 8), nn.Linear(8, 3)

        def forward(self, x, labels):
            logits = self.b(torch.tanh(self.a(x)))
            return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}

    report = probe(Own(), {"x": torch.randn(4, 8), "labels": torch.randint(0, 3, (4,))})
    assert [layer.name for layer in report.layers] == ["a", "b"]
    assert all(layer.weight_gradient > 0 for layer in report.layers)


@pytest.mark.parametrize("bad", [(torch.ones(2, 32),), torch.ones(2, 32)])
def test_a_batch_that_fits_no_loss_is_refused(bad):
    with pytest.raises(ValueError, match="batch"):
        probe(stack(2, nn.ReLU), bad)


def test_a_zero_initialised_branch_is_no_fault():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(32, 32), nn.Linear(32, 32)
            nn.init.zeros_(self.b.weight)

        def forward(self, x):
            return x + self.b(torch.relu(self.a(x)))

    torch.manual_seed(0)
    model = nn.Sequential(*(Block() for _ in range(4)), nn.Linear(32, 4))
    report = probe(model, batch(), nn.CrossEntropyLoss())
    assert report.measurement.layers["0.a"].weight_gradient == 0
    assert report.healthy


def test_queries_and_keys_at_uniform_attention_are_no_fault():
    class Attention(nn.Module):
        def __init__(self):
            super().__init__()
            self.q, self.k, self.v, self.out = (nn.Linear(32, 32) for _ in range(4))
            for layer in (self.q, self.k):
                nn.init.normal_(layer.weight, 0.0, 1e-4)
                nn.init.zeros_(layer.bias)

        def forward(self, x):
            mixed = nn.functional.scaled_dot_product_attention(self.q(x), self.k(x), self.v(x))
            return x + self.out(mixed)

    torch.manual_seed(0)
    model = nn.Sequential(Attention(), Attention(), nn.Flatten(), nn.Linear(160, 3))
    report = probe(model, (torch.randn(8, 5, 32), torch.randint(0, 3, (8,))), nn.CrossEntropyLoss())
    assert report.measurement.layers["0.q"].weight_gradient < 1e-3 * report.measurement.layers["0.v"].weight_gradient
    assert report.healthy and report.severity is None
    assert not any("0.q" in name for name in report.hidden)


def test_the_package_itself_can_be_called():
    import gradlint

    report = gradlint.probe(stack(2, nn.ReLU), batch(), nn.CrossEntropyLoss())
    assert report.healthy
    with pytest.raises(AttributeError):
        _ = gradlint.measure_everything


@pytest.mark.parametrize("reentrant", [False, True])
def test_gradient_checkpointing_changes_no_number(reentrant):
    from torch.utils.checkpoint import checkpoint

    class Net(nn.Module):
        def __init__(self, kept):
            super().__init__()
            torch.manual_seed(0)
            self.first = nn.Linear(8, 16)
            self.block = nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16))
            self.head, self.kept = nn.Linear(16, 3), kept

        def forward(self, x):
            x = self.first(x)
            return self.head(self.block(x) if self.kept else checkpoint(self.block, x, use_reentrant=reentrant))

    torch.manual_seed(1)
    data = torch.randn(32, 8), torch.randint(0, 3, (32,))
    plain, recomputed = (probe(Net(kept), data, nn.functional.cross_entropy) for kept in (True, False))
    assert [layer.name for layer in recomputed.layers] == [layer.name for layer in plain.layers]
    assert [layer.weight_gradient for layer in recomputed.layers] == pytest.approx(
        [layer.weight_gradient for layer in plain.layers]
    )
