"""Model graphs read from class text: an abstract interpreter over `ast`, without torch and without running anything."""

from gradlint.source.reader.reading import read_model, read_models

__all__ = ["read_model", "read_models"]
