"""The windows that a convolution sees, as columns of a matrix, and memory for such large temporary matrices."""

from __future__ import annotations

import torch
from torch import Tensor

from darkprune.network.modules.convolution import Convolution


class Scratch:
    """Memory for large temporary results that is used again and again: fresh pages cost more than the arithmetic."""

    def __init__(self) -> None:
        self._memory: dict[str, Tensor] = {}

    def take(self, slot: str, *shape: int, like: Tensor) -> Tensor:
        """Returns uninitialised memory for a result; what was taken from the same slot before is overwritten."""
        count = 1
        for length in shape:
            count *= length
        known = self._memory.get(slot)
        if known is None or known.numel() < count:
            known = self._memory[slot] = torch.empty(count, dtype=like.dtype, device=like.device)
        return known[:count].view(shape)


def windows(module: Convolution, x: Tensor, chosen: Tensor | None, scratch: Scratch) -> Tensor:
    """Gathers the windows of a convolution, zero padding included.

    Args:
        x: (b, c, h, w), its input.
        chosen: which of the b·out_h·out_w positions to gather; all without.
        scratch: takes the result, in the slot `windows`.

    Returns:
        (groups, c/groups·size², positions): tap by tap within each channel, image by image.
    """
    images, channels = x.shape[:2]
    if module.size == 1 and not module.padding:
        seen = x[:, :, :: module.stride[0], :: module.stride[1]].transpose(0, 1).reshape(channels, -1)
        seen = seen if chosen is None else _gather(seen, chosen, scratch)
    else:
        x = module.padded(x)
        if chosen is None:
            parts = shifted(module, x.transpose(0, 1))
            seen = scratch.take("windows", channels, len(parts), *parts[0].shape[1:], like=x)
            for tap, part in enumerate(parts):
                seen[:, tap] = part
        else:
            places = torch.arange(x[:, 0].numel(), device=x.device).view(images, *x.shape[2:])
            index = torch.cat([part.flatten()[chosen] for part in shifted(module, places)])
            seen = _gather(x.transpose(0, 1).reshape(channels, -1), index, scratch)
    return seen.view(module.groups, module.kernel()[0].numel(), -1)


def shifted(module: Convolution, x: Tensor) -> list[Tensor]:
    """Returns the views of a padded map (…, h, w) that a convolution's windows see, tap by tap: (…, out_h, out_w)."""
    reach = module.dilation * (module.size - 1)
    (high, wide), (down, right) = x.shape[-2:], module.stride
    steps = range(0, reach + 1, module.dilation)
    return [
        x[..., top : high - reach + top : down, left : wide - reach + left : right] for top in steps for left in steps
    ]


def _gather(x: Tensor, index: Tensor, scratch: Scratch) -> Tensor:
    """Returns the columns of a matrix (c, n) that an index names."""
    out = scratch.take("windows", len(x), len(index), like=x)
    return torch.gather(x, 1, index.expand(len(x), -1), out=out)
