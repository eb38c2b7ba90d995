"""Quality of pairs: pixel measures, a small CLIP, and the screening that turns scores into reasons.

Scores are raw numbers. Thresholds are SQL views, not code here. Imports models and safety.
"""

from __future__ import annotations

from kontext.data.quality.pixels import CHANGED_ABOVE, Quality, pdq_distance, quality, ssim

__all__ = ["CHANGED_ABOVE", "Quality", "pdq_distance", "quality", "ssim"]
