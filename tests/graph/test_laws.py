"""Every idiom of initialisation yields the law that the values of a real build follow."""

from __future__ import annotations

import math

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from gradlint.graph.build import build  # noqa: E402
from gradlint.graph.laws import LawRecorder  # noqa: E402
from gradlint.graph.model import InitLaw  # noqa: E402
from gradlint.worker.protocol import Slice  # noqa: E402

pytestmark = pytest.mark.torch

HEAD = "import copy, math, torch\nfrom torch import nn\nfrom torch.nn import init\n"
WIDE = HEAD + "net = nn.Linear(256, 128)\n"


def built(text: str, meta: bool = True):  # type: ignore[no-untyped-def]
    return build(Slice(path="/project/train.py", root="/project", text=text, target="net"), meta=meta)


def law(text: str, name: str = "weight") -> InitLaw:
    return built(text).laws[name]


IDIOMS = {
    "default": WIDE,
    "kaiming_normal_": WIDE + "nn.init.kaiming_normal_(net.weight, nonlinearity='relu')",
    "kaiming_uniform_ fan_out": WIDE + "nn.init.kaiming_uniform_(net.weight, mode='fan_out', nonlinearity='relu')",
    "xavier_uniform_": WIDE + "init.xavier_uniform_(net.weight, gain=nn.init.calculate_gain('tanh'))",
    "xavier_normal_": WIDE + "init.xavier_normal_(net.weight)",
    "orthogonal_": WIDE + "init.orthogonal_(net.weight, 1.4)",
    "trunc_normal_": WIDE + "init.trunc_normal_(net.weight, std=1.0, a=-1.0, b=2.0)",
    "sparse_": WIDE + "init.sparse_(net.weight, 0.9, std=0.5)",
    "uniform_": WIDE + "init.uniform_(net.weight, -0.1, 0.3)",
    "eye_": WIDE + "init.eye_(net.weight)",
    "data.normal_": WIDE + "net.weight.data.normal_(0.0, math.sqrt(2.0 / 256))",
    "data.uniform_": WIDE + "net.weight.data.uniform_(-0.2, 0.2)",
    "data arithmetic": WIDE + "net.weight.data.normal_().mul_(0.3).add_(0.1)",
    "augmented": WIDE + "net.weight.data *= 3",
    "copy_": WIDE + "with torch.no_grad(): net.weight.copy_(torch.randn(128, 256) * 0.02)",
    "assigned data": WIDE + "net.weight.data = torch.rand(128, 256) - 0.5",
    "new parameter": WIDE + "net.weight = nn.Parameter(torch.randn(128, 256) / math.sqrt(256))",
    "legacy constructor": WIDE + "net.weight = nn.Parameter(torch.Tensor(128, 256).normal_(0, 0.05))",
    "hand-written truncation": WIDE + "net.weight.data.copy_(torch.randn(128, 256).clamp_(-1, 1) * 0.1)",
    "apply": WIDE + "def start(m):\n    if isinstance(m, nn.Linear): m.weight.data.normal_(0, 0.2)\nnet.apply(start)",
    "by name": WIDE + "for n, p in net.named_parameters():\n    if 'weight' in n: init.normal_(p, 0, 0.3)",
    "thirds": WIDE + "for part in net.weight.data.chunk(4): init.xavier_uniform_(part)",
}


@pytest.mark.parametrize("idiom", IDIOMS)
def test_spread_is_that_of_a_real_build(idiom: str) -> None:
    found = law(IDIOMS[idiom])
    real = built(IDIOMS[idiom], meta=False).factory(0).weight.detach()
    assert found.std == pytest.approx(float(real.std()), rel=0.06)
    assert found.mean == pytest.approx(float(real.mean()), abs=0.06 * found.std)
    assert not found.partial
    assert (found.fan_in, found.fan_out) == (256, 128)
    assert found.gain_squared == pytest.approx(256 * (found.std**2 + found.mean**2))


def test_pytorchs_default_is_a_third_over_fan_in_and_called_default() -> None:
    found = law(WIDE)
    assert (found.origin, found.distribution) == ("default", "uniform")
    assert found.gain_squared == pytest.approx(1 / 3)
    assert found.location is not None and found.location.line == 4


def test_explicit_law_names_scheme_mode_and_the_line_of_the_call() -> None:
    found = law(WIDE + "def start(m):\n    nn.init.kaiming_normal_(m.weight, mode='fan_out')\nnet.apply(start)\n")
    assert (found.origin, found.scheme, found.mode) == ("explicit", "kaiming_normal", "fan_out")
    assert found.location is not None and found.location.line == 6


def test_a_law_made_by_functions_of_uniform_draws_has_no_mean_by_chance() -> None:
    """Truncated normals as timm writes them: summed over a fan of thousands a mean counts."""
    text = "import math\nimport torch\nfrom torch import nn\nnet = nn.Linear(256, 128)\nw = net.weight.data\n"
    found = law(text + "w.uniform_(-0.9, 0.9)\nw.erfinv_()\nw.mul_(0.02 * math.sqrt(2.0)).clamp_(-2.0, 2.0)\n")
    assert abs(found.mean) < 1e-6 * found.std


def test_calling_reset_parameters_again_is_still_the_default() -> None:
    assert law(WIDE + "net.reset_parameters()").origin == "default"


def test_a_defined_but_never_called_helper_changes_nothing() -> None:
    assert law(WIDE + "def start(m):\n    nn.init.zeros_(m.weight)\n") == law(WIDE)


def test_deep_copies_hold_the_same_draw_and_separate_layers_do_not() -> None:
    text = HEAD + "a = nn.Linear(8, 8)\nnet = nn.Sequential(a, copy.deepcopy(a), nn.Linear(8, 8))\n"
    laws = built(text).laws
    assert laws["0.weight"].draw == laws["1.weight"].draw != laws["2.weight"].draw


def test_tied_weights_are_listed_once_with_the_other_name() -> None:
    found = built(HEAD + "net = nn.Sequential(nn.Embedding(9, 8), nn.Linear(8, 9))\nnet[1].weight = net[0].weight\n")
    assert found.aliases == {"0.weight": ("1.weight",)}
    assert "1.weight" not in found.laws
    assert found.laws["0.weight"].std == pytest.approx(1.0)


def test_a_partial_write_is_flagged_and_counts_by_its_share() -> None:
    found = law(WIDE + "net.weight.data[:64].zero_()")
    assert found.partial
    assert found.std == pytest.approx(math.sqrt(0.5 / (3 * 256)), rel=1e-6)


def test_many_small_writes_add_up() -> None:
    rows = "for i in range(128):\n    net.weight.data[i, torch.randperm(256)[:64]] = 1.0\n"
    found = law(WIDE + "net.weight.data[:] = 0\n" + rows)
    assert found.mean == pytest.approx(0.25) and found.std == pytest.approx(math.sqrt(0.25 * 0.75))
    halves = "net.weight.data[:32] = 1.0\nnet.weight.data[32:64] = 2.0\n"
    found = law(WIDE + "net.weight.data.fill_(4.0)\n" + halves)
    assert found.mean == pytest.approx(0.25 + 0.5 + 2.0)


def test_the_padding_row_of_an_embedding_is_no_partial_write() -> None:
    found = law(HEAD + "net = nn.Embedding(1000, 16, padding_idx=0)\n")
    assert not found.partial
    assert found.distribution == "normal"


def test_weight_norm_has_known_laws() -> None:
    found = built(HEAD + "net = nn.utils.parametrizations.weight_norm(nn.Linear(64, 32))\n")
    assert {law.std is not None for law in found.laws.values()} == {True}, found.laws


def test_frozen_parameters_tell_where() -> None:
    found = built(WIDE + "for p in net.parameters():\n    p.requires_grad = False\n")
    assert {name: at.line for name, at in found.frozen_by.items()} == {"weight": 6, "bias": 6}


def test_a_loaded_checkpoint_marks_the_model_and_a_new_head_is_not_marked() -> None:
    text = HEAD + (
        "net = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))\n"
        "net.load_state_dict(torch.load('weights.pt')['state_dict'])\nnet[1] = nn.Linear(4, 2)\n"
    )
    found = built(text)
    assert found.pretrained
    assert found.laws["0.weight"].origin == "pretrained"
    assert found.laws["1.weight"].origin == "default"


def test_an_init_function_that_a_library_took_before_is_followed():
    taken = nn.init.normal_
    with LawRecorder() as recorder, torch.device("meta"):
        layer = nn.Linear(4, 4)
        taken(layer.weight, mean=0.0, std=0.02)
        law = recorder.law(layer.weight)
    assert (law.distribution, law.std) == ("normal", 0.02)


def test_an_init_function_that_a_library_took_from_an_earlier_recorder_is_followed():
    with LawRecorder():
        taken = nn.init.normal_
    with LawRecorder() as recorder, torch.device("meta"):
        layer = nn.Linear(4, 4)
        taken(layer.weight, mean=0.0, std=0.02)
        law = recorder.law(layer.weight)
    assert law.std == 0.02
    assert float(taken(torch.zeros(1000), std=3.0).std()) > 2.5
