"""Streamed least squares for a convolution's weights: normal equations in bounded memory."""

from __future__ import annotations

import torch
from torch import Tensor

from darkprune.network.modules.convolution import Convolution
from darkprune.network.windows import Scratch, windows

RIDGE = 1e-3  #: of the mean diagonal of the inputs' covariance
CHUNK_BYTES = 64 << 20  #: of gathered windows at a time
ROWS = 128  #: of a matrix that are summed at a time
OPERATIONS = 2e11  #: multiply-adds that one layer's equations may cost; above it positions are sampled


class NormalEquations:
    """Normal equations of a change of one convolution's weights and offset.

    For every group of the convolution: rows are its windows (c/groups·size², zero padding included) at all positions of
    all images, the target is what its sums lack there. Everything is centred by the first chunk's means, and summed in
    64 bits.
    """

    def __init__(self, module: Convolution, sites: int, scratch: Scratch | None = None) -> None:
        """Allocates the sums.

        Args:
            sites: positions of all images together that will be added; where that are too many, some are drawn.
            scratch: memory for temporary results; its own without.
        """
        kernel = module.kernel()
        self._module = module
        self._columns = kernel[0].numel()
        outputs = len(kernel) // module.groups
        device = kernel.device
        per_site = module.groups * self._columns * (self._columns + outputs)
        self._share = min(1.0, max(OPERATIONS / (per_site * sites), 4 * self._columns / sites))
        self._generator = torch.Generator().manual_seed(0)
        self._scratch = scratch or Scratch()
        self._shift: tuple[Tensor, Tensor] | None = None
        shape = (module.groups, self._columns)
        self._gram = torch.zeros(*shape, self._columns, dtype=torch.float64, device=device)
        self._cross = torch.zeros(*shape, outputs, dtype=torch.float64, device=device)
        self._inputs = torch.zeros(shape, dtype=torch.float64, device=device)
        self._targets = torch.zeros(module.groups, outputs, dtype=torch.float64, device=device)
        self._count = 0.0

    def add(self, x: Tensor, target: Tensor, weights: Tensor | None = None) -> None:
        """Adds a batch.

        Args:
            x: (b, c, h, w), the convolution's input.
            target: (b, n, out_h, out_w), what its sums lack.
            weights: (b, out_h, out_w), weight of each position; 1 without.
        """
        per_image = 4 * self._module.groups * self._columns * target.shape[-2] * target.shape[-1]
        step = max(1, CHUNK_BYTES // per_image)
        for first in range(0, len(x), step):
            part = slice(first, first + step)
            wanted = target[part].transpose(0, 1).flatten(1)
            wanted = wanted.reshape(self._module.groups, -1, wanted.shape[-1])  # (groups, outputs, positions)
            counts = None if weights is None else weights[part].flatten()
            chosen = None
            if self._share < 1:
                positions = wanted.shape[-1]
                chosen = torch.randperm(positions, generator=self._generator)[: max(1, round(positions * self._share))]
                chosen = chosen.to(x.device)
                wanted = wanted[..., chosen]
                counts = None if counts is None else counts[chosen]
            rows = windows(self._module, x[part], chosen, self._scratch)
            self._add(rows, wanted, counts)

    def _add(self, rows: Tensor, wanted: Tensor, counts: Tensor | None) -> None:
        if self._shift is None:
            self._shift = rows.mean(-1, keepdim=True), wanted.mean(-1, keepdim=True)
        wanted = wanted - self._shift[1]
        rows = torch.sub(rows, self._shift[0], out=self._scratch.take("centred", *rows.shape, like=rows))
        weighted = rows
        if counts is not None:
            weighted = torch.mul(rows, counts, out=self._scratch.take("weighted", *rows.shape, like=rows))
        product = self._scratch.take("product", *self._gram.shape, like=rows)
        torch.bmm(weighted, rows.mT, out=product)
        for part in range(0, self._columns, ROWS):  # in parts: mixing 32 and 64 bits is slow, a copy in 64 bits large
            self._gram[:, part : part + ROWS] += product[:, part : part + ROWS].double()
        self._cross += weighted @ wanted.mT
        self._inputs += weighted.sum(-1)
        self._targets += (wanted if counts is None else wanted * counts).sum(-1)
        self._count += rows.shape[-1] if counts is None else float(counts.sum(dtype=torch.float64))

    def covariance(self) -> Tensor:
        """Returns the inner products of the centred windows over all positions: (groups, columns, columns)."""
        return self._gram - self._inputs.unsqueeze(2) * self._inputs.unsqueeze(1) / (self._count or 1)

    def _cross_covariance(self) -> Tensor:
        """Returns those of the windows with what the sums lack: (groups, columns, outputs)."""
        return self._cross - self._inputs.unsqueeze(2) * self._targets.unsqueeze(1) / (self._count or 1)

    def solve(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Solves for the change, which is 0 where the target is 0 throughout.

        Args:
            ridge: penalty on the change, as a share of the mean diagonal.

        Returns:
            Changes of the kernel (n, c/groups, size, size) and of the sums (n), both float64.
        """
        module = self._module
        kernel = module.kernel()
        if self._count == 0 or self._shift is None:
            return torch.zeros_like(kernel, dtype=torch.float64), torch.zeros_like(kernel[:, 0, 0, 0]).double()
        change = _solved(self.covariance(), self._cross_covariance(), ridge)  # (groups, columns, outputs)
        return change.mT.reshape(kernel.shape), self._offset(change)

    def solve_scales(self, ridge: float = RIDGE) -> tuple[Tensor, Tensor]:
        """Solves for the change that only multiplies each input channel's weights by a factor of its own (ThiNet).

        Returns:
            As `solve`.
        """
        module = self._module
        kernel = module.kernel().double()
        filters = kernel.reshape(module.groups, -1, self._columns)  # (groups, outputs, columns)
        taps = module.size**2
        channels = self._columns // taps
        blocks = (filters.mT @ filters * self.covariance()).reshape(-1, channels, taps, channels, taps).sum((2, 4))
        aim = (filters.mT * self._cross_covariance()).reshape(-1, channels, taps * filters.shape[1])
        factors = _solved(blocks, aim.sum(2, keepdim=True), ridge)  # (groups, channels, 1)
        change = filters * factors.repeat_interleave(taps, 1).mT
        return change.reshape(kernel.shape), self._offset(change.mT)

    def _offset(self, change: Tensor) -> Tensor:
        """Returns the offset that keeps the mean of the sums when the weights change by (groups, columns, outputs)."""
        if self._shift is None:
            return self._targets.flatten()
        mean_in = self._shift[0].squeeze(-1).double() + self._inputs / (self._count or 1)
        mean_out = self._shift[1].squeeze(-1).double() + self._targets / (self._count or 1)
        return (mean_out - (change * mean_in.unsqueeze(2)).sum(1)).flatten()


def add_ridge(matrices: Tensor, ridge: float) -> None:
    """Adds a share of its mean to the diagonal of each (n, n) of a stack; never 0, as all of them may be constant."""
    diagonal = matrices.diagonal(dim1=1, dim2=2)
    held = ridge * diagonal.mean(1).clamp_min(torch.finfo(torch.float32).tiny)
    diagonal.add_(held.unsqueeze(1))


def _solved(matrices: Tensor, targets: Tensor, ridge: float) -> Tensor:
    """Solves the equations of each group, of which the matrices are changed; 0 where that fails."""
    add_ridge(matrices, ridge)
    factor, failed = torch.linalg.cholesky_ex(matrices)
    found = torch.cholesky_solve(targets, factor)
    return torch.where((failed == 0).view(-1, 1, 1) & found.isfinite(), found, 0.0)
