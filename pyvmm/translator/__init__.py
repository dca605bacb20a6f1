"""The translator: full-system x86-64 by binary translation, on any host (csrc/translator/)."""

from pyvmm.translator.engine import TranslatorEngine

__all__ = ["TranslatorEngine"]
