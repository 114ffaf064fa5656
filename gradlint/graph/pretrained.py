"""Pretrained models become the same architecture from their configuration, marked pretrained; nothing is downloaded."""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import json
import re
import sys
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gradlint.graph.build_error import BuildError
from gradlint.graph.frames import user_location
from gradlint.graph.laws import LawRecorder
from gradlint.graph.stubs import Checkpoint

_FAMILIES = (
    ("distilroberta", "roberta"),
    ("distilbert", "distilbert"),
    ("roberta", "roberta"),
    ("deberta-v3", "deberta-v2"),
    ("deberta-v2", "deberta-v2"),
    ("deberta", "deberta"),
    ("electra", "electra"),
    ("albert", "albert"),
    ("camembert", "camembert"),
    ("modernbert", "modernbert"),
    ("bert", "bert"),
    ("flan-t5", "t5"),
    ("mt5", "mt5"),
    ("t5", "t5"),
    ("bart", "bart"),
    ("gpt2", "gpt2"),
    ("gpt-neo", "gpt_neo"),
    ("opt", "opt"),
    ("llama", "llama"),
    ("mistral", "mistral"),
    ("qwen", "qwen2"),
    ("gemma", "gemma"),
    ("phi", "phi"),
    ("pythia", "gpt_neox"),
    ("bloom", "bloom"),
    ("swin", "swin"),
    ("deit", "deit"),
    ("vit", "vit"),
    ("clip", "clip"),
    ("convnext", "convnext"),
    ("resnet", "resnet"),
    ("whisper", "whisper"),
    ("wav2vec2", "wav2vec2"),
    ("hubert", "hubert"),
)
"""Words in checkpoint names, most specific first, and the `model_type` of transformers that they stand for."""


def family_of(name: str) -> str | None:
    """The transformers `model_type` that a checkpoint's name tells, or None."""
    lowered = name.lower()
    return next((kind for word, kind in _FAMILIES if word in lowered), None)


class LibraryPatches(importlib.abc.MetaPathFinder):
    """Patches libraries of pretrained models as soon as they are imported."""

    def __init__(self, recorder: LawRecorder | None, notes: list[str], root: str) -> None:
        self.recorder = recorder
        self.notes = notes
        self.root = root
        self._patches: dict[str, Callable[[types.ModuleType], None]] = {
            "torchvision.models._api": self._torchvision,
            "timm.models._builder": self._timm,
            "transformers.modeling_utils": self._transformers_models,
            "transformers.models.auto.auto_factory": self._transformers_auto,
        }

    def patch_loaded(self) -> None:
        """Patch what was imported before."""
        for name, apply in self._patches.items():
            if name in sys.modules:
                apply(sys.modules[name])

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: types.ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """See `importlib.abc.MetaPathFinder`: the real module, patched after it has run."""
        apply = self._patches.get(fullname)
        if apply is None:
            return None
        spec = importlib.machinery.PathFinder.find_spec(fullname, path)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def executed(module: types.ModuleType) -> None:
            execute(module)
            apply(module)

        spec.loader.exec_module = executed  # type: ignore[method-assign]
        return spec

    def mark(self, model: Any) -> Any:
        """Note that all parameters of a model come from a checkpoint."""
        if self.recorder is not None:
            at = user_location(self.root)
            for parameter in model.parameters():
                self.recorder.mark_pretrained(parameter, at)
        return model

    def _torchvision(self, module: Any) -> None:
        module.WeightsEnum.get_state_dict = lambda *_, **__: Checkpoint()

    def _timm(self, module: Any) -> None:
        module.load_pretrained = lambda model, *_, **__: self.mark(model)
        module.load_custom_pretrained = lambda model, *_, **__: self.mark(model)

    def _transformers_models(self, module: Any) -> None:
        patches = self

        def from_pretrained(cls: Any, /, name: Any = None, *arguments: Any, config: Any = None, **keywords: Any) -> Any:
            found = config if config is not None else patches.configuration(name, keywords, cls.config_class)
            return patches.mark(cls(found, *[a for a in arguments if a is not None]))

        module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)

    def _transformers_auto(self, module: Any) -> None:
        patches = self

        def from_pretrained(cls: Any, /, name: Any = None, *_: Any, config: Any = None, **keywords: Any) -> Any:
            found = config if config is not None else patches.configuration(name, keywords, None)
            return patches.mark(cls.from_config(found))

        module._BaseAutoModelClass.from_pretrained = classmethod(from_pretrained)

    def configuration(self, name: Any, keywords: dict[str, Any], config_class: Any) -> Any:
        """The configuration of a checkpoint: from its directory, the hub's cache, or its family's defaults.

        Raises BuildError when the name tells no family.
        """
        import transformers

        known = {k: v for k, v in keywords.items() if k in _CONFIGURED}
        text = str(name)
        try:
            if (Path(text) / "config.json").is_file():
                kind = json.loads((Path(text) / "config.json").read_text("utf-8")).get("model_type")
                if kind or config_class is not None:
                    return transformers.AutoConfig.from_pretrained(text, **known)
            return transformers.AutoConfig.from_pretrained(text, local_files_only=True, **known)
        except (OSError, ValueError):
            pass
        family = family_of(text)
        if config_class is not None and hasattr(config_class, "model_type"):
            family = config_class.model_type or family
        if family is None:
            raise BuildError(f"the configuration of `{text}` is not on this machine", user_location(self.root))
        self.notes.append(f"`{text}` is not on this machine: built with the default configuration of {family}")
        return transformers.AutoConfig.for_model(family, **(_sizes(text, family) | known))


_CONFIGURED = frozenset(
    [
        "num_labels",
        "output_attentions",
        "output_hidden_states",
        "hidden_dropout_prob",
        "problem_type",
        "vocab_size",
        "attention_probs_dropout_prob",
        "ignore_mismatched_sizes",
        "id2label",
        "label2id",
        "dropout",
    ]
)


def _sizes(name: str, family: str) -> dict[str, Any]:
    """Widths and depth that the size word of a BERT-like name stands for (Devlin et al. 2019, §3)."""
    if family in ("bert", "roberta", "electra", "deberta", "deberta-v2") and re.search(r"\blarge\b", name):
        return {"hidden_size": 1024, "num_hidden_layers": 24, "num_attention_heads": 16, "intermediate_size": 4096}
    return {}
