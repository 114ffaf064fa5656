"""One script from its facts to settled findings: what `check` and `probe` have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from gradlint.config import Config, ignored_in
from gradlint.discover import relative_to
from gradlint.finding import Finding
from gradlint.modelling import Modelled, modelled, with_defaults
from gradlint.realising import realise
from gradlint.rule import Rule
from gradlint.settling import Asked, Probing, settle
from gradlint.source.notebook import MAX_BYTES, Notebook, read_notebook
from gradlint.source.project import Project, SourceFile, read_bytes, read_text
from gradlint.source.script import Script, Skipped


def opened(path: Path, project: Project, text: str | None = None) -> tuple[SourceFile, Notebook | None]:
    """The file (or the text that stands for it) as a module, known to the project, and the notebook if it is one.

    Raises UnreadableError.
    """
    resolved = path.resolve()
    key = str(resolved)
    notebook = None
    if resolved.suffix == ".ipynb":
        raw = text.encode() if text is not None else read_bytes(resolved, MAX_BYTES, "a notebook that a person opens")
        notebook = read_notebook(key, raw)
        source = notebook.file
    elif text is not None:
        source = SourceFile(key, text, project.module_name(resolved))
    else:
        known = project.file(resolved)
        return known or SourceFile(key, read_text(resolved), project.module_name(resolved)), None
    project.add(key, source)
    return source, notebook


def checked(
    source: SourceFile,
    script: Script,
    project: Project,
    rules: Sequence[Rule],
    probing: Probing,
    input_spec: str | None,
    stack: ExitStack,
) -> tuple[list[Modelled], list[Finding], list[Skipped]]:
    """The models of a script, the settled findings on it and them, and what of them could not be looked into.

    The workers that built models live as long as `stack`.
    """
    findings = [f for rule in rules for f in rule.check_script(script)]
    models, skipped = modelled(source, project, script, probing, input_spec, stack)
    construct = partial(
        with_defaults,
        source=source,
        project=project,
        script=script,
        probing=probing,
        input_spec=input_spec,
        stack=stack,
    )
    return models, settled(findings, models, script, rules, probing, construct), skipped


def settled(
    findings: Sequence[Finding],
    models: list[Modelled],
    script: Script,
    rules: Sequence[Rule],
    probing: Probing,
    construct: Callable[[Modelled], Modelled | None] = lambda model: None,
) -> list[Finding]:
    """Predict each model, and give the findings on it and those given with their verdicts.

    A model that was only read takes what `construct` makes of it where there is something to measure.
    """
    asked = [Asked(f) for f in findings]
    for k, model in enumerate(models):
        found = _said_of(model, rules, probing)
        if any(f.needs_probe for f in found) and (built := construct(model)) is not None:
            models[k] = built
            found = _said_of(built, rules, probing)
        asked += [Asked(f, models[k]) for f in found]
    settled = settle(asked, rules, models, script, probing)
    if not probing.config.real:
        return settled
    return realise([a.finding for a in asked], settled, rules, models, script, probing)


def _said_of(model: Modelled, rules: Sequence[Rule], probing: Probing) -> list[Finding]:
    """What the rules find in a model's graph and its prediction."""
    model.profile = probing.predictions.of(model.graph, probing.config.batch_size)
    return [f for rule in rules for f in rule.check_graph(model.graph, model.profile, model.context)]


def wanted(findings: Iterable[Finding], home: Path, config: Config) -> Iterator[Finding]:
    """The findings that `per-file-ignores` leaves, its patterns told from `home`."""
    return (f for f in findings if not ignored_in(f, relative_to(Path(f.location.path), home), config))
