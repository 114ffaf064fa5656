"""Which outside names make networks, and which are bases of module classes."""

from __future__ import annotations

import re
from functools import lru_cache

from gradlint.source.pretrained import NOT_MODELS
from gradlint.source.things import Thing, external_name

MAX_NAMES = 4_096
"""Outside names whose meaning is kept: a project calls a few hundred, over and over."""

RECURRENT = frozenset({"RNN", "LSTM", "GRU", "RNNCell", "LSTMCell", "GRUCell", "RNNBase", "RNNCellBase"})

_MODULE_BASES = re.compile(
    r"(^|\.)(Module|Sequential|ModuleList|LightningModule|PreTrainedModel|\w*PreTrainedModel|ModelMixin|FairseqModel"
    r"|MessagePassing|\w+For\w+|\w*Model|Policy|TorchModelV2|nn\.\w+)$"
)

_NOT_MODULES = re.compile(
    r"pydantic|BaseModel|django|sqlalchemy|keras|tensorflow|mongoengine|peewee|torch\.utils\.data|sklearn|abc\.ABC"
    r"|optim|Loss$|autograd\.Function|Dataset|TrainerCallback|threading"
)

_NOT_A_LAYER = re.compile(
    r"Loss$|^(Parameter|ParameterList|ParameterDict|Module|init|utils|functional|Buffer|UninitializedParameter)$"
    r"|ReLU|Sigmoid|Tanh|Softmax|^GELU|^ELU|SiLU|Dropout|Pool|Flatten|Identity|Upsample|Pad|Similarity|^Unfold|^Fold"
    r"|PixelShuffle|PairwiseDistance|DataParallel|ModuleList|ModuleDict|Norm"
)

MODEL_LIBRARIES = (
    "torchvision.models.",
    "timm.create_model",
    "timm.models.",
    "torch.hub.load",
    "segmentation_models_pytorch.",
    "efficientnet_pytorch.EfficientNet",
    "pretrainedmodels.",
    "peft.",
    "sentence_transformers.SentenceTransformer",
    "torch_geometric.nn.",
    "monai.networks.",
    "torchaudio.models.",
    "whisper.load_model",
    "open_clip.create_model",
    "pytorchcv.model_provider",
    "clip.load",
    "diffusers.",
    "geffnet.create_model",
    "pytorch_pretrained_bert.",
    "pytorch_transformers.",
    "transformers.",
)

_TRANSFORMERS_MODEL = re.compile(r"(Model|For[A-Z]\w+|LMHead\w*|PreTrainedModel|Encoder|Decoder|UNet\w*|\w*VAE)\w*$")


_TIMM_HELPER = re.compile(
    r"timm\.models\.(?:layers|helpers|registry|features|_\w+)\.(?!create_model$)"
    r"|\.(?:safe_model_name|is_model\w*|list_\w+|load_\w+|resume_\w+|model_parameters|convert_\w+|apply_\w+"
    r"|register_\w+|model_entrypoint|get_\w+|clean_\w+|freeze|unfreeze|named_apply|adapt_\w+|checkpoint_seq)$"
)


def is_timm_helper(name: str) -> bool:
    """Whether an outside name is a function or layer of timm's that makes no network of its own."""
    return _TIMM_HELPER.search(name) is not None


@lru_cache(MAX_NAMES)
def is_model_name(name: str) -> bool:
    """Whether calling this outside name constructs a network with weights."""
    owner, _, last = name.rpartition(".")
    if name.startswith("torch.nn.") and owner in {"torch.nn", "torch.nn.modules"}:
        return last[:1].isupper() and not _NOT_A_LAYER.search(last)
    if not name.startswith(MODEL_LIBRARIES):
        return False
    if name.startswith("torchvision.models."):
        return last != "Weights" and "Weights" not in name
    if name.startswith(("transformers.", "diffusers.", "pytorch_pretrained_bert.", "pytorch_transformers.", "peft.")):
        if last == "get_peft_model":
            return True
        cls = owner.rpartition(".")[2] if last in {"from_pretrained", "from_config"} else last
        return bool(_TRANSFORMERS_MODEL.search(cls)) and not NOT_MODELS.search(cls) and cls[:1].isupper()
    if name.startswith(("timm.", "geffnet")):
        return last == "create_model" or (name.startswith("timm.models.") and not is_timm_helper(name))
    return True


@lru_cache(MAX_NAMES)
def is_module_base(name: str) -> bool:
    """Whether a class with this outside base is a torch.nn.Module."""
    return bool(_MODULE_BASES.search(name)) and not _NOT_MODULES.search(name)


def is_recurrent_name(thing: Thing) -> bool:
    """Whether calling a thing makes a recurrent layer of torch.nn."""
    name = external_name(thing)
    return name is not None and name.startswith("torch.nn") and name.rpartition(".")[2] in RECURRENT
