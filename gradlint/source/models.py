"""Model classes and instances of a script: what they are, what recurs in them, what is pretrained and frozen."""

from __future__ import annotations

import ast
import re

from gradlint.source.candidates import origin_of
from gradlint.source.checkpoints import checkpoint_of
from gradlint.source.evaluate import Evaluator
from gradlint.source.frozen import frozen_parts
from gradlint.source.index import CallSite, FileIndex, Scope, location, source_of, terminal_name
from gradlint.source.parts import Parts
from gradlint.source.pretrained import NOT_MODELS, pretrained_of
from gradlint.source.recurrence import handwritten
from gradlint.source.script import Model, ModelClass, Pretrained, Recurrence
from gradlint.source.things import (
    ClassThing,
    External,
    Frame,
    Group,
    Instance,
    Items,
    Member,
    Thing,
    Things,
    external_name,
)

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
        return last == "create_model" or name.startswith("timm.models.")
    return True


class Models:
    """The model classes and instances that a script speaks of; each construction is one `Model`."""

    def __init__(self, evaluator: Evaluator) -> None:
        self.evaluator = evaluator
        self._classes: dict[int, bool] = {}
        self._made: dict[int, ModelClass] = {}
        self._models: dict[tuple[int, int], Model] = {}
        self._recurrences: dict[tuple[int, int], Recurrence | None] = {}
        self.parts = Parts(self)

    # -- classes -------------------------------------------------------------------------------------------

    def is_module(self, scope: Scope) -> bool:
        """Whether a project class is a torch.nn.Module."""
        known = self._classes.get(id(scope))
        if known is None:
            self._classes[id(scope)] = False
            with self.evaluator.question():
                names = self.evaluator.base_names(scope)
            known = any(_MODULE_BASES.search(n) and not _NOT_MODULES.search(n) for n in names)
            if not known and not names and isinstance(scope.node, ast.ClassDef):
                # A base that is out of reach; a forward() beside layers tells it.
                known = bool(scope.node.bases) and any(c.method("forward") for c in self.evaluator.mro(scope))
            self._classes[id(scope)] = known
        return known

    def model_class(self, scope: Scope) -> ModelClass:
        """The facts of a module class."""
        found = self._made.get(id(scope))
        if found is None:
            bases = tuple(self.evaluator.base_names(scope))
            layers = {}
            for name, bindings in scope.attributes.items():
                value = bindings[0].value
                if isinstance(value, ast.Call) and bindings[0].scope is not None:
                    for thing in self.evaluator.ask(value.func, bindings[0].scope):
                        qualified = external_name(thing)
                        if qualified and qualified.startswith("torch.nn"):
                            layers[name] = qualified
            module = scope.file.module
            found = self._made[id(scope)] = ModelClass(
                name=scope.name,
                qualified_name=f"{module}.{scope.qualified_name}" if module else scope.qualified_name,
                location=location(scope.file, _header(scope.node)),
                bases=bases,
                recurrence=self.recurrence_of_class(scope, None),
                pretrained=self.pretrained_of_class(scope, None),
                layers=layers,
            )
        return found

    def recurrence_of_class(self, scope: Scope, frame: Frame | None, depth: int = 0) -> Recurrence | None:
        """The recurrent layers in a class, its bases and the project classes it is made of."""
        key = (id(scope), id(frame))
        if key in self._recurrences:
            return self._recurrences[key]
        self._recurrences[key] = None
        kinds: list[str] = []
        places = []
        evaluator = self.evaluator
        for cls in evaluator.mro(scope):
            for site in cls.all_calls():
                callee = terminal_name(site.node.func)
                if depth > 6 or not _may_construct(site, callee):
                    continue
                inside = frame if frame is not None and site.scope is frame.function else None
                with evaluator.question():
                    things = evaluator.evaluate(site.node.func, site.scope, inside)
                    if any(_is_recurrent_name(t) or isinstance(t, ClassThing) for t in things) and evaluator.dead(
                        site.path, site.scope, inside
                    ):
                        continue
                for thing in things:
                    name = external_name(thing) or ""
                    if _is_recurrent_name(thing):
                        kinds.append(name.rpartition(".")[2])
                        places.append(location(site.scope.file, site.node))
                    elif isinstance(thing, ClassThing) and thing.scope not in evaluator.mro(scope):
                        if not self.is_module(thing.scope):
                            continue
                        part = self.recurrence_of_class(
                            thing.scope, self._inner_frame(thing.scope, site, inside), depth + 1
                        )
                        if part is not None:
                            kinds += part.kinds
                            places += part.locations
            place = handwritten(evaluator, cls)
            if place is not None:
                kinds.append("hand-written")
                places.append(place)
            for base in evaluator.base_names(cls):
                if base.startswith("torch.nn") and base.rpartition(".")[2] in RECURRENT:
                    kinds.append(base.rpartition(".")[2])
                    places.append(location(cls.file, _header(cls.node)))
        found = Recurrence(tuple(dict.fromkeys(kinds)), tuple(dict.fromkeys(places))) if kinds else None
        self._recurrences[key] = found
        return found

    def _inner_frame(self, scope: Scope, site: CallSite, outer: Frame | None) -> Frame | None:
        init = scope.method("__init__")
        if init is None:
            return None
        receiver = Instance(ClassThing(scope), site.node, site.scope, outer)
        return self.evaluator.frame_for(receiver, init, scope)

    def pretrained_of_class(self, scope: Scope, frame: Frame | None, depth: int = 0) -> Pretrained | None:
        """The pretrained load inside a class: assigned to `self`, in `__init__` or what it is made of."""
        evaluator = self.evaluator
        for cls in evaluator.mro(scope):
            for site in cls.all_calls():
                callee = terminal_name(site.node.func)
                if depth > 5 or (not _may_load(site, callee) and not callee[:1].isupper()):
                    continue
                inside = frame if frame is not None and site.scope is frame.function else None
                for thing in evaluator.ask(site.node, site.scope, inside):
                    if not isinstance(thing, Instance):
                        continue
                    found = None
                    if isinstance(thing.cls, ClassThing):
                        inner = thing.cls.scope
                        if inner in evaluator.mro(scope) or not self.is_module(inner):
                            continue
                        found = self.pretrained_of_class(inner, self._inner_frame(inner, site, inside), depth + 1)
                    elif is_model_name(external_name(thing.cls) or "") or isinstance(thing.cls, Member):
                        found = pretrained_of(evaluator, thing)
                    if found is not None:
                        if evaluator.dead(site.path, site.scope, inside):
                            continue
                        unsure = any(b.kind in {"if", "case"} for b in site.path) and not evaluator.taken(
                            tuple(b for b in site.path if b.kind == "if"), site.scope, inside
                        )
                        if unsure and found.certain:
                            found = Pretrained(found.family, found.call, found.name, found.size, False)
                        return found
        return None

    # -- instances -----------------------------------------------------------------------------------------

    def is_model(self, thing: Thing) -> bool:
        """Whether a thing is a network."""
        match thing:
            case Instance(cls=ClassThing(scope)):
                return self.is_module(scope)
            case Instance(cls=Member(owner=ClassThing(scope), name=name)) if name.startswith(("from_", "load_")):
                return self.is_module(scope)
            case Instance(cls=cls):
                name_ = external_name(cls) if not isinstance(cls, Instance) else None
                return name_ is not None and is_model_name(name_)
        return False

    def of(self, things: Things) -> tuple[Model, ...]:
        """The models among things: themselves, the owners of their parts, the elements of containers."""
        found: list[Model] = []
        for root in self.roots(things):
            found.append(self.model(root))
        return tuple(dict.fromkeys(found))

    def roots(self, things: Things, depth: int = 0) -> list[Instance]:
        """The instances that `of` speaks of."""
        found: list[Instance] = []
        for thing in things:
            match thing:
                case Instance() if self.is_model(thing):
                    found.append(thing)
                case Member(owner=owner) if depth < 6:
                    found.extend(self.roots((owner,), depth + 1))
                case Group(elements) if depth < 6:
                    found.extend(r for e in elements for r in self.roots(e, depth + 1))
                case Items() if depth < 4:
                    found.extend(self.roots(self.evaluator.elements(thing), depth + 1))
        return found

    def model(self, root: Instance) -> Model:
        """The `Model` of a construction."""
        cls = _class_scope(root)
        key = (root.key, id(cls) if cls is not None else hash(external_name(root.cls)))
        found = self._models.get(key)
        if found is None:
            found = self._models[key] = self._describe(root)
        return found

    def _describe(self, root: Instance) -> Model:
        evaluator = self.evaluator
        scope = _class_scope(root)
        place = origin_of(root)
        assert place is not None
        adapter = None
        inner = root
        if external_name(root.cls) in {"peft.get_peft_model", "peft.PeftModel.from_pretrained"}:
            adapter = "lora"
            wrapped = root.call.args[0] if root.call and root.call.args else None
            if wrapped is not None:
                bases = self.roots(evaluator.ask(wrapped, root.scope, root.frame))
                inner = bases[0] if bases else root
                scope = _class_scope(inner)
        name = variable_of(root) or (scope.name if scope else terminal_name(root.call.func) if root.call else "model")
        classes = (self.model_class(scope).qualified_name,) if scope is not None else (external_name(root.cls) or "",)
        text = source_of(root.scope.file, root.call) if root.call is not None else ""
        return Model(
            name=name,
            classes=classes,
            location=place if root.call is not None else location(root.scope.file, _header(root.scope.node)),
            expression=text,
            model_class=self.model_class(scope) if scope is not None else None,
            recurrence=self.recurrence(inner),
            pretrained=self.pretrained(inner),
            frozen=tuple(frozen_parts(evaluator, root, self)),
            adapter=adapter,
            scope=root.scope.qualified_name if root.call is not None else "",
            candidates=root.conditional,
        )

    def recurrence(self, root: Instance, depth: int = 0) -> Recurrence | None:
        """What recurs in an instance: in its class, or in the models it is given."""
        parts: list[Recurrence] = []
        name = external_name(root.cls) or ""
        if _is_recurrent_name(root.cls) and root.call is not None:
            parts.append(Recurrence((name.rpartition(".")[2],), (location(root.scope.file, root.call),)))
        scope = _class_scope(root)
        if scope is not None:
            init = scope.method("__init__")
            frame = self.evaluator.frame_for(root, init, scope) if init is not None and root.call is not None else None
            own = self.recurrence_of_class(scope, frame)
            if own is not None:
                parts.append(own)
        if depth < 4:
            parts += [r for r in (self.recurrence(a, depth + 1) for a in self._given(root)) if r is not None]
        if not parts:
            return None
        kinds = tuple(dict.fromkeys(k for p in parts for k in p.kinds))
        return Recurrence(kinds, tuple(dict.fromkeys(x for p in parts for x in p.locations)))

    def pretrained(self, root: Instance, depth: int = 0) -> Pretrained | None:
        """The checkpoint that an instance's weights come from: its own load, its class's, or a part's."""
        found = pretrained_of(self.evaluator, root)
        if found is not None:
            return found
        scope = _class_scope(root)
        if scope is not None:
            init = scope.method("__init__")
            frame = self.evaluator.frame_for(root, init, scope) if init is not None and root.call is not None else None
            found = self.pretrained_of_class(scope, frame)
            if found is not None and found.certain:
                return found
        for part in self._given(root) if depth < 4 else ():
            given = self.pretrained(part, depth + 1)
            if given is not None and (found is None or given.certain):
                return given
        return found or checkpoint_of(self.evaluator, root, variable_of(root))

    def _given(self, root: Instance) -> list[Instance]:
        """The models among an instance's constructor arguments."""
        if root.call is None:
            return []
        found: list[Instance] = []
        for argument in (*root.call.args, *(k.value for k in root.call.keywords)):
            if isinstance(argument, (ast.Name, ast.Attribute, ast.Call, ast.List, ast.Starred)):
                # A size read off another model (`resnet.fc.in_features`) does not hand over its weights.
                things = self.evaluator.ask(argument, root.scope, root.frame)
                found += self.roots(tuple(t for t in things if not isinstance(t, Member)))
        return [f for f in found if f.key != root.key]

    def constructed_in(self, index: FileIndex) -> list[Model]:
        """The models that a file constructs outside of module classes, in source order."""
        found: list[Model] = []
        inner: set[int] = set()
        for scope in index.scopes:
            owner: Scope | None = scope
            while owner is not None and not (owner.kind == "class" and self.is_module(owner)):
                owner = owner.parent
            if owner is not None:
                continue
            for site in scope.calls:
                if id(site.node) in inner:
                    continue
                roots = [t for t in self._constructs(site) if self.is_model(t)]
                roots = [r for r in roots if isinstance(r, Instance) and r.call is site.node]
                if roots:
                    inner.update(id(n) for n in ast.walk(site.node))
                    if not self.parts.is_part(site):
                        found.extend(self.model(r) for r in roots if isinstance(r, Instance))
        return found

    def _constructs(self, site: CallSite) -> Things:
        callees = self.evaluator.ask(site.node.func, site.scope)
        made: list[Thing] = []
        for callee in callees:
            if isinstance(callee, (ClassThing, External)) or (
                isinstance(callee, Member) and isinstance(callee.owner, (ClassThing, External))
            ):
                made.append(Instance(callee, site.node, site.scope))
        return tuple(made)


def variable_of(root: Instance) -> str | None:
    """The variable or attribute that the construction is assigned to."""
    if root.call is None:
        return None
    wanted = {id(root.call)}
    for table in (root.scope.bindings, root.scope.stores):
        for name, bindings in table.items():
            for binding in bindings:
                if (
                    binding.value is not None
                    and not binding.unpack
                    and (id(binding.value) in wanted or _chained(binding.value, root.call))
                ):
                    return name
    return None


def _chained(value: ast.expr, call: ast.Call) -> bool:
    """`Net().to(device)`, `DataParallel(Net())`: the construction inside what is assigned."""
    for _ in range(4):
        match value:
            case ast.Call(func=ast.Attribute(value=ast.Call() as inner)):
                value = inner
            case ast.Call(args=[ast.Call() as inner, *_]):
                value = inner
            case _:
                return False
        if value is call:
            return True
    return False


def _class_scope(root: Instance) -> Scope | None:
    match root.cls:
        case ClassThing(scope):
            return scope
        case Member(owner=ClassThing(scope)):
            return scope
    return None


def _header(node: ast.AST) -> ast.AST:
    """A node that spans the line of a `class` statement only."""
    header = ast.Pass()
    header.lineno = header.end_lineno = getattr(node, "lineno", 1)
    header.col_offset = getattr(node, "col_offset", 0)
    header.end_col_offset = header.col_offset + len("class ") + len(getattr(node, "name", ""))
    return header


def _is_recurrent_name(thing: Thing) -> bool:
    name = external_name(thing)
    return name is not None and name.startswith("torch.nn") and name.rpartition(".")[2] in RECURRENT


def _may_construct(site: CallSite, callee: str) -> bool:
    return callee[:1].isupper() or callee == "" or callee in site.scope.bindings or "rnn" in callee.lower()


def _may_load(site: CallSite, callee: str) -> bool:
    return (
        callee in {"from_pretrained", "create_model", "load", "get_model"}
        or any(k.arg in {"pretrained", "weights", "encoder_weights"} for k in site.node.keywords)
        or "pretrained" in site.scope.words
        or "models" in site.scope.words
    )
