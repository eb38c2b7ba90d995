"""What a device can do at best. A device that is not listed has no known peak, and no guess."""

from __future__ import annotations

import torch

CHANGES_RESULTS = False  # what devices can do

# dense bf16 operations per second, from the makers' data sheets; longer names first
PEAKS = {
    "GB200": 2.5e15,
    "B200": 2.25e15,
    "H200": 989e12,
    "H100 PCIe": 756e12,
    "H100": 989e12,
    "A100": 312e12,
    "MI300X": 1307e12,
}


def peak_of(name: str, products: torch.dtype) -> float | None:
    """Peak of a device by the name its driver tells, for products in `products`."""
    if products != torch.bfloat16:
        return None
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def peak_flops(device: torch.device, products: torch.dtype) -> float | None:
    """Operations per second that `device` can do at best, or None where that is not known."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), products)
