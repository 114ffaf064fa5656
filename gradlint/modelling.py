"""The models of a file: built and traced in a worker where that is allowed and works, else read from source."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from gradlint.claims import model_key
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.hints import input_hint, optimizers_of, with_loss
from gradlint.location import Location
from gradlint.probe.experiment import Experiment, Measurement, Measurements
from gradlint.progress import counted
from gradlint.rule import Context
from gradlint.settling import Probing
from gradlint.source.project import Project, SourceFile
from gradlint.source.reader import read_models
from gradlint.source.script import Script, Skipped
from gradlint.source.slice import slice_defaults, slice_models
from gradlint.targets import Target, slice_target
from gradlint.worker.client import Session
from gradlint.worker.protocol import Built, Limits, ModelJob, Slice

__all__ = ["Modelled", "model_key", "modelled", "modelled_target", "with_defaults"]


@dataclass
class Modelled:
    """A model on its way through the pipeline.

    `session` is the worker that built it, or None and `unbuilt` says why. `class_only`: its construction was not
    seen, the class alone was read. `measured` grows as findings ask for experiments.
    """

    graph: ModelGraph
    session: Session | None = None
    unbuilt: str = ""
    class_only: bool = False
    context: Context = field(default_factory=Context)
    profile: Profile = field(default_factory=lambda: Profile(()))
    measured: dict[Experiment, Measurement] = field(default_factory=dict)

    @property
    def guarantees(self) -> tuple[str, ...]:
        """What the kernel enforced on the worker that built it; nothing where none did."""
        built = self.session.built if self.session is not None else None
        return built.guarantees if isinstance(built, Built) else ()

    @property
    def measurements(self) -> Measurements | None:
        """All that was measured for this model, or None."""
        return Measurements({e.key: m for e, m in self.measured.items()}) if self.measured else None


def modelled(
    source: SourceFile, project: Project, script: Script, probing: Probing, input_spec: str | None, stack: ExitStack
) -> tuple[list[Modelled], list[Skipped]]:
    """The models of a file in order of construction, and what could not be looked into.

    Sessions are entered into `stack`; they end with it.
    """
    models, failed, skipped = _built(source, project, script, probing, input_spec, stack)
    places = {(m.graph.location.path, m.graph.location.line) for m in models if m.graph.location}
    class_places = {(c.location.path, c.location.line) for c in script.classes}
    for graph in read_models(source, project):
        place = (graph.location.path, graph.location.line) if graph.location else ("", 0)
        if place in places:
            continue
        class_only = place in class_places
        why = failed.get(place) or probing.refusal or ("its construction was not found" if class_only else "")
        models.append(Modelled(graph, unbuilt=why or "it was read from source", class_only=class_only))
        if graph.stopped_at is not None and place not in failed:
            skipped.append(Skipped(graph.stopped_at[0], f"`{graph.name}` is read up to here: {graph.stopped_at[1]}"))
    for model in models:
        model.graph = with_loss(model.graph, script)
        model.context = Context(script, optimizers_of(script, model.graph))
    models.sort(key=lambda m: (m.graph.location or Location("", 0), m.graph.name))
    return models, skipped


def _built(
    source: SourceFile, project: Project, script: Script, probing: Probing, input_spec: str | None, stack: ExitStack
) -> tuple[list[Modelled], dict[tuple[str, int], str], list[Skipped]]:
    """The models that workers built, by place of construction why the others were not, and notes on those."""
    built: list[Modelled] = []
    failed: dict[tuple[str, int], str] = {}
    skipped: list[Skipped] = []
    if probing.pool is None:
        return built, failed, skipped
    for part in counted(slice_models(source, project, script, probing.config.script_args), probing.progress):
        if isinstance(part, Skipped):
            skipped.append(part)
            failed[part.location.path, part.location.line] = part.reason
            continue
        name = part.name or part.target
        session = _opened(part, script, probing, input_spec, stack)
        answer = session.built
        if isinstance(answer, Built):
            built.append(Modelled(answer.graph, session))
            continue
        at = answer.location or part.location or Location(source.path, 1)
        place = part.location or at
        failed[place.path, place.line] = f"the model could not be built: {answer.reason}"
        skipped.append(Skipped(at, f"`{name}` could not be built, read from source instead: {answer.reason}"))
    return built, failed, skipped


def with_defaults(
    model: Modelled,
    source: SourceFile,
    project: Project,
    script: Script,
    probing: Probing,
    input_spec: str | None,
    stack: ExitStack,
) -> Modelled | None:
    """A class whose construction was not seen, built with its constructor's defaults; None where that cannot be."""
    name = model.graph.class_name
    if probing.pool is None or not model.class_only or model.session is not None or name is None:
        return None
    part = slice_defaults(name, source, project, probing.config.script_args)
    if part is None:
        return None
    session = _opened(part, script, probing, input_spec, stack)
    answer = session.built
    if not isinstance(answer, Built):
        return None
    graph = with_loss(replace(answer.graph, location=model.graph.location, name=model.graph.name), script)
    return Modelled(graph, session, class_only=True, context=model.context)


def modelled_target(
    target: Target, project: Project, script: Script, probing: Probing, input_spec: str | None, stack: ExitStack
) -> Modelled | Skipped:
    """The model that is named from outside, or why it could not be looked into."""
    part = slice_target(target, project, probing.config.script_args)
    named = target.name or target.expression
    if isinstance(part, Skipped):
        return replace(part, reason=f"model `{named}`: {part.reason}")
    if probing.pool is None:
        return Skipped(part.location or Location(part.path, 1), f"model `{named}` was not built: {probing.refusal}")
    session = _opened(part, script, probing, target.input or input_spec, stack)
    answer = session.built
    if not isinstance(answer, Built):
        at = answer.location or part.location or Location(part.path, 1)
        return Skipped(at, f"model `{named}` could not be built: {answer.reason}")
    place = answer.graph.location or part.location or Location(part.path, 1)
    graph = with_loss(replace(answer.graph, location=place, name=target.name or answer.graph.name), script)
    return Modelled(graph, session, context=Context(script, optimizers_of(script, graph)))


def _opened(part: Slice, script: Script, probing: Probing, input_spec: str | None, stack: ExitStack) -> Session:
    """The worker session that was asked to build a slice."""
    assert probing.pool is not None
    config = probing.config
    probing.progress("build", part.name or part.target)
    limits = Limits(seconds=config.timeout, memory=config.memory << 20)
    job = ModelJob(part, input_hint(script, input_spec), limits, config.seed, config.device)
    return stack.enter_context(probing.pool.open(job))
