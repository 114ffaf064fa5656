"""Traces any model into a ModelGraph: a recorded run on meta tensors, else on real ones, else guessed or symbolic."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gradlint.graph.devices import OnModelDevice
from gradlint.graph.frames import is_user_file, location_of
from gradlint.graph.input_corrections import corrections
from gradlint.graph.input_grammar import InputSpecError, parse_spec
from gradlint.graph.input_search import MAX_ATTEMPTS, candidates
from gradlint.graph.input_values import arguments, described
from gradlint.graph.inputs import ModelInput
from gradlint.graph.lower import Origins, lower
from gradlint.graph.model import ModelGraph, Node
from gradlint.graph.record import Recorder, TooLongError, ValueAskedError
from gradlint.graph.trace_constants import keep_values, values_of
from gradlint.graph.trace_guess import needs_values
from gradlint.graph.trace_lazy import default_laws, is_lazy, lazy_names, sized
from gradlint.graph.trace_parametrized import effective_laws
from gradlint.graph.trace_symbolic import symbolic_graph
from gradlint.location import Location
from gradlint.worker.protocol import InputHint

if TYPE_CHECKING:
    from gradlint.graph.build import BuiltModel

MAX_REAL_PARAMETERS = 300_000_000
"""A model of more parameters is not run for real only to be traced: 1.2 GB in float32."""
SEARCH_SECONDS = 20.0
"""CPU seconds for the search: on a busy machine the same input is found as on an idle one."""
REAL_ATTEMPTS = 3
"""Inputs that are tried on real tensors where none runs on meta."""
_FOLLOWED = 4
"""Corrections after the error of a real run, which takes longer."""


class TraceError(Exception):
    """The model cannot be traced; the message is one line, `location` the user's line that failed."""

    def __init__(self, reason: str, location: Location | None = None) -> None:
        super().__init__(reason)
        self.location = location


@dataclass
class Traced:
    """A traced model.

    `graph` is the plain graph, `module` the module that was traced (on meta, or real), `spec` the inputs it ran on
    (None for a symbolic trace). `names_device`: the forward names an accelerator.
    """

    graph: ModelGraph
    module: nn.Module
    spec: ModelInput | None
    names_device: bool = False

    def inputs(
        self, batch_size: int | None = None, device: str | torch.device = "cpu", seed: int = 0
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """A synthetic batch: arguments and keyword arguments.

        Raises TraceError where no input is known.
        """
        if self.spec is None:
            raise TraceError("no input is known on which the model runs; give one with --input")
        spec = self.spec if batch_size is None else self.spec.sized(batch_size)
        return arguments(spec, device, seed)


@dataclass
class _Run:
    recorder: Recorder
    spec: ModelInput
    module: nn.Module
    traced_by: str


def trace_model(built: BuiltModel, hint: InputHint | None = None) -> Traced:
    """Trace a built model, with inputs after the hint.

    Raises TraceError.
    """
    hint = hint or InputHint()
    factory = built.factory if built.rebuild else None
    laws = {**built.laws, **effective_laws(built.module, built.laws, factory)}
    origins = Origins(laws, built.constructors, built.aliases, built.frozen_by)
    traced = _trace(built.module, hint, origins, built.root, factory)
    if lazy_names(built.module) and built.rebuild is not None and traced.spec is not None:
        built.rebuild = partial(sized, built.rebuild, traced.spec)
    graph = traced.graph
    traced.graph = replace(
        graph,
        name=built.name or graph.name,
        location=built.location,
        notes=(*built.notes, *graph.notes),
        placeholders=tuple(built.placeholders),
        pretrained=built.pretrained,
        loss=graph.loss if graph.loss.inside else hint.loss,
    )
    return traced


def trace_module(
    module: nn.Module,
    args: Sequence[Any] | None = None,
    kwargs: Mapping[str, Any] | None = None,
    *,
    hint: InputHint | None = None,
    origins: Origins | None = None,
    root: str = "",
) -> Traced:
    """Trace a module that exists already, real or on meta, without changing it.

    Without `args` and `kwargs` the inputs are inferred. Init laws come from `origins`, else they are unknown.
    Raises TraceError.
    """
    meta = to_meta(module)
    given = None
    if args is not None or kwargs is not None:
        given = described(args or (), dict(kwargs or {}))
        if given is None:
            raise TraceError("arguments other than tensors cannot be described; pass tensors only")

    def real(seed: int) -> nn.Module:
        if any(p.device.type == "meta" for p in module.parameters()):
            raise TraceError("the module has no data to run on")
        return copy.deepcopy(module)

    return _trace(meta, hint or InputHint(), origins or Origins(), root, real, given)


def to_meta(module: nn.Module) -> nn.Module:
    """A copy of a module whose parameters and buffers take no memory."""
    memo: dict[int, Any] = {}
    for p in module.parameters():
        memo[id(p)] = (
            nn.UninitializedParameter(p.requires_grad, "meta")
            if is_lazy(p)
            else nn.Parameter(torch.empty_like(p, device="meta"), requires_grad=p.requires_grad)
        )
    for b in module.buffers():
        memo[id(b)] = (
            nn.parameter.UninitializedBuffer(device="meta") if is_lazy(b) else torch.empty_like(b, device="meta")
        )
        if not is_lazy(b):
            keep_values(memo[id(b)], b if (held := values_of(b)) is None else held)
    try:
        return copy.deepcopy(module, memo)
    except Exception as error:
        raise TraceError(f"the module cannot be copied: {_line(error)}") from error


# ---- the chain -------------------------------------------------------------------------------------------------


def _trace(
    module: nn.Module,
    hint: InputHint,
    origins: Origins,
    root: str,
    factory: Callable[[int], nn.Module] | None,
    given: ModelInput | None = None,
) -> Traced:
    module.train()
    fixed = given or _given(hint)
    try:
        guesses = (spec.drawn_as(hint.law, hint.sample) for spec in candidates(module, hint.sample))
        run = _search(module, [fixed] if fixed else guesses, root, factory, fixed is not None)
    except TraceError as failure:
        if fixed is not None:
            raise
        return _symbolic(module, origins, failure)
    return _lowered(run, origins)


def _given(hint: InputHint) -> ModelInput | None:
    if not hint.spec:
        return None
    try:
        return parse_spec(hint.spec)
    except InputSpecError as error:
        raise TraceError(str(error)) from error


def _search(
    module: nn.Module,
    specs: Iterable[ModelInput],
    root: str,
    factory: Callable[[int], nn.Module] | None,
    fixed: bool,
) -> _Run:
    """Record the first run that succeeds; a message that asks for other sizes is followed before the next guess."""
    deadline = time.process_time() + SEARCH_SECONDS
    failures: list[tuple[Exception, Location | None]] = []
    tried: set[str] = set()
    first: list[ModelInput] = []
    queue: list[ModelInput] = []
    for spec, recorder, outcome in _attempts(module, specs, root, fixed, tried, queue):
        if outcome is None:
            return _Run(recorder, spec, recorder.model, "recording")
        first = [*first, spec][:REAL_ATTEMPTS]
        if isinstance(outcome, ValueAskedError):
            run = _with_values(module, spec, root, factory)
            if isinstance(run, _Run):
                return run
            failures.append((run, _where(run, root)))
            if not fixed:
                queue[:0] = list(corrections(run, spec))[:_FOLLOWED]
        elif isinstance(outcome, TooLongError):
            raise TraceError(str(outcome)) from outcome
        else:
            failures.append((outcome, _where(outcome, root)))
        if time.process_time() > deadline or len(tried) >= MAX_ATTEMPTS:
            break
    for spec in first:
        # Some kernels have no meta form.
        run = _with_values(module, spec, root, factory, guess=False)
        if isinstance(run, _Run):
            return run
    if not failures:
        raise TraceError("the forward method takes no tensor")
    error, place = failures[0]
    what = "the given input" if fixed else f"any of {len(tried)} inferred inputs; the first failed with"
    raise TraceError(f"the model does not run on {what}: {_line(error)}", place)


def _attempts(
    module: nn.Module, specs: Iterable[ModelInput], root: str, fixed: bool, tried: set[str], queue: list[ModelInput]
) -> Iterator[tuple[ModelInput, Recorder, Exception | None]]:
    """Run each spec, and before the next one what its errors ask for; the caller may put more into the queue."""
    lazy = bool(lazy_names(module))
    for first in specs:
        queue[:] = [first]
        rounds = 0
        while queue and rounds < 24:
            spec = queue.pop(0)
            if repr(spec) in tried:
                continue
            tried.add(repr(spec))
            rounds += 1
            # A lazy module takes its sizes from its first call, the failed ones too.
            recorder = Recorder(to_meta(module) if lazy else module, root)
            outcome = _outcome(recorder, spec, "meta")
            yield spec, recorder, outcome
            if outcome is not None and not fixed:
                following = list(corrections(outcome, spec))
                # A new kind of message means that the correction got further.
                queue[:] = following + queue if rounds == 1 or len(following) < 4 else queue or following
        if fixed:
            wider = first.sized(max(2, first.batch_size or 2))
            if first.batch_size == 1 and repr(wider) not in tried:
                tried.add(repr(wider))
                recorder = Recorder(module, root)
                yield wider, recorder, _outcome(recorder, wider, "meta")


def _outcome(recorder: Recorder, spec: ModelInput, device: str) -> Exception | None:
    """None where the model ran, else what went wrong."""
    args, kwargs = arguments(spec, device)
    try:
        with _random_state(), OnModelDevice(device) as here:
            recorder.run(args, kwargs)
        recorder.names_device = here.replaced
    except (KeyboardInterrupt, MemoryError):
        raise
    except RecursionError as error:
        return error
    except Exception as error:
        if device == "meta" and not isinstance(error, ValueAskedError) and needs_values(error):
            return ValueAskedError(_line(error))
        return error
    return None


class _random_state:  # noqa: N801
    """Leaves the global random state of the CPU as it was."""

    def __enter__(self) -> None:
        self.state = torch.get_rng_state()

    def __exit__(self, *exc: Any) -> None:
        torch.set_rng_state(self.state)


def _with_values(
    module: nn.Module, spec: ModelInput, root: str, factory: Callable[[int], nn.Module] | None, *, guess: bool = True
) -> _Run | Exception:
    """Run a model that asks tensors for their values: for real if it is small enough, else by guesses."""
    failure: Exception | None = None
    if factory is not None and sum(0 if is_lazy(p) else p.numel() for p in module.parameters()) <= MAX_REAL_PARAMETERS:
        try:
            real = factory(0).train()
        except Exception as error:
            failure = error
        else:
            recorder = Recorder(real, root)
            failure = _outcome(recorder, spec, "cpu")
            if failure is None:
                return _Run(recorder, spec, real, "recording (cpu)")
    if not guess:
        return failure or TraceError("too large to run for real")
    recorder = Recorder(module, root, guess=True)
    outcome = _outcome(recorder, spec, "meta")
    if outcome is None:
        return _Run(recorder, spec, module, "recording (guessed)")
    return failure or outcome


def _lowered(run: _Run, origins: Origins) -> Traced:
    origins = replace(origins, laws={**default_laws(run.module, origins.laws), **origins.laws})
    graph = lower(run.recorder.graph, run.module, origins)
    notes = []
    guesses = sorted(set(run.recorder.guesses))
    if guesses:
        notes.append(f"values were guessed for {', '.join(guesses)}")
    graph = replace(
        graph,
        nodes=_drawn_inputs(graph.nodes, run.spec),
        traced_by=run.traced_by,
        confidence="low" if run.traced_by == "recording (guessed)" else "high",
        notes=tuple(notes),
        input=str(run.spec),
        batch_size=run.spec.batch_size,
    )
    return Traced(graph, run.module, run.spec, run.recorder.names_device)


def _drawn_inputs(nodes: tuple[Node, ...], spec: ModelInput) -> tuple[Node, ...]:
    """The nodes with the laws that the spec says of the inputs, where it says more than the type does."""
    items = spec.tensors()
    inputs = [n for n in nodes if n.kind == "input"]
    if len(items) != len(inputs):
        return nodes
    laws = {n.id: i.law for n, i in zip(inputs, items, strict=True) if i.law in ("uniform01", "adjacency")}
    return tuple(replace(n, attributes={**n.attributes, "law": laws[n.id]}) if n.id in laws else n for n in nodes)


def _symbolic(module: nn.Module, origins: Origins, failure: TraceError) -> Traced:
    """Without any input: a symbolic trace, which knows no shapes."""
    try:
        recorded = symbolic_graph(module)
    except Exception:
        raise failure from None
    graph = replace(
        lower(recorded, module, origins),
        traced_by="torch.fx",
        confidence="medium",
        notes=(f"no input was found, so shapes are not known ({failure})",),
    )
    return Traced(graph, module, None)


# ---- errors ----------------------------------------------------------------------------------------------------


def _line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return (text[:237] + "...") if len(text) > 240 else text or type(error).__name__


def _where(error: BaseException, root: str) -> Location | None:
    """The user's innermost line in an error's traceback."""
    found = None
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None:
        if is_user_file(traceback.tb_frame.f_code.co_filename, root):
            place = location_of(traceback.tb_frame)
            found = Location(place.path, traceback.tb_lineno)
        traceback = traceback.tb_next
    return found
