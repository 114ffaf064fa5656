"""What a rule is, and the registry that finds the built-in and third-party ones."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import entry_points
from typing import Annotated, Any, ClassVar

import msgspec

from gradlint.finding import Evidence, Finding, Fix, Related, Severity, Verdict
from gradlint.graph.model import ModelGraph
from gradlint.graph.profile import Profile
from gradlint.location import Location
from gradlint.probe.experiment import Experiment, Measurements
from gradlint.source.script import Optimizer, Script

DOCUMENTATION_URL = "https://github.com/gradlint/gradlint/blob/main/docs/rules/{name}.md"


MOST = sys.float_info.max
"""The largest finite number: infinity and NaN are no values of an option."""

Count = Annotated[int, msgspec.Meta(ge=1)]
"""An option that is 1 or more."""

Amount = Annotated[float, msgspec.Meta(ge=0, le=MOST)]
"""An option that is 0 or more."""

Positive = Annotated[float, msgspec.Meta(gt=0, le=MOST)]
"""An option that is above 0."""

Factor = Annotated[float, msgspec.Meta(gt=1, le=MOST)]
"""An option that is above 1."""

Share = Annotated[float, msgspec.Meta(gt=0, le=1)]
"""An option above 0 and at most 1."""


class RuleOptions(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="kebab"):
    """Options of a rule under `[tool.gradlint.rules.NAME]`; a rule subclasses it with defaults.

    A number has a range: `Count`, `Amount`, `Positive`, `Factor` and `Share` are types for the common ones.
    """


@dataclass(frozen=True)
class Context:
    """What a graph rule may know beside the graph: the script that trains the model, and by what.

    `optimizers` are those that hold the model's parameters; `script` is None for `--model module:attr`.
    """

    script: Script | None = None
    optimizers: tuple[Optimizer, ...] = ()

    @property
    def algorithm(self) -> str | None:
        """The optimizer's algorithm where there is exactly one known, else None."""
        names = {a for o in self.optimizers for a in (o.algorithms or ("",))}
        return names.pop() or None if len(names) == 1 else None


class Rule:
    """A fault that gradlint looks for. One file in `rules/` holds one subclass.

    The subclass's docstring is the user documentation, in Markdown with the sections What it does, Why it
    hurts, Example, Use instead, How it is confirmed, Fix safety, Options, References.
    """

    code: ClassVar[str]
    name: ClassVar[str]
    since: ClassVar[str]
    severity: ClassVar[Severity] = Severity.WARNING
    Options: ClassVar[type[RuleOptions]] = RuleOptions
    BAD: ClassVar[str] = ""
    GOOD: ClassVar[str] = ""

    def __init__(self, options: RuleOptions | None = None) -> None:
        self.options: Any = options if options is not None else self.Options()

    def check_script(self, script: Script) -> Iterator[Finding]:
        """Findings from the source alone."""
        return iter(())

    def check_graph(self, graph: ModelGraph, profile: Profile, context: Context) -> Iterator[Finding]:
        """Findings from a model's graph and its predicted signal."""
        return iter(())

    def experiments(self, finding: Finding) -> list[Experiment]:
        """What to measure to settle the finding."""
        return []

    def judge(self, finding: Finding, seen: Measurements) -> Verdict:
        """The verdict that the measurements give, with the numbers it used. Pure."""
        raise NotImplementedError(f"{self.code} has findings to measure but no judge")

    def fix(self, finding: Finding, script: Script) -> Fix | None:
        """Edits that cure the finding, or None."""
        return None

    def finding(
        self,
        location: Location,
        message: str,
        *,
        help: str | None = None,  # noqa: A002 -- the field's term in every compiler
        severity: Severity | None = None,
        related: Sequence[Related] = (),
        evidence: Evidence | None = None,
        model: str | None = None,
        optimizer: str | None = None,
        confidence: str = "high",
        needs_probe: bool = True,
        tentative: bool = False,
        subject: Any = None,
    ) -> Finding:
        """A finding of this rule."""
        return Finding(
            code=self.code,
            name=self.name,
            severity=severity or self.severity,
            message=message,
            location=location,
            help=help,
            related=tuple(related),
            evidence=evidence or Evidence(),
            model=model,
            optimizer=optimizer,
            confidence=confidence,
            needs_probe=needs_probe,
            tentative=tentative,
            subject=subject,
        )

    @classmethod
    def documentation(cls) -> str:
        """The rule's documentation as Markdown, title included."""
        return f"# {cls.code} {cls.name}\n\n{inspect.cleandoc(cls.__doc__ or '')}\n"

    @classmethod
    def url(cls) -> str:
        """Where the documentation stands on the web."""
        return DOCUMENTATION_URL.format(name=cls.name)


class RuleError(Exception):
    """A rule pack could not be loaded; the message is one line that names it."""


@cache
def registry() -> dict[str, type[Rule]]:
    """All rules by code, sorted; third parties add theirs through the entry-point group `gradlint.rules`.

    An entry point names a module with a sequence `RULES` of Rule subclasses. Raises RuleError when two rules
    share a code or a name, or a pack does not load.
    """
    packs = {e.value: e for e in entry_points(group="gradlint.rules")}
    modules = []
    for value in sorted(packs.keys() | {"gradlint.rules"}):
        try:
            modules.append(packs[value].load() if value in packs else __import__(value, fromlist=["RULES"]))
        except Exception as error:
            raise RuleError(f"rule pack `{value}` does not load: {error}") from error
    found: dict[str, type[Rule]] = {}
    names: dict[str, str] = {}
    for module in modules:
        for rule in module.RULES:
            if found.get(rule.code, rule) is not rule or names.get(rule.name, rule.code) != rule.code:
                raise RuleError(f"two rules share the code {rule.code} or the name `{rule.name}`")
            found[rule.code] = rule
            names[rule.name] = rule.code
    return dict(sorted(found.items()))


def files_of_packs(rules: Iterable[Rule]) -> list[str]:
    """The loaded files of the third parties' packages that rules come from, sorted."""
    packs = {type(rule).__module__.partition(".")[0] for rule in rules} - {"gradlint"}
    loaded = [module for name, module in list(sys.modules.items()) if name.partition(".")[0] in packs]
    return sorted({file for module in loaded if (file := getattr(module, "__file__", None))})


def with_verdict(finding: Finding, verdict: Verdict) -> Finding:
    """The finding with its verdict, evidence merged, and the severity that the measurement gives."""
    return replace(
        finding,
        verdict=verdict,
        severity=verdict.severity or finding.severity,
        evidence=finding.evidence.merged(verdict.evidence) if verdict.evidence else finding.evidence,
    )
