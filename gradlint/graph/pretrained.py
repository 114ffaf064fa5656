"""Pretrained models become the same architecture from their configuration, marked pretrained; nothing is downloaded."""

from __future__ import annotations

import contextlib
import importlib.abc
import importlib.machinery
import json
import os
import re
import sys
import types
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from gradlint.graph.build_error import BuildError
from gradlint.graph.frames import user_location
from gradlint.graph.laws import LawRecorder
from gradlint.graph.stubs import Checkpoint, Tokenizer, Unknown

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
    ("xlm-r", "xlm-roberta"),
    ("minilm", "bert"),
    ("dialogpt", "gpt2"),
    ("gpt2", "gpt2"),
    ("gpt-neo", "gpt_neo"),
    ("opt", "opt"),
    ("llama", "llama"),
    ("vicuna", "llama"),
    ("alpaca", "llama"),
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


def listed_family(name: str, kinds: Iterable[str]) -> str | None:
    """The longest of the `model_type`s of transformers that is written in a checkpoint's name, or None.

    It has to be made of whole words: "google/pegasus-xsum" is Pegasus, "my-labeled-data" is no LED.
    """
    words = [w for w in re.split(r"[^a-z0-9]+", name.lower()) if w]
    written = {"".join(words[i:j]) for i in range(len(words)) for j in range(i + 1, min(i + 4, len(words) + 1))}
    written |= {w.rstrip("0123456789") for w in written}
    found = [k for k in kinds if re.sub(r"[^a-z0-9]", "", k.lower()) in written]
    return max(found, key=lambda k: (len(k), k), default=None)


class LibraryPatches(importlib.abc.MetaPathFinder):
    """Patches libraries of pretrained models as soon as they are imported."""

    def __init__(self, recorder: LawRecorder | None, notes: list[str], root: str, folders: Sequence[str] = ()) -> None:
        self.recorder = recorder
        self.notes = notes
        self.root = root
        self.folders = [Path(f) for f in dict.fromkeys([*folders, root])]
        self._patches: dict[str, Callable[[types.ModuleType], None]] = {
            "torchvision.models._api": self._torchvision,
            "timm.models._builder": self._timm,
            "timm.models._factory": self._timm_factory,
            "transformers.configuration_utils": self._transformers_configurations,
            "transformers.models.auto.configuration_auto": self._transformers_auto_configurations,
            "transformers.tokenization_utils_base": self._transformers_tokenizers,
            "transformers.models.auto.tokenization_auto": self._transformers_auto_tokenizers,
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

    def _timm_factory(self, module: Any) -> None:
        """A name on the hub ("hf_hub:timm/resnet18.a1_in1k") is that of the architecture, which timm knows itself."""
        create = _original(module.create_model)

        def create_model(model_name: str, *arguments: Any, **keywords: Any) -> Any:
            source, colon, name = str(model_name).partition(":")
            known = name.rpartition("/")[2] if colon and source.replace("-", "_") == "hf_hub" else model_name
            return create(known, *arguments, **keywords)

        create_model.gradlint_original = create  # type: ignore[attr-defined]
        for loaded in ("timm.models._factory", "timm.models", "timm"):
            if hasattr(sys.modules.get(loaded), "create_model"):
                sys.modules[loaded].create_model = create_model  # type: ignore[attr-defined]

    def _transformers_models(self, module: Any) -> None:
        patches = self

        def from_pretrained(cls: Any, /, name: Any = None, *arguments: Any, config: Any = None, **keywords: Any) -> Any:
            found = patches.given(config, keywords)
            found = found if found is not None else patches.configuration(name, keywords, cls.config_class)
            return patches.mark(cls(found, *[a for a in arguments if a is not None]))

        module.PreTrainedModel.from_pretrained = classmethod(from_pretrained)
        # Asked by `init_weights`, which leaves out a model's own init on meta: the laws would then be torch's defaults.
        if hasattr(module, "get_torch_context_manager_or_global_device"):
            module.get_torch_context_manager_or_global_device = lambda: None

    def _transformers_auto(self, module: Any) -> None:
        patches = self

        def from_pretrained(cls: Any, /, name: Any = None, *_: Any, config: Any = None, **keywords: Any) -> Any:
            found = patches.given(config, keywords)
            return patches.mark(
                cls.from_config(found if found is not None else patches.configuration(name, keywords, None))
            )

        module._BaseAutoModelClass.from_pretrained = classmethod(from_pretrained)

    def _transformers_configurations(self, module: Any) -> None:
        self._configure(next(c for n in _CONFIG_CLASSES if (c := getattr(module, n, None)) is not None))

    def _transformers_auto_configurations(self, module: Any) -> None:
        self._configure(module.AutoConfig)

    def _configure(self, owner: Any) -> None:
        """`from_pretrained` of configuration classes: from this machine, else the family's default."""
        patches, load = self, _original(owner.__dict__["from_pretrained"])

        def from_pretrained(cls: Any, /, name: Any = None, *_: Any, **keywords: Any) -> Any:
            unused = keywords.pop("return_unused_kwargs", False)
            real = load.__get__(None, cls)
            found = patches.configuration(name, keywords, cls if hasattr(cls, "model_type") else None, real)
            return (found, {}) if unused else found

        _replace(owner, from_pretrained, load)

    def _transformers_tokenizers(self, module: Any) -> None:
        self._tokenize(module.PreTrainedTokenizerBase)

    def _transformers_auto_tokenizers(self, module: Any) -> None:
        self._tokenize(module.AutoTokenizer)

    def _tokenize(self, owner: Any) -> None:
        """`from_pretrained` of tokenizers: from this machine, else one of which the number of words is known."""
        patches, load = self, _original(owner.__dict__["from_pretrained"])

        def from_pretrained(cls: Any, /, name: Any = None, *arguments: Any, **keywords: Any) -> Any:
            path = patches.local(name)
            with contextlib.suppress(Exception):
                if Path(path).is_dir() or _in_hub_cache(path):
                    return load.__get__(None, cls)(path, *arguments, **keywords | {"local_files_only": True})
            return Tokenizer(f"the tokenizer of {name}", patches.configuration(name, {}, None).vocab_size)

        _replace(owner, from_pretrained, load)

    @staticmethod
    def given(config: Any, keywords: dict[str, Any]) -> Any:
        """The configuration that a call passes, or None; one whose making failed is as good as none."""
        return None if isinstance(config, Unknown) else config

    def local(self, name: Any) -> str:
        """The path of a checkpoint's folder, which scripts name relative to themselves; else the name."""
        text = str(name)
        return next((str(f / text) for f in self.folders if text and (f / text).is_dir()), text)

    def configuration(
        self, name: Any, keywords: dict[str, Any], config_class: Any, load: Callable[..., Any] | None = None
    ) -> Any:
        """The configuration of a checkpoint: from its directory, the hub's cache, or its family's defaults.

        `config_class` is the class that is asked for (None: any), `load` reads one that is on this machine.
        Raises BuildError when the name tells no family.
        """
        import transformers

        known = {k: v for k, v in keywords.items() if k in _CONFIGURED}
        text = self.local(name)
        if load is None:
            load = _original(transformers.AutoConfig.__dict__["from_pretrained"]).__get__(None, transformers.AutoConfig)
        with contextlib.suppress(OSError, ValueError, KeyError):
            found = Path(text) / "config.json"
            if not found.is_file() or json.loads(found.read_text("utf-8")).get("model_type") or config_class is None:
                return load(text, local_files_only=True, **known)
            return config_class.from_dict(json.loads(found.read_text("utf-8")) | known)
        listed = getattr(transformers.models.auto.configuration_auto, "CONFIG_MAPPING_NAMES", {})
        family = getattr(config_class, "model_type", None) or family_of(text) or listed_family(text, listed)
        if not family:
            raise BuildError(f"the configuration of `{name}` is not on this machine", user_location(self.root))
        note = f"`{name}` is not on this machine: built with the default configuration of {family}"
        if note not in self.notes:
            self.notes.append(note)
        return transformers.AutoConfig.for_model(family, **(_sizes(text, family) | known))


_CONFIG_CLASSES = ("PretrainedConfig", "PreTrainedConfig")


def _original(function: Any) -> Any:
    """What a function was before it was patched here, in this model's build or an earlier one."""
    return getattr(getattr(function, "__func__", function), "gradlint_original", function)


def _in_hub_cache(name: str) -> bool:
    hub = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser() / "hub"
    return (hub / ("models--" + name.replace("/", "--")) / "snapshots").is_dir()


def _replace(owner: Any, function: Any, original: Any) -> None:
    function.gradlint_original = original
    owner.from_pretrained = classmethod(function)


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
