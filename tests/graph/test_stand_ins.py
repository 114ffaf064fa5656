"""What stands in for numpy and for environments where they are not installed."""

import math

import pytest

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from gradlint.graph.missing_packages import StubModule  # noqa: E402
from gradlint.graph.stubs import Unknown  # noqa: E402

np, gym = StubModule("numpy"), StubModule("gymnasium")


def test_numpy_computes_with_numbers():
    assert np.sqrt(2.0 / 8) == 0.5
    assert np.prod((3, 4, 5)) == 60 and np.array((3, 4)).prod() == 12
    assert np.float32(0.5) == 0.5 and np.pi == math.pi
    assert isinstance(3, np.int64) and not isinstance(torch.ones(1), np.ndarray)


@pytest.mark.parametrize("make", [lambda: np.sqrt(Unknown("size")), lambda: np.log(0), lambda: np.sqrt(torch.ones(2))])
def test_what_numpy_makes_of_anything_else_is_unknown(make):
    assert isinstance(make(), Unknown)


def test_a_row_of_numbers_keeps_them():
    row = np.array([1, 0, 2]).astype(np.float32)
    assert list(row) == [1, 0, 2] and row[1] == 0 and row.shape == (3,) and len(row[1:]) == 2
    assert isinstance(row.reshape(3, 1), Unknown)


def test_an_environment_of_the_tutorials_has_its_spaces():
    env = gym.make("Pendulum-v1")
    assert (env.observation_space.shape, env.action_space.shape) == ((3,), (1,))
    assert float((env.action_space.high - env.action_space.low)[0] / 2) == 1.0
    assert gym.make("CartPole-v1", render_mode="human").action_space.n == 2
    assert isinstance(gym.make("Mine-v3").observation_space, Unknown)
    assert isinstance(env.step(0), Unknown)
