"""Backbones: pyramids of stages, and the zoo of published configurations."""

from core.backbones.pyramid import Pyramid, PyramidConfig, StageConfig

__all__ = ["Pyramid", "PyramidConfig", "StageConfig"]
