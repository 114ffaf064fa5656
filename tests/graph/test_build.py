"""Building a model: what classes may do to their own methods, when a build is repeated, and checkpoints."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gradlint.worker.client import WorkerPool, find_torch
from gradlint.worker.protocol import Built, Failed, Limits, ModelJob, Slice

pytestmark = [
    pytest.mark.torch,
    pytest.mark.skipif(find_torch() is None, reason="needs torch"),
    pytest.mark.skipif(sys.platform == "win32", reason="a fresh interpreter a model is slow"),
]

NET = (
    "from torch import nn\nclass Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
    "        self.fc = nn.Linear(4, 2)\n    def forward(self, x):\n        return self.fc(x)\n"
)


@pytest.fixture(scope="module")
def pool() -> Iterator[WorkerPool]:
    with WorkerPool() as opened:
        yield opened


def build(pool: WorkerPool, folder: Path, text: str, target: str = "net") -> Built | Failed:
    script = folder / "train.py"
    script.write_text(text)
    sliced = Slice(path=str(script), root=str(folder), text=text, target=target)
    with pool.open(ModelJob(sliced, limits=Limits(30))) as session:
        return session.built


def write(folder: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        for package in path.relative_to(folder).parents:
            if package != Path():
                (folder / package / "__init__.py").touch()


@pytest.mark.parametrize(
    "method",
    [
        "def train(self, loader, epochs):\n        pass",
        "def named_parameters(self):\n        return []",
        "def modules(self):\n        return 3",
        "def named_modules(self):\n        return 3",
        "def state_dict(self, path):\n        return path",
    ],
)
def test_a_class_may_use_the_names_of_modules_for_something_else(pool: WorkerPool, tmp_path: Path, method: str) -> None:
    built = build(pool, tmp_path, f"{NET}    {method}\nnet = Net()\n")
    assert isinstance(built, Built), built
    assert {p.name for p in built.graph.parameters} == {"fc.weight", "fc.bias"}


@pytest.mark.parametrize("name", ["train", "named_parameters", "named_buffers", "forward"])
def test_what_an_override_raises_is_one_line_at_its_line(pool: WorkerPool, tmp_path: Path, name: str) -> None:
    text = f"{NET}    def {name}(self, *args, **kwargs):\n        raise ValueError('not\\nthis')\nnet = Net()\n"
    failed = build(pool, tmp_path, text)
    assert isinstance(failed, Failed)
    assert failed.traceback is None
    assert "not this" in failed.reason and "\n" not in failed.reason
    if name != "forward":
        assert failed.location is not None and failed.location.line == 9


def test_a_module_that_torch_cannot_walk_is_no_error_of_ours(pool: WorkerPool, tmp_path: Path) -> None:
    failed = build(pool, tmp_path, f"{NET}    __hash__ = None\nnet = Net()\n")
    assert isinstance(failed, Failed)
    assert (failed.stage, failed.traceback) == ("build", None)


def test_only_a_build_that_lacked_numbers_is_repeated(pool: WorkerPool, tmp_path: Path) -> None:
    failed = build(pool, tmp_path, "print('ran')\nraise ValueError('the user')\n")
    assert isinstance(failed, Failed)
    assert failed.details["output"].count("ran") == 1
    text = f"import torch\n{NET}print('ran')\nfor size in torch.ones(2).tolist():\n    net = Net()\n"
    built = build(pool, tmp_path, text)
    assert isinstance(built, Built), built
    assert built.output.count("ran") == 2


SHIFTED = """
import torch
from torch import nn
class Shifted(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(4, 4)
        parts = torch.zeros(1, 4)
        parts[:, 2:] = 1
        apart = parts.unsqueeze(1) - parts.unsqueeze(2)
        self.register_buffer("mask", apart.masked_fill(apart != 0, -100.0).masked_fill(apart == 0, 0.0))
    def forward(self, x):
        return (self.layer(x) + self.mask).softmax(-1)
net = Shifted()
"""


def test_a_mask_that_a_constructor_computes_hides_keys_and_is_no_signal(pool: WorkerPool, tmp_path: Path) -> None:
    """Two of four tokens are seen by each of them (the buffer of Liu et al. 2021): Σp² of even weights is 1/2."""
    built = build(pool, tmp_path, SHIFTED)
    assert isinstance(built, Built), built
    (mask,) = [n for n in built.graph.nodes if n.op == "masked_fill"]
    assert mask.attributes["visible"] == pytest.approx(0.5)


def test_packages_between_script_and_root_and_relative_imports_are_found(pool: WorkerPool, tmp_path: Path) -> None:
    write(tmp_path, {"sub/lib/net.py": NET, "sub/lib/jobs/train.py": "from ..net import Net\nnet = Net()\n"})
    (tmp_path / "sub" / "__init__.py").unlink()
    for text in ("from ..net import Net\nnet = Net()\n", "from lib.net import Net\nnet = Net()\n"):
        path = tmp_path / "sub" / "lib" / "jobs" / "train.py"
        sliced = Slice(path=str(path), root=str(tmp_path), text=text, target="net")
        with pool.open(ModelJob(sliced, limits=Limits(30))) as session:
            assert isinstance(session.built, Built), session.built


@pytest.mark.parametrize(
    ("folder", "text"),
    [("nets", "from .parts import Net\nnet = Net()\n"), ("nets", "import nets.parts\nnet = nets.parts.Net()\n")],
)
def test_a_folder_without_init_is_a_package_too(pool: WorkerPool, tmp_path: Path, folder: str, text: str) -> None:
    """Also where a module in it has the folder's own name, which must not stand in for it."""
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "parts.py").write_text(NET)
    (tmp_path / folder / "nets.py").write_text("raise AssertionError('not this one')\n")
    sliced = Slice(path=str(tmp_path / folder / "model.py"), root=str(tmp_path), text=text, target="net")
    (tmp_path / folder / "model.py").write_text(text)
    with pool.open(ModelJob(sliced, limits=Limits(30))) as session:
        assert isinstance(session.built, Built), session.built


def test_a_script_module_is_a_plain_module(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch\nfrom torch import jit, nn\nclass Net(jit.ScriptModule):\n    def __init__(self):\n"
        "        super().__init__()\n        self.fc = nn.Linear(3, 2)\n    @jit.script_method\n"
        "    def forward(self, x):\n        return torch.relu(self.fc(x))\nnet = torch.jit.script(Net())\n"
    )
    built = build(pool, tmp_path, text)
    assert isinstance(built, Built), built
    assert [n.op for n in built.graph.nodes if n.kind in ("linear", "activation")] == ["linear", "relu"]


def test_a_file_whose_name_is_not_known_is_said_to_be_that(pool: WorkerPool, tmp_path: Path) -> None:
    text = f"import missing_package, json\n{NET}with open(missing_package.name) as f:\n    net = Net(json.load(f))\n"
    failed = build(pool, tmp_path, text)
    assert isinstance(failed, Failed)
    assert "the file to open is not known" in failed.reason


TIMM = {
    "timm/__init__.py": "from .models import create_model\n",
    "timm/models/__init__.py": "from ._factory import create_model\n",
    "timm/models/_factory.py": (
        "from torch import nn\nfrom . import _builder\ndef create_model(name, pretrained=False):\n"
        "    assert name == 'resnet18.a1_in1k', name\n    model = nn.Linear(4, 2)\n"
        "    if pretrained:\n        _builder.load_pretrained(model)\n    return model\n"
    ),
    "timm/models/_builder.py": "def load_pretrained(model):\n    raise AssertionError('downloads')\n",
}

TORCHVISION = {
    "torchvision/models/__init__.py": (
        "from torch import nn\nfrom ._api import WeightsEnum\nclass Weights(WeightsEnum):\n    DEFAULT = 1\n"
        "def resnet(weights=None):\n    model = nn.Linear(4, 2)\n"
        "    if weights:\n        model.load_state_dict(weights.get_state_dict(progress=True))\n    return model\n"
    ),
    "torchvision/models/_api.py": (
        "import enum\nclass WeightsEnum(enum.Enum):\n"
        "    def get_state_dict(self, **keywords):\n        raise AssertionError('downloads')\n"
    ),
}

_LOAD = "    @classmethod\n    def from_pretrained(cls, name, **keywords):\n"
TRANSFORMERS = {
    "transformers/__init__.py": (
        "from .models.auto.configuration_auto import AutoConfig\nfrom .models.auto.auto_factory import AutoModel\n"
        "from .models.auto.tokenization_auto import AutoTokenizer\n"
        "from .configuration_utils import BertConfig\nfrom .modeling_utils import BertModel\n"
    ),
    "transformers/configuration_utils.py": (
        f"class PretrainedConfig:\n{_LOAD}        raise OSError('downloads')\n"
        "class BertConfig(PretrainedConfig):\n    model_type = 'bert'\n    vocab_size = 50\n"
        "    def __init__(self, num_labels=2):\n        self.num_labels = num_labels\n"
    ),
    "transformers/modeling_utils.py": (
        "from torch import nn\nfrom .configuration_utils import BertConfig\n"
        f"class PreTrainedModel(nn.Module):\n{_LOAD}        raise AssertionError('downloads')\n"
        "class BertModel(PreTrainedModel):\n    config_class = BertConfig\n    def __init__(self, config):\n"
        "        super().__init__()\n        self.fc = nn.Linear(4, config.num_labels)\n"
        "    def forward(self, x):\n        return self.fc(x)\n"
    ),
    "transformers/models/auto/configuration_auto.py": (
        f"from ...configuration_utils import BertConfig\nclass AutoConfig:\n{_LOAD}        raise OSError('downloads')\n"
        "    @staticmethod\n    def for_model(family, **keywords):\n"
        "        assert family == 'bert'\n        return BertConfig(**keywords)\n"
    ),
    "transformers/models/auto/auto_factory.py": (
        "from ...modeling_utils import BertModel\n"
        f"class _BaseAutoModelClass:\n{_LOAD}        raise AssertionError('downloads')\n"
        "    @classmethod\n    def from_config(cls, config):\n        return BertModel(config)\n"
        "class AutoModel(_BaseAutoModelClass):\n    pass\n"
    ),
    "transformers/models/auto/tokenization_auto.py": (
        f"class AutoTokenizer:\n{_LOAD}        raise AssertionError('downloads')\n"
    ),
}
BERT = "'bert-base-uncased'"


@pytest.mark.parametrize(
    ("package", "text"),
    [
        (TIMM, "import timm\nnet = timm.create_model('hf_hub:timm/resnet18.a1_in1k', pretrained=True)\n"),
        (TORCHVISION, "from torchvision import models\nnet = models.resnet(weights=models.Weights.DEFAULT)\n"),
        (TRANSFORMERS, f"import transformers as t\nnet = t.AutoModel.from_pretrained({BERT}, num_labels=3)\n"),
        (TRANSFORMERS, f"import transformers as t\nnet = t.BertModel.from_pretrained({BERT})\n"),
        (
            TRANSFORMERS,
            f"import transformers as t\nconfig = t.BertConfig.from_pretrained({BERT}, num_labels=3)\n"
            f"words = t.AutoTokenizer.from_pretrained({BERT})\nassert len(words) == words.vocab_size == 50\n"
            f"net = t.BertModel.from_pretrained({BERT}, config=config)\nassert net.fc.out_features == 3\n",
        ),
    ],
)
def test_a_checkpoint_is_its_architecture_marked_pretrained(
    pool: WorkerPool, tmp_path: Path, package: dict[str, str], text: str
) -> None:
    write(tmp_path, package)
    built = build(pool, tmp_path, text)
    assert isinstance(built, Built), built
    assert built.graph.pretrained
    assert {p.law.origin for p in built.graph.parameters if p.law is not None} == {"pretrained"}
    if package is TRANSFORMERS:
        assert any("default configuration of bert" in note for note in built.graph.notes)
        assert not any("left out" in note for note in built.graph.notes)


def test_a_checkpoint_of_no_known_family_and_the_hub_are_refused_with_the_reason(
    pool: WorkerPool, tmp_path: Path
) -> None:
    write(tmp_path, TRANSFORMERS)
    for text, reason in (
        ("import transformers\nnet = transformers.AutoModel.from_pretrained('me/mine')\n", "`me/mine` is not on this"),
        ("import torch\nnet = torch.hub.load('a/b', 'c')\n", "torch.hub runs code from the network"),
    ):
        failed = build(pool, tmp_path, text)
        assert isinstance(failed, Failed)
        assert reason in failed.reason
        assert failed.location is not None and failed.location.line == 2


def test_a_library_does_not_take_a_stub_for_the_package_that_is_missing(pool: WorkerPool, tmp_path: Path) -> None:
    """torch takes its number types from numpy where that can be imported, at the first dropout without data too."""
    library = "def scale():\n    try:\n        import absent\n    except ImportError:\n        return 8\n    return 9\n"
    (tmp_path / "site-packages").mkdir()
    (tmp_path / "site-packages" / "library.py").write_text(library)
    text = (
        "import sys\nfrom pathlib import Path\nimport absent\nimport numpy as np\n"
        "sys.path.append(str(Path(__file__).parent / 'site-packages'))\nimport library\n"
        + NET.replace("self.fc(x)", "self.drop(self.fc(x))").replace(
            "self.fc = nn.Linear(4, 2)", "self.fc, self.drop = nn.Linear(library.scale(), absent.classes), nn.Dropout()"
        )
        + "net = Net()\n"
    )
    answer = build(pool, tmp_path, text)
    assert isinstance(answer, Built), answer
    assert next(p.shape for p in answer.graph.parameters if p.name == "fc.weight") == (10, 8)
    assert answer.graph.traced_by == "recording"


def test_a_text_that_is_begun_empty_and_read_from_a_missing_file_is_not_empty(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "text = ''\nwith open('data/missing.txt') as file:\n    text = file.read()\n"
        "vocabulary = sorted(set(text))\n" + NET.replace("nn.Linear(4, 2)", "nn.Linear(4, len(vocabulary))")
    )
    answer = build(pool, tmp_path, text + "net = Net()\n")
    assert isinstance(answer, Built), answer
    assert next(p.shape for p in answer.graph.parameters if p.name == "fc.weight")[0] > 0
    assert "text" in answer.graph.placeholders


def test_data_that_are_not_there_have_as_many_axes_as_are_asked_for(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "import torch\nfrom absent import load\nx = torch.tensor(load(), dtype=torch.float32)\ny = x.float()\n"
        "rows, columns = y.shape\n" + NET.replace("nn.Linear(4, 2)", "nn.Linear(x.shape[1], columns)") + "net = Net()\n"
    )
    answer = build(pool, tmp_path, text)
    assert isinstance(answer, Built), answer
    assert next(p.shape for p in answer.graph.parameters if p.name == "fc.weight") == (16, 16)


def test_a_vocabulary_that_was_counted_in_missing_data_has_an_invented_size(pool: WorkerPool, tmp_path: Path) -> None:
    text = (
        "from torch import nn\nwords = {}\nwith open('data/missing.txt') as file:\n"
        "    for word in file.read().split():\n        words[word] = len(words)\n"
        "net = nn.Sequential(nn.Embedding(len(words), 8), nn.Linear(8, len(words)))\n"
    )
    answer = build(pool, tmp_path, text)
    assert isinstance(answer, Built), answer
    assert {p.name: p.shape for p in answer.graph.parameters}["1.weight"] == (1000, 8)
    assert "vocabulary" in answer.graph.placeholders and answer.graph.traced_by == "recording"
