"""A measurement leaves the model, its gradients and the random numbers bit for bit as they were."""

import random

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.probe.state import preserved  # noqa: E402

pytestmark = pytest.mark.torch


class Remembering(nn.Module):
    """Keeps its last output, replaces one buffer and changes another in place."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.norm = nn.BatchNorm1d(4)
        self.register_buffer("count", torch.zeros(1))
        self.last = None

    def forward(self, x):
        self.count = self.count + 1
        self.last = self.norm(self.linear(nn.functional.dropout(x)))
        return self.last


def test_everything_is_restored():
    module = Remembering()
    module.linear.weight.grad = gradient = torch.ones(4, 4)
    before = {name: value.clone() for name, value in module.state_dict().items()}
    identities = {name: id(value) for name, value in (*module.named_parameters(), *module.named_buffers())}
    python, numbers = random.getstate(), torch.get_rng_state()

    with preserved(module):
        module.eval()
        module.train()
        module(torch.randn(8, 4)).sum().backward()
        random.random()
        assert module.linear.weight.grad is not gradient

    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert identities == {name: id(value) for name, value in (*module.named_parameters(), *module.named_buffers())}
    assert module.linear.weight.grad is gradient and torch.equal(gradient, torch.ones(4, 4))
    assert module.linear.bias.grad is None and module.last is None
    assert random.getstate() == python and torch.equal(torch.get_rng_state(), numbers)


def test_weights_are_restored_after_training_steps_and_errors():
    module = nn.Linear(3, 3)
    before = module.weight.detach().clone()
    with pytest.raises(RuntimeError), preserved(module, parameters=True):
        torch.optim.SGD(module.parameters(), 1.0)
        module(torch.ones(2, 3)).sum().backward()
        with torch.no_grad():
            module.weight.add_(1)
        raise RuntimeError("user code")
    assert torch.equal(module.weight, before)


def test_train_and_eval_flags_survive():
    module = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    module[1].eval()
    with preserved(module):
        module.train()
    assert module.training and not module[1].training
