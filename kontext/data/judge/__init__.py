"""Quality scores of pairs: pixels, perceptual hashes and a small CLIP."""

from __future__ import annotations

from kontext.data.judge.pixels import CHANGED_ABOVE, Quality, pdq_distance, quality, ssim

__all__ = ["CHANGED_ABOVE", "Quality", "pdq_distance", "quality", "ssim"]
