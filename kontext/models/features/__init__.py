"""Frozen image features: EfficientNet-Lite0, and image-text scores of CLIP models.

They serve the perceptual loss, the metrics and the quality scores. Nothing here trains a product.
"""
