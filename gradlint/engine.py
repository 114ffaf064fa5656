"""The pipeline: source text to script, to model graphs, to profiles, to findings, to verdicts."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlint import checking
from gradlint.causes import merge, standing
from gradlint.cells import Cells
from gradlint.config import Config, selected
from gradlint.finding import Finding, Severity
from gradlint.location import Location
from gradlint.modelling import Modelled, model_key, modelled_target
from gradlint.older_python import refusal
from gradlint.parallel import check_all, processes
from gradlint.probe.experiment import ON_CPU_INSTEAD
from gradlint.progress import Progress, Silent, told
from gradlint.result import CheckedModel, Result, ordered, relative_path
from gradlint.rule import Rule
from gradlint.settling import Probing
from gradlint.source.grammar import is_newer_python
from gradlint.source.notebook import Notebook
from gradlint.source.project import (
    UNPARSABLE,
    LeftOutError,
    Project,
    SourceFile,
    Trail,
    UnreadableError,
    find_root,
)
from gradlint.source.read import read_script
from gradlint.source.relevance import concerns_training
from gradlint.source.script import Script, Skipped
from gradlint.suppression import Suppression, apply, suppressions, unused
from gradlint.targets import Target
from gradlint.worker.client import WorkerPool, find_torch
from gradlint.worker.protocol import Limits

if TYPE_CHECKING:
    from gradlint.cache import Digests
    from gradlint.file_cache import FileCache


@dataclass
class _Checked:
    """What one file or target gave. `class_only` maps model keys to the class whose construction was not seen.

    `constructed`: the classes whose construction stands in this very file. `unread`: the file could not be read. Of
    a `target` only the model was checked, not the rest of its file.
    `comments`, where set, are those of `source`.
    """

    findings: list[Finding] = field(default_factory=list)
    models: list[CheckedModel] = field(default_factory=list)
    skipped: list[Skipped] = field(default_factory=list)
    source: SourceFile | None = None
    constructed: set[str] = field(default_factory=set)
    class_only: dict[str, str] = field(default_factory=dict)
    failed: bool = False
    unread: bool = False
    target: bool = False
    comments: list[Suppression] | None = None


@dataclass
class Engine:
    """One run over files with the same settings.

    `input_spec` is the user's `--input`; `targets` are models to check beside those that the files construct.
    Without execution `jobs` processes read files, one for each core where it is 0; `trail` gathers what was looked at
    to read them. `home` is the folder that patterns of the configuration are told from (the root, if None).
    Under `digests`, where given, what is found in a file without execution is kept for later runs.
    """

    config: Config
    root: Path
    progress: Progress = field(default_factory=Silent)
    input_spec: str | None = None
    targets: Sequence[Target] = ()
    notebooks: dict[str, Notebook] = field(default_factory=dict)
    jobs: int = 1
    trail: Trail = field(default_factory=Trail)
    home: Path | None = None
    digests: Digests | None = None

    def __post_init__(self) -> None:
        self.rules: list[Rule] = selected(self.config)
        self.project = Project(self.root)

    def run(self, files: Sequence[Path], stdin: tuple[Path, str] | None = None) -> Result:
        """Check the files (and, for editors, one text that stands for a path)."""
        started = time.perf_counter()
        refusal = self._refusal()
        with ExitStack() as stack:
            pool = None if refusal else stack.enter_context(WorkerPool(self.config.python, self._limits()))
            probing = Probing(self.config, self.progress, pool, refusal)
            checked = self._all(files, probing)
            if stdin is not None:
                checked.append(self._guarded(stdin[0], partial(self._file, stdin[0], probing, stdin[1])))
            for target in self.targets:
                checked.append(self._guarded(target.path or self.root, partial(self._target, target, probing)))
        findings, models, left_out = _across_files(checked)
        cells = Cells(self.notebooks)
        kept = [cells.finding(f) for f in self._unsuppressed(merge(findings), checked)]
        skipped = _once(map(cells.skipped, left_out))
        aside = f"models were read from source and nothing was measured: {refusal}"
        return Result(
            root=self.root,
            findings=ordered(standing(checking.wanted(kept, self.home or self.root, self.config))),
            models=tuple(cells.model(m) for m in models),
            skipped=skipped,
            files=sum(not part.target for part in checked),
            seconds=time.perf_counter() - started,
            failures=sum(part.failed for part in checked),
            notes=(aside,) if refusal and models else _left_devices(models),
            unread=tuple(s for part in checked if part.unread for s in part.skipped),
            unbuilt=tuple(s for part in checked if part.target and self.config.exec for s in part.skipped),
            texts=dict(self._texts(checked)),
        )

    def _all(self, files: Sequence[Path], probing: Probing) -> list[_Checked]:
        """All files; those that only need reading in several processes, where that pays."""
        parts: dict[Path, _Part] = {}
        cache = self._cache(probing)
        self.progress.expect(len(files))
        if cache is not None:
            parts = {path: part for path in files if (part := cache.find(path, _Part)) is not None}
            self.progress.done(len(parts))
        rest = [path for path in files if path not in parts]
        if probing.pool is not None or processes(self.jobs, len(rest)) < 2:
            found = [self._part(path, probing) for path in told(rest, self.progress)]
        else:
            reading = _Reading(replace(self, progress=Silent(), targets=()))
            found = check_all(reading, rest, self.jobs, self.progress.done)
        parts |= zip(rest, found, strict=True)
        if cache is not None:
            for path, part in zip(rest, found, strict=True):
                if part.lasts:
                    cache.keep(path, part, part.trail)
            cache.prune()
        for part in parts.values():
            self.notebooks |= part.notebooks
            self.trail.join(part.trail)
        return [parts[path].checked for path in files]

    def _cache(self, probing: Probing) -> FileCache | None:
        """What earlier runs kept of single files, where that was asked for and no model is built."""
        if self.digests is None or probing.pool is not None:
            return None
        from gradlint.file_cache import FileCache

        return FileCache(
            self.digests, self.project, self.config, self.rules, f"{self.input_spec}", f"{probing.refusal}"
        )

    def _part(self, path: Path, probing: Probing) -> _Part:
        """One file with all that was looked at for it."""
        outer, self.notebooks, self.project.trail = self.notebooks, {}, Trail()
        try:
            checked = self._guarded(path, partial(self._file, path, probing))
        finally:
            notebooks, self.notebooks = self.notebooks, outer
        if checked.source is not None and probing.pool is None:
            # The tree stays behind; whoever needs it parses again.
            checked.comments = _comments(checked.source)
            checked.source = replace(checked.source)
            notebooks = {path: replace(n, file=replace(n.file)) for path, n in notebooks.items()}
        return _Part(checked, notebooks, self.project.trail)

    def _refusal(self) -> str | None:
        """Why no model may be built, or None."""
        if not self.config.exec:
            return "--no-exec"
        python = self.config.python
        return None if find_torch(python) else "torch is not installed" + (f" for {python}" if python else "")

    def _limits(self) -> Limits:
        return Limits(seconds=self.config.timeout, memory=self.config.memory << 20)

    def _guarded(self, path: Path, work: Callable[[], _Checked]) -> _Checked:
        """One file or target; an error of ours costs that one and says so, never the run."""
        here = Location(str(path.resolve()), 1)
        try:
            return work()
        except LeftOutError as error:
            return _Checked(skipped=[Skipped(here, str(error))])
        except UnreadableError as error:
            return _Checked(skipped=[Skipped(here, str(error))], unread=True)
        except RecursionError:
            return _Checked(skipped=[Skipped(here, "nests deeper than gradlint reads")])
        except Exception as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            what = f"{type(error).__name__}: {error} ({Path(last.filename).name}:{last.lineno})"
            return _Checked(skipped=[Skipped(here, f"internal error, please report: {what}")], failed=True)

    def _file(self, path: Path, probing: Probing, text: str | None = None) -> _Checked:
        """One file from text to verdicts."""
        source, notebook = checking.opened(path, self.project, text)
        if notebook is not None:
            self.notebooks[source.path] = notebook
        checked = _Checked(source=source)
        if not concerns_training(source, self.project):
            return checked
        self.progress("read", relative_path(source.path, self.root))
        try:
            _ = source.tree
        except UNPARSABLE as error:
            if is_newer_python(source.text, error):
                reason = f"written for a newer Python than the {platform.python_version()} that gradlint runs under"
                checked.skipped.append(Skipped(Location(source.path, 1), reason))
            else:
                checked.findings += self._syntax_error(source, error)
            return checked
        older = refusal(source.text, source.path)
        if older is not None:
            what = "`async` is a keyword since Python 3.7; the rest is read as older Pythons do"
            checked.findings += self._syntax_error(source, older, what)
        script = read_script(source, self.project)
        checked.skipped += script.skipped
        with ExitStack() as stack:
            models, findings, skipped = checking.checked(
                source, script, self.project, self.rules, probing, self.input_spec, stack
            )
            checked.findings += findings
            checked.models += [_checked_model(m, script) for m in models]
            checked.skipped += skipped
        checked.class_only |= {model_key(m.graph): _class_of(m, source) for m in models if m.class_only}
        seen = [m for m in script.models if m.location.path == source.path and not m.candidates]
        checked.constructed |= {c for m in seen for c in m.classes}
        return checked

    def _target(self, target: Target, probing: Probing) -> _Checked:
        """One model that was named from outside; the script that it is in says how it is trained."""
        source = self.project.file(target.path) if target.path else None
        checked = _Checked(source=source, target=True)
        script = read_script(source, self.project) if source else Script(str(self.root), str(self.root), "")
        with ExitStack() as stack:
            model = modelled_target(target, self.project, script, probing, self.input_spec, stack)
            if isinstance(model, Skipped):
                checked.skipped.append(model)
                return checked
            checked.findings += checking.settled([], [model], script, self.rules, probing)
            checked.models.append(_checked_model(model, script))
            if source is not None:
                checked.constructed.add(_class_of(model, source))
        return checked

    def _syntax_error(self, source: SourceFile, error: BaseException, told: str | None = None) -> Iterator[Finding]:
        rule = next((r for r in self.rules if r.code == "GL001"), None)
        if rule is not None:
            line = getattr(error, "lineno", None) or 1
            column = getattr(error, "offset", None) or 1
            what = told or (error.msg if isinstance(error, SyntaxError) else str(error) or type(error).__name__)
            at = Location(source.path, line, column)
            message = f"the file does not parse: {what}"
            yield rule.finding(at, message, severity=Severity.ERROR, needs_probe=False)

    def _unsuppressed(self, findings: list[Finding], checked: Sequence[_Checked]) -> list[Finding]:
        comments = {
            p.source.path: _comments(p.source) if p.comments is None else p.comments for p in checked if p.source
        }
        kept, idle = apply(findings, [c for found in comments.values() for c in found])
        whole = {part.source.path for part in checked if part.source and not part.target}
        return [*kept, *unused([c for c in idle if c.location.path in whole], [r.code for r in self.rules])]

    def _texts(self, checked: Sequence[_Checked]) -> Iterator[tuple[str, str]]:
        """The texts that reports quote: files, and the cells of notebooks under `path#cellN`."""
        for part in checked:
            if part.source is None or not part.findings:
                continue
            notebook = self.notebooks.get(part.source.path)
            if notebook is None:
                yield part.source.path, part.source.text
            else:
                for cell, lines in notebook.cells().items():
                    yield f"{part.source.path}#cell{cell}", "\n".join(lines)


@dataclass
class _Part:
    """What was found out about one file."""

    checked: _Checked
    notebooks: dict[str, Notebook]
    trail: Trail

    @property
    def lasts(self) -> bool:
        """Whether the same is found as long as nothing that was looked at changes."""
        return self.checked.source is not None and not self.checked.failed


@dataclass
class _Reading:
    """Reads files in another process, which makes its own project of what the engine is set to."""

    engine: Engine

    def __getstate__(self) -> dict[str, object]:
        plain = {name: getattr(self.engine, name) for name in ("config", "root", "input_spec")}
        return {**plain, "progress": Silent()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.engine = Engine(**state)

    @cached_property
    def _probing(self) -> Probing:
        return Probing(self.engine.config, self.engine.progress, None, self.engine._refusal())

    def __call__(self, path: Path) -> _Part:
        return self.engine._part(path, self._probing)


def _once(skipped: Iterable[Skipped]) -> tuple[Skipped, ...]:
    """What was skipped, in order, each line and reason once."""
    seen: dict[tuple[object, ...], Skipped] = {}
    for s in sorted(skipped, key=lambda s: (s.location.path, s.location.cell or 0, s.location.line, s.reason)):
        seen.setdefault((s.location.path, s.location.cell, s.location.line, s.reason), s)
    return tuple(seen.values())


def _comments(source: SourceFile) -> list[Suppression]:
    try:
        tree = source.tree
    except UNPARSABLE:
        tree = None
    return suppressions(source.path, source.text, tree)


def _checked_model(model: Modelled, script: Script) -> CheckedModel:
    # A copy leaves behind what was derived of the graph, which no report shows.
    return CheckedModel(script.path, replace(model.graph), model.profile, model.measurements, model.guarantees)


def _left_devices(models: Sequence[CheckedModel]) -> tuple[str, ...]:
    """Why models were not measured on the device that was asked for, each reason once."""
    measured = [m for model in models if model.measurements for m in model.measurements.of.values()]
    return tuple(dict.fromkeys(note for m in measured for note in m.notes if note.endswith(ON_CPU_INSTEAD)))


def _class_of(model: Modelled, source: SourceFile) -> str:
    return f"{source.module}.{model.graph.class_name or model.graph.name}"


def _across_files(checked: Sequence[_Checked]) -> tuple[list[Finding], list[CheckedModel], list[Skipped]]:
    """Findings, models and what was skipped of all files; a class that another file constructs is judged there."""
    constructed = {name for part in checked for name in part.constructed}
    findings: list[Finding] = []
    models: list[CheckedModel] = []
    for part in checked:
        elsewhere = {key for key, name in part.class_only.items() if name in constructed}
        seen = {(f.code, f.location) for f in findings} if part.target else set()
        findings += [f for f in part.findings if f.model not in elsewhere and (f.code, f.location) not in seen]
        models += [m for m in part.models if model_key(m.graph) not in elsewhere]
    skipped = [s for part in checked for s in part.skipped if s.unconstructed not in constructed]
    return findings, models, skipped


def default_root(paths: Sequence[Path]) -> Path:
    """What paths are reported relative to: the working folder if it holds them all, else their project's root."""
    here = Path.cwd().resolve()
    resolved = [p.resolve() for p in paths]
    if not resolved or all(p.is_relative_to(here) for p in resolved):
        return here
    return find_root(resolved[0])
