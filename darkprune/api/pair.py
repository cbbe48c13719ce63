"""`load`: a Darknet pair, the starting point of everything else."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from darkprune.errors import WeightsError
from darkprune.graph.graph import Graph, read_graph
from darkprune.graph.weights import NetworkWeights, odd_weights
from darkprune.processes import in_background
from darkprune.runs.digests import digest_of_file
from darkprune.settings import PathLike
from darkprune.surgery.surgery import Surgery
from darkprune.zoo import resolve

if TYPE_CHECKING:
    from darkprune.network import Network as Module


class Pair:
    """A network on disk. Nothing is read before it is needed.

    Attributes:
        cfg: path of the .cfg file.
        weights: path of the .weights file; None where only the network's shape is of interest.
    """

    def __init__(self, cfg: PathLike, weights: PathLike | None = None) -> None:
        self.cfg: Path = resolve(str(cfg))
        self.weights: Path | None = None if weights is None else resolve(str(weights), "weights")

    def __repr__(self) -> str:
        return f"Pair({str(self.cfg)!r}, {str(self.weights)!r})"

    @cached_property
    def graph(self) -> Graph:
        """The layer graph.

        Raises:
            CfgError, GraphError: the cfg cannot be read as a network.
        """
        return read_graph(self.cfg)

    @property
    def weights_file(self) -> Path:
        """Path of the weights file.

        Raises:
            WeightsError: the pair was loaded without one.
        """
        if self.weights is None:
            raise WeightsError(f"{self.cfg}: this needs its weights too: load(cfg, weights)")
        return self.weights

    def open(self) -> NetworkWeights:
        """Opens the weights; use it in a `with` block.

        Raises:
            WeightsError: the file does not fit the cfg.
        """
        return NetworkWeights(self.graph, self.weights_file)

    def warnings(self) -> tuple[str, ...]:
        """Returns what is odd about the pair: what darknet reads otherwise than meant, weights that give NaN.

        Raises:
            WeightsError: the weights do not fit the cfg.
        """
        if self.weights_file.suffix in (".onnx", ".engine"):  # made of the pair, and run in its place
            return self.graph.warnings
        with self.open() as weights:
            return (*self.graph.warnings, *odd_weights(weights))

    def torch(self, device: str = "cpu") -> Module:
        """Returns the network as a torch module with the pair's weights, ready for inference.

        Args:
            device: where it is put: "cpu", "cuda", "cuda:1".
        """
        import torch

        from darkprune.network.loading import load_network

        with self.open() as weights:
            return load_network(weights, torch.device(device))


def load(cfg: PathLike, weights: PathLike | None = None) -> Pair:
    """Takes a Darknet pair.

    Args:
        cfg: path of a .cfg file, or `builtin:NAME` for a network that comes with darkprune.
        weights: path of its .weights file, or `builtin:NAME`; it may be left out where only shapes matter.
    """
    return Pair(cfg, weights)


@contextmanager
def for_surgery(pair: Pair) -> Iterator[tuple[NetworkWeights, Callable[[], tuple[str, str]]]]:
    """Opens a pair for a surgery, which takes the file over: it is closed here only where the block fails.

    Yields:
        The weights; and what gives the SHA-256 of cfg and weights, which are computed meanwhile.
    """
    weights = pair.open()
    try:
        yield weights, in_background(lambda: (digest_of_file(pair.cfg), digest_of_file(pair.weights_file)))
    except BaseException:
        weights.close()
        raise


#: what functions take that look at a network: one on disk, or one that is cut but not saved yet
Network = Pair | Surgery


@contextmanager
def on_disk(network: Network) -> Iterator[Pair]:
    """Gives a network as files: a pair's own, or those of an unsaved surgery in a temporary folder.

    Args:
        network: a pair or a surgery.

    Yields:
        A pair whose files exist until the block ends.
    """
    if isinstance(network, Pair):
        yield network
        return
    cfg = Path(network.original.graph.cfg.source)
    with network.temporary_weights() as weights:
        path = weights.with_name(cfg.name)
        path.write_bytes(network.graph.cfg.encode())
        yield Pair(path, weights)
