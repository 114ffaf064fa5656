"""Which calls load pretrained weights, and which family of the learning-rate table a checkpoint belongs to."""

from __future__ import annotations

import ast
import re

from gradlint.source import arithmetic
from gradlint.source.evaluate import Evaluator
from gradlint.source.index import Scope, location
from gradlint.source.keywords import spread
from gradlint.source.resolve import resolve
from gradlint.source.script import Pretrained
from gradlint.source.things import ClassThing, External, Instance, Member, Plain, Things, Unknown, external_name
from gradlint.source.value import Call

_FAMILIES: tuple[tuple[str, str], ...] = (
    ("speech", r"whisper|wav2vec|hubert|wavlm|data2vec-audio|\bsew\b"),
    ("clip", r"clip|siglip|\balign-"),
    ("vit", r"vit|swin|deit|beit|\bmae\b|dino|eva0?2|cait|pvt|twins|segformer|maxvit|poolformer|xcit|levit|coat"),
    ("t5", r"(?<![a-z])(flan-?|m|by|long|code)?t5|ul2|pegasus|\bbart|mbart|bart\b|prophetnet|marian|opus-mt|nllb|m2m"),
    (
        "decoder-1b",
        r"llama|mistral|mixtral|qwen|falcon|gemma|\bphi-|opt-(1|2|6|13|30|66)|bloom|pythia-(1|2|6|12)|gpt-?j|gpt-neox"
        r"|gpt-neo-(1|2)|baichuan|chatglm|internlm|deepseek|\byi-|vicuna|alpaca|stablelm|starcoder|mpt-|olmo|codegen-(2|6)",
    ),
    ("gpt2", r"gpt|opt-|pythia|bloom-560|codegen|ctrl\b|transfo-xl|xlnet"),
    (
        "bert",
        r"bert|electra|ernie|macbeth|mpnet|longformer|bigbird|big_bird|xlm|minilm|camembert|funnel|layoutlm|deberta"
        r"|sentence|bge-|e5-|gte-",
    ),
    (
        "cnn",
        r"resnet|resnext|resnest|vgg|densenet|efficientnet|mobilenet|inception|alexnet|squeezenet|shufflenet|regnet"
        r"|convnext|nfnet|googlenet|mnasnet|xception|se_?net|dpn|hrnet|darknet|yolo|unet|deeplab|rcnn|retinanet|ssd"
        r"|ghostnet|rexnet|cspnet|wide_resnet|bit_|nasnet|fcn_|fpn|linknet|polynet|cafferesnet",
    ),
)

HEAD_NAME = re.compile(
    r"^(fc\d*|classifier\d*|head\w*|linear\w*|last_linear|out\w*|decoder\w*|proj\w*|cls\w*|mlp\w*|lm_head|dense\w*"
    r"|class\w*|new_\w+|top\w*|pred\w*|score|regressor|heads)$"
)
BACKBONE_NAME = re.compile(
    r"(backbone|bert|encoder|base|features?|resnet|vgg|roberta|transformer|trunk|body|pretrained|cnn|vit|swin|gpt|plm"
    r"|extractor|image_encoder|text_encoder|visual|wav2vec|hubert)"
)
"""Attribute names by which people call the new and the pretrained part of a network."""

_SIZE = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)\s?(b|m)(?![a-z0-9])", re.IGNORECASE)

NOT_MODELS = re.compile(
    r"Tokenizer|Processor|Config\b|Config$|FeatureExtractor|Scheduler|Pipeline|Transform|ImageProcessor|Vocab|Collator"
)
"""Classes whose `from_pretrained` loads no weights that are trained."""

_SWITCHES = ("pretrained", "weights", "encoder_weights", "backbone_weights")
"""Keywords by which constructors are asked for pretrained weights."""

_OFF = frozenset({"", "none", "false", "scratch", "random"})


def family(text: str) -> tuple[str, int | None]:
    """The family of GL501's table and the size in parameters that a name tells of ("other", None if it does not)."""
    lowered = text.lower()
    size = None
    match = _SIZE.search(lowered.replace("_", "-"))
    if match:
        size = int(float(match[1]) * (1e9 if match[2] == "b" else 1e6))
    for name, pattern in _FAMILIES:
        if re.search(pattern, lowered):
            if name == "gpt2" and size is not None and size >= 1e9:
                return "decoder-1b", size
            if name == "decoder-1b" and size is not None and size < 1e9:
                return "gpt2", size
            return name, size
    return "other", size


def pretrained_of(evaluator: Evaluator, thing: Instance) -> Pretrained | None:
    """The pretrained load that made this instance, or None if it starts from random weights."""
    if thing.call is None:
        return None
    name = external_name(thing.cls)
    if name is None:
        match thing.cls:
            case Member(owner=ClassThing(scope=scope), name="from_pretrained"):
                bases = " ".join(evaluator.base_names(scope))
                return _loaded(evaluator, thing, f"{bases} {scope.name}", f"{scope.name}.from_pretrained")
            case ClassThing(scope=scope):
                return _loaded_by_itself(evaluator, thing, scope)
        return None
    last = name.rpartition(".")[2]
    owner = name.rpartition(".")[0].rpartition(".")[2]
    if last == "from_pretrained":
        return None if NOT_MODELS.search(owner) else _loaded(evaluator, thing, owner, name)
    if name.startswith(("torchvision.models", "timm.", "torch.hub.load", "pretrainedmodels", "pytorchcv")) or _switches(
        thing.call
    ):
        return _switched(evaluator, thing, name)
    if name in {"clip.load", "whisper.load_model", "sentence_transformers.SentenceTransformer"}:
        return _loaded(evaluator, thing, name, name)
    return None


def _switches(call: ast.Call) -> bool:
    return any(k.arg in _SWITCHES for k in call.keywords)


def _loaded_by_itself(evaluator: Evaluator, thing: Instance, cls: Scope) -> Pretrained | None:
    """The load of a network that a method `from_pretrained` of the project makes and fills, as that name says."""
    if thing.scope.name != "from_pretrained" or thing.scope.kind != "function":
        return None
    taken = thing.scope.parameters
    named = ast.Name(taken.args[1].arg, ast.Load()) if taken is not None and len(taken.args) > 1 else None
    return _loaded(evaluator, thing, cls.name, f"{cls.name}.from_pretrained", named)


def _checkpoint(call: ast.Call) -> ast.expr | None:
    """The argument of a `from_pretrained` that names the checkpoint."""
    if call.args:
        return call.args[0]
    known = {"pretrained_model_name_or_path", "model_name", "name"}
    return next((k.value for k in call.keywords if k.arg in known), None)


def _loaded(
    evaluator: Evaluator, thing: Instance, owner: str, callee: str, named: ast.expr | None = None
) -> Pretrained:
    assert thing.call is not None
    where = location(thing.scope.file, thing.call)
    named = named or _checkpoint(thing.call)
    values = resolve(evaluator, named, thing.scope, thing.frame)
    checkpoint = next((str(v.value) for v in values.values if isinstance(v.value, str)), None)
    kind, size = family(checkpoint) if checkpoint else ("other", None)
    if kind == "other":
        kind, known = family(owner)
        size = size or known
    arguments = {"0": values} if named is not None else {}
    return Pretrained(kind, Call((callee,), where, arguments), checkpoint, size, not thing.conditional)


def _switched(evaluator: Evaluator, thing: Instance, name: str) -> Pretrained | None:
    """Constructors with `pretrained=`, `weights=`; torchvision's first positional argument is `pretrained`."""
    call = thing.call
    assert call is not None
    where = location(thing.scope.file, call)
    architecture = name.rpartition(".")[2]
    switch: ast.expr | None = None
    spread_switch: Things = ()
    for keyword in call.keywords:
        if keyword.arg in _SWITCHES:
            switch = keyword.value
    if switch is None:
        spread_switch = tuple(t for n in _SWITCHES for t in spread(evaluator, call, n, thing.scope, thing.frame))
    timm = name.endswith("create_model") or name.startswith(("torch.hub.load", "pytorchcv"))
    if timm and call.args:
        which = call.args[1] if name.startswith("torch.hub.load") and len(call.args) > 1 else call.args[0]
        values = resolve(evaluator, which, thing.scope, thing.frame).values
        architecture = next((str(v.value) for v in values if isinstance(v.value, str)), architecture)
        if switch is None and len(call.args) > 1 and name.endswith("create_model"):
            switch = call.args[1]
    elif switch is None and call.args and name.startswith(("torchvision.models", "pretrainedmodels")):
        switch = call.args[0]
    if switch is None and not spread_switch:
        return None
    certain = not thing.conditional
    label: str | None = None
    verdicts: set[bool | None] = set()
    for candidate in spread_switch if switch is None else evaluator.ask(switch, thing.scope, thing.frame):
        match candidate:
            case Plain(value=v):
                on = bool(v.value) and str(v.value).lower() not in _OFF
                verdicts.add(on)
                label = str(v.value) if on and isinstance(v.value, str) else label
            case External(weights) if "Weights" in weights or weights.endswith((".DEFAULT", "_V1", "_V2")):
                verdicts.add(True)
                label = ".".join(weights.split(".")[-2:])
            case Unknown() | Instance() | Member():
                verdicts.add(None)
            case _ if evaluator.plain_of(candidate) is not arithmetic.MISSING:
                verdicts.add(True)
    if True not in verdicts:
        return None
    kind, size = family(architecture)
    if kind == "other":
        kind, size = family(label or name)
    keyword_name = "weights" if label and "." in label else "pretrained"
    shown = f"{architecture} {keyword_name}={label or True}"
    return Pretrained(kind, Call((name,), where), shown, size, certain and verdicts == {True})
