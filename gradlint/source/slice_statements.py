"""Which statements of one scope a set of names depends on."""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass, field

from gradlint.source.slice_names import (
    FUNCTIONS,
    blocks_of,
    dotted,
    header_of,
    is_compound,
    names_bound,
    names_read,
    place,
    targets_of,
)
from gradlint.source.slice_scopes import Scopes
from gradlint.source.walking import walk

Position = tuple[int, int]

_DATA = re.compile(
    r"^(torchvision\.datasets\.|torchtext\.|torchaudio\.datasets\.|datasets\.load_|sklearn\.datasets\.|keras\.datasets"
    r"|tensorflow_datasets\.|pandas\.read_|numpy\.(load|genfromtxt|loadtxt)$|urllib\.|requests\.|wget\.|torch_geometric\."
    r"datasets\.|medmnist\.|ogb\.|cv2\.|PIL\.|kagglehub\.|huggingface_hub\.|wandb\.|mlflow\.|pickle\.load)"
)
_DATA_NAMES = frozenset(["DataLoader", "load_dataset", "ImageFolder", "random_split", "SummaryWriter", "get_loaders"])
_NOISE = frozenset(
    [
        "to",
        "cuda",
        "cpu",
        "train",
        "eval",
        "parameters",
        "zero_grad",
        "forward",
        "fit",
        "share_memory",
        "half",
        "save",
        "compile",
        "step",
        "backward",
        "print",
        "summary",
        "test",
        "validate",
        "evaluate",
        "state_dict",
        "close",
        "info",
        "log",
        "write",
        "watch",
        "save_pretrained",
        "push_to_hub",
        "generate",
        "predict",
        "score",
        "join",
        "start",
    ]
)
_INITIALISES = re.compile(
    r"(init|freeze|requires_grad|replace|convert|load_|prune|_norm$|copy_|tie|resize|reset)", re.I
)
_INITIALISING_BODY = re.compile(
    r"(nn\.init\.|\binit\.|requires_grad|\.(normal_|uniform_|fill_|zero_|copy_|constant_)\(|\.data\b|load_state_dict|\.apply\()"
)
_TRAINING_BODY = re.compile(r"\.(backward|step)\(")
_MAX_ROUNDS = 12
_ONCE = -2
_IMPORTS = (ast.Import, ast.ImportFrom)


@dataclass
class Selection:
    """The statements to run of one scope.

    `kept` holds (statement, positions of the kept statements inside it, empty for all). `unknown` are names whose
    value only the data know, with the expression that would have told. `needed` are the names that are read. `early`
    are the names of a module that are bound before its models are made.
    """

    kept: list[tuple[ast.stmt, tuple[Position, ...]]] = field(default_factory=list)
    unknown: dict[Position, tuple[list[str], str]] = field(default_factory=dict)
    needed: set[str] = field(default_factory=set)
    shared: set[str] = field(default_factory=set)
    early: frozenset[str] | None = None


def select(scopes: Scopes, body: list[ast.stmt], needed: set[str], stop: int, models: set[str]) -> Selection:
    """The statements before line `stop` that `needed` depends on, definitions anywhere in the scope included.

    `models` are names that hold models: of what is done to them only initialisation, freezing and surgery
    are kept, not training.
    """
    selection = Selection(needed=set(needed))
    if body is scopes.module.body:
        before = (s for s in body if s.lineno < stop or isinstance(s, (*FUNCTIONS, ast.ClassDef, *_IMPORTS)))
        selection.early = frozenset().union(*(names_bound(s) for s in before))
    for _ in range(_MAX_ROUNDS):
        known = len(selection.needed)
        selection.kept, selection.unknown, selection.shared = [], {}, set()
        for statement in body:
            inner = _keep(scopes, statement, selection, stop, models)
            if inner is not None:
                selection.kept.append((statement, inner))
        if len(selection.needed) == known:
            break
    return selection


def is_definition(statement: ast.stmt) -> bool:
    """Whether a statement defines a function or a class, or imports something."""
    return isinstance(statement, (*FUNCTIONS, ast.ClassDef, *_IMPORTS))


def position(statement: ast.stmt) -> Position:
    """What identifies a statement in its file."""
    return statement.lineno, statement.col_offset


def _keep(
    scopes: Scopes, statement: ast.stmt, selection: Selection, stop: int, models: set[str]
) -> tuple[Position, ...] | None:
    """The kept positions inside a kept statement (empty: all of it); None when it is left out."""
    needed = selection.needed
    match statement:
        case ast.Import() | ast.ImportFrom():
            star = any(a.name == "*" for a in statement.names)
            future = isinstance(statement, ast.ImportFrom) and statement.module == "__future__"
            return () if star or (not future and names_bound(statement) & needed) else None
        case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
            if statement.name not in needed:
                return None
            needed |= names_read(statement)
            return ()
        case ast.Global(names=names):
            selection.shared.update(names)
            return None
    if statement.lineno >= stop and not _bound_late(statement, selection):
        return None
    if is_compound(statement):
        return _keep_compound(scopes, statement, selection, stop, models)
    if _matters(scopes, statement, needed, models):
        told = _data_call(scopes, statement)
        if told is not None:
            names = sorted(n for n in names_bound(statement) if not n.startswith("self."))
            if names:
                selection.unknown[position(statement)] = (names, told)
            return () if names else None
        needed |= names_read(statement)
        return ()
    return None


def _bound_late(statement: ast.stmt, selection: Selection) -> bool:
    """`Tensor = torch.FloatTensor` below the models, which their functions read when they are called."""
    if selection.early is None or not isinstance(statement, (ast.Assign, ast.AnnAssign)):
        return False
    bound = names_bound(statement)
    plain = all(isinstance(t, ast.Name) for t in targets_of(statement))
    return plain and bool(bound & selection.needed) and not bound & selection.early


def _keep_compound(
    scopes: Scopes, statement: ast.stmt, selection: Selection, stop: int, models: set[str]
) -> tuple[Position, ...] | None:
    loop = isinstance(statement, (ast.For, ast.AsyncFor, ast.While))
    trains = loop and bool(_TRAINING_BODY.search(ast.unparse(statement)))
    if trains and not names_bound(statement) & models:
        return None
    inside: list[Position] = []
    if loop and not trains and _changes_a_model(statement, models & selection.needed):
        selection.needed |= names_read(statement)
        return ()
    for block in blocks_of(statement):
        for inner in block:
            found = _keep(scopes, inner, selection, stop, models)
            if found is not None:
                inside += [position(inner), *found]
                if not found and is_compound(inner):
                    inside += [position(s) for s in walk(inner) if isinstance(s, ast.stmt)]
    if inside and isinstance(statement, ast.Try):
        # Whether a package can be imported decides between the body and its handlers.
        inside += [position(s) for s in statement.body if isinstance(s, _IMPORTS)]
    header = names_bound(statement) if isinstance(statement, (ast.With, ast.AsyncWith)) else set()
    if not inside and not (header & selection.needed):
        return None
    for part in header_of(statement):
        selection.needed |= names_read(part)
    if trains:
        # A model is made in it, for each fold of a cross-validation: one is enough.
        inside.append((statement.lineno, _ONCE))
    return tuple(dict.fromkeys(inside)) or ((-1, -1),)


def _changes_a_model(loop: ast.stmt, models: set[str]) -> bool:
    """`for p in net.parameters(): p.requires_grad = False` and its kind."""
    header = set().union(*(names_read(h) for h in header_of(loop))) if header_of(loop) else set()
    return bool(header & models) and bool(
        _INITIALISING_BODY.search(ast.unparse(loop))
        or re.search(r"setattr|dropout|\.p\b|weight|bias", ast.unparse(loop))
    )


def _matters(scopes: Scopes, statement: ast.stmt, needed: set[str], models: set[str]) -> bool:
    targets = targets_of(statement)
    if targets:
        return any(place(t) in needed or (place(t) == "self" and "self" in needed) for t in targets) or bool(
            names_bound(statement) & needed
        )
    if isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        return _call_matters(scopes, statement.value, needed, models)
    if isinstance(statement, ast.Delete):
        return any(place(t) in needed & models and not isinstance(t, ast.Name) for t in statement.targets)
    return bool(names_bound(statement) & needed)


def _call_matters(scopes: Scopes, call: ast.Call, needed: set[str], models: set[str]) -> bool:
    last = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if last in _NOISE:
        return False
    if last in ("seed", "manual_seed", "set_default_dtype"):
        return False
    if last == "__init__" and isinstance(call.func, ast.Attribute) and dotted(call.func.value) != "self":
        # What the class does not set itself may come from its bases.
        return any(n.startswith("self.") for n in needed)
    root = place(call.func.value) if isinstance(call.func, ast.Attribute) else ""
    if root and root in needed and root != "self" and root not in scopes.imports:
        return True
    handed = {place(a) for a in (*call.args, *(k.value for k in call.keywords))} & needed
    if not handed:
        return False
    if _INITIALISES.search(dotted(call.func)) or scopes.qualified(call.func).startswith("torch.nn.init"):
        return True
    definition = next((s for s in scopes.all if s.function and s.name == last), None)
    if definition is None or definition.function is None:
        return False
    text = ast.unparse(definition.function)
    return bool(handed & models and _INITIALISING_BODY.search(text) and not _TRAINING_BODY.search(text))


def _data_call(scopes: Scopes, statement: ast.stmt) -> str | None:
    """The call that makes an assignment one of data, as text."""
    value = getattr(statement, "value", None)
    if not isinstance(value, ast.Call) or isinstance(value.func, FUNCTIONS):
        return None
    name = scopes.qualified(value.func)
    last = name.rpartition(".")[2]
    return last if _DATA.match(name) or last in _DATA_NAMES else None
