"""Base of what happens beside the steps of a run: sparse training, pruning while training."""

from __future__ import annotations

from darkprune.network import Network
from darkprune.surgery.apply import Cut
from darkprune.training.loop.checkpoint import State


class Hook:
    """Base of things that happen during a run; every method may be left as it is.

    Attributes:
        name: under which its state is kept.
        columns: names of its figures in the log.
        slims: whether it makes the network smaller.
        spares_batch_norm: whether γ and β take no weight decay, whatever the optimiser.
        gamma_rate: factor on the learning rate of γ.
    """

    name: str
    columns: tuple[str, ...] = ()
    slims = False
    spares_batch_norm = False
    gamma_rate = 1.0

    def before_step(self, step: int) -> None:
        """Is called when the gradients of a step (from 1) are complete, before the weights change."""

    def after_step(self, step: int, rate: float) -> None:
        """Is called when the weights have changed, at a learning rate."""

    def cut_after(self, step: int) -> Cut | None:
        """Returns what is to be cut out of the network after a step."""
        return None

    def use(self, network: Network, cut: Cut | None = None) -> None:
        """Is called when another network has taken the place of the one in training: the slim one.

        Args:
            cut: what made it from the one before; None where a run is resumed, with `load_state_dict` to follow.
        """

    def after_cut(self, step: int) -> str:
        """Is called after a cut that this hook asked for; returns a line for the user."""
        return ""

    def after_epoch(self, epoch: int) -> None:
        """Is called when an epoch (from 1) is complete."""

    def figures(self) -> dict[str, float]:
        """Returns values for the log; called after every step."""
        return {}

    def status(self) -> str:
        """Returns a few words for the progress bar."""
        return ""

    def draw(self) -> None:
        """Writes pictures, if it has any."""

    def state_dict(self) -> State:
        """Returns what a resumed run needs: tensors and plain values."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Restores it."""
