"""Activations and names that a model spells out, as what they are."""

import pytest

from tests.source.reader.test_entrances import graphs_of, ops

NET = """
    import numpy as np

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.a, self.b = nn.Linear(4, 8), nn.Linear(8, 2)

        def forward(self, x):
            h = self.a(x)
            {body}
            return self.b(h)

    net = Net()
"""


def read(body: str) -> list[str]:
    (graph,) = graphs_of(NET.format(body=body.replace("\n", "\n            ")))
    return ops(graph)[1:-1]


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ("h = h.clamp(min=0)", "relu"),
        ("h = torch.clamp(h, 0, 6)", "relu6"),
        ("h = torch.clamp_min(h, 0)", "relu"),
        ("h = torch.maximum(h, torch.zeros_like(h))", "relu"),
        ("h = torch.max(h, torch.tensor(0.0))", "relu"),
        ("h = torch.max(h, 0.2 * h)", "leaky_relu"),
        ("h = h * (h > 0)", "relu"),
        ("h = (h >= 0).float() * h", "relu"),
        ("h = torch.where(h > 0, h, torch.zeros_like(h))", "relu"),
        ("h = torch.where(h > 0, h, 0.1 * h)", "leaky_relu"),
        ("h = h * torch.sigmoid(h)", "silu"),
        ("h = 1 / (1 + torch.exp(-h))", "sigmoid"),
        ("p, q = torch.exp(h), torch.exp(-h)\nh = (p - q) / (p + q)", "tanh"),
        ("torch.relu_(h)", "relu"),
        ("F.relu(h, inplace=True)", "relu"),
        ("g = eval('h')\nh = torch.tanh(g)", "tanh"),
    ],
)
def test_a_written_out_activation_is_read_as_what_it_is(body, wanted):
    assert read(body) == [wanted]


@pytest.mark.parametrize(
    "body",
    [
        "h = h.clamp(min=1e-6)",
        "h = h * (h > 0.5)",
        "h = h * (x.mean() > 0)",
        "h = torch.where(h > 0, h, -h)",
        "h = torch.maximum(h, h.mean())",
        "h = 1 / (2 + torch.exp(-h))",
    ],
)
def test_what_is_no_rectifier_is_not_read_as_one(body):
    assert not {"relu", "relu6", "leaky_relu", "sigmoid"} & set(read(body))


def test_a_layer_that_eval_names_is_followed():
    (graph,) = graphs_of("""
        class Net(nn.Module):
            def __init__(self):
                super().__init__()
                self.fc0, self.fc1 = nn.Linear(4, 4), nn.Linear(4, 4)

            def forward(self, x):
                for i in range(2):
                    x = torch.tanh(eval(f"self.fc{i}")(x))
                return x
        """)
    assert ops(graph) == ["linear", "tanh"] * 2


@pytest.mark.parametrize(
    "start",
    [
        'if "Linear" in str(type(m)):\n        nn.init.normal_(m.weight, std=0.5)',
        "if isinstance(m, nn.Linear):\n        m.weight.data = torch.from_numpy(0.5 * np.random.randn(8, 4))",
    ],
)
def test_a_law_behind_the_text_of_a_class_or_in_numpy_is_known(start):
    init = "    def start(m):\n    " + start.replace("\n    ", "\n        ").replace("if", "    if", 1)
    (graph,) = graphs_of(NET.format(body="h = torch.relu(h)") + "\n" + init + "\n\n    net.apply(start)\n")
    assert {p.law.std for p in graph.parameters if p.name.endswith("weight")} == {0.5}
