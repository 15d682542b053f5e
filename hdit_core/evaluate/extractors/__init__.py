"""Feature extractors: Inception, DINOv2, EfficientNet, and those of plug-ins."""

from hdit_core.evaluate.extractors.extractor import Extractor, open_extractor

__all__ = ["Extractor", "open_extractor"]
