"""Pixels on their way: bytes from the file to the device, which makes of them what the image processor would.

Resizing gives whole numbers from 0 to 255 in every family; only the arithmetic behind it makes them float32.

Shape suffixes: C channels, 3 what a pixel is divided by, what is taken off, and what that is divided by.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

AS_BYTES = {"do_rescale": False, "do_normalize": False}  # for transformers' image processors


class Pixels(nn.Module):
    """What a model makes of pixel_values that are bytes, (..., C, H, W), to the bit what transformers' image processor
    makes of them in float32. Others, which a processor has computed itself, stay as they are."""

    scale_3C11: torch.Tensor

    def of(self, images: Any) -> None:
        """Do as this image processor does."""
        ones = [1.0] * len(images.image_mean)
        divisor = [1 / images.rescale_factor if images.do_rescale else 1.0] * len(ones)
        mean, deviation = (images.image_mean, images.image_std) if images.do_normalize else ([0.0] * len(ones), ones)
        scale_3C = torch.tensor([divisor, mean, deviation], dtype=torch.float32)
        self.register_buffer("scale_3C11", scale_3C[..., None, None], persistent=False)

    def forward(self, vision: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """`vision` as transformers' model takes it."""
        pixels = vision.get("pixel_values")
        if pixels is None or pixels.dtype != torch.uint8:
            return vision
        divisor_C11, mean_C11, deviation_C11 = self.scale_3C11
        return vision | {"pixel_values": self.shown((pixels / divisor_C11 - mean_C11) / deviation_C11)}

    def shown(self, pixels: torch.Tensor) -> torch.Tensor:
        """In the shape that transformers' model takes."""
        return pixels
