"""Peak operations per second of known devices. A device that is not listed has no peak: None."""

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
    """Peak FLOP/s of a device, by its driver's name, for matrix products of dtype `products`."""
    if products != torch.bfloat16:
        return None
    return next((peak for known, peak in PEAKS.items() if known in name), None)


def peak_flops(device: torch.device, products: torch.dtype) -> float | None:
    """Peak FLOP/s of `device` for matrix products of dtype `products`; None where unknown."""
    if device.type != "cuda":
        return None
    return peak_of(torch.cuda.get_device_name(device), products)
