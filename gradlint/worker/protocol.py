"""What the two sides of the process boundary say to each other: one JSON object a line.

Standard library only. The parent decodes answers with msgspec into these types; nothing is ever unpickled.

A *session* is one child process for one model. The parent sends a `ModelJob`, the child answers `Built` or
`Failed`; then the parent may send `ProbeJob`s, answered by `Probed` or `Failed`, until it closes the pipe.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from gradlint.graph.model import Loss, ModelGraph
from gradlint.location import Location
from gradlint.probe.experiment import Experiment, Measurements

VERSION = 1


@dataclass(frozen=True)
class SliceStep:
    """One thing to do on the way to a model, in its scope (0 is the module, others the functions on the way).

    `action` is
    - "run": run the statement that starts at `line`, `column` (as `ast` counts them: from 1, UTF-8 bytes from 0)
      of the file `path` (empty: the slice's own). `keep` lists the starts of the statements inside it to keep;
      empty keeps it whole; (line, -2) says that the loop of that line is to be run once;
    - "scope": begin the scope, with the names of the module visible in it;
    - "share": `name` is global in the scope: what it binds there, the module sees;
    - "bind": evaluate `expression` in the scope `source` and bind it to `name`;
    - "instance": bind `name` to an instance of the class `expression` that is made without its `__init__`;
    - "option": bind `name` to a declared default, the command-line values of `expression` winning;
    - "configuration": bind `name` to the mapping that `expression` holds as JSON, its keys readable as attributes;
    - "unknown": bind `name` to a labelled placeholder.
    """

    action: str
    line: int = 0
    column: int = 0
    scope: int = 0
    keep: tuple[tuple[int, int], ...] = ()
    path: str = ""
    name: str = ""
    expression: str = ""
    source: int = 0


@dataclass(frozen=True)
class Slice:
    """The part of a program that a model depends on.

    `path` is the file, `root` the project root (goes on `sys.path`), `text` the file's text (notebooks: all
    code cells as one module), `keep` the line spans (first, last; 1-based, inclusive) of the statements to run,
    in order, nested ones inside the functions that hold them kept whole. `target` is a Python expression that
    is evaluated last, in the sliced module's namespace, and yields the model ("net", "build(args)"). `argv` are the
    arguments in `sys.argv`. `placeholders` name what had to be invented.
    `steps` says precisely what to run; without steps the top-level statements inside the `keep` spans run, and
    without either the whole text, as an import would. `scope` is the scope in which `target` is evaluated.
    `models` names the variables that hold the model, whose device moves and wrappers are skipped.
    """

    path: str
    root: str
    text: str
    target: str
    keep: tuple[tuple[int, int], ...] = ()
    argv: tuple[str, ...] = ()
    placeholders: tuple[str, ...] = ()
    name: str = ""
    location: Location | None = None
    steps: tuple[SliceStep, ...] = ()
    scope: int = 0
    models: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """What a child may use: wall-clock `seconds` per job, resident `memory` in bytes, CPU threads."""

    seconds: float = 60.0
    memory: int = 8 << 30
    threads: int = 1


@dataclass(frozen=True)
class InputHint:
    """What the source says of the model's input: a data set's sample shape, and what `--input` fixed.

    `spec` is the user's ("1x3x224x224, int64:1x128<30522"); it wins over everything. `law` is "uniform01" where the
    script's transforms leave pixels between 0 and 1.
    """

    spec: str | None = None
    sample: tuple[int, ...] | None = None
    dataset: str | None = None
    law: str | None = None
    loss: Loss = field(default_factory=Loss)


@dataclass(frozen=True)
class ModelJob:
    """Build the model of a slice and trace it.

    `device` is where its probes may run ("auto", "cpu", "cuda", "mps"); on "cpu" the cage shuts graphics drivers out.
    """

    slice: Slice
    hint: InputHint = field(default_factory=InputHint)
    limits: Limits = field(default_factory=Limits)
    seed: int = 0
    device: str = "auto"


@dataclass(frozen=True)
class ProbeJob:
    """Run experiments on the model of this session. `device` is "auto", "cpu", "cuda", "mps"; `autocast` is
    "float16" or "bfloat16" where the script trains under autocast."""

    experiments: tuple[Experiment, ...]
    seeds: int = 3
    seed: int = 0
    device: str = "auto"
    batch_size: int = 32
    optimizer: str | None = None
    learning_rate: float | None = None
    momentum: float = 0.0
    weight_decay: float = 0.0
    loss: Loss = field(default_factory=Loss)
    seconds: float = 60.0
    autocast: str | None = None


@dataclass(frozen=True)
class Built:
    """The model as traced. `output` is what the user's code printed, cut to 4 kB.

    `guarantees` names what the kernel enforced on the child ("landlock", "seccomp", …; see docs/security.md).
    """

    graph: ModelGraph
    seconds: float = 0.0
    output: str = ""
    guarantees: tuple[str, ...] = ()


@dataclass(frozen=True)
class Probed:
    """What was measured."""

    measurements: Measurements
    seconds: float = 0.0


@dataclass(frozen=True)
class Failed:
    """One line that says why, and the stage: slice, build, input, trace, probe, device, limit or internal.

    `traceback` is set for errors that are gradlint's own.
    """

    stage: str
    reason: str
    location: Location | None = None
    traceback: str | None = None
    details: dict[str, Any] = field(default_factory=dict)
