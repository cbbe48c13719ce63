"""Two processes that share every step, against one that does it in two parts."""

from __future__ import annotations

import os
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from darkprune.errors import TrainingError
from darkprune.network import Network, tensor_of
from darkprune.training.loop.distributed import Ranks, join_ranks
from darkprune.training.settings import RunSettings
from tests.training.tiny import fresh_network, make_trainer, tiny_graph, write_images

CHANGES = RunSettings(iterations=3, subdivisions=2)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_images(tmp_path_factory.mktemp("data"), 12)


def in_two_processes(action: Callable[[Ranks], object]) -> None:
    """Runs something in two copies of this process, joined by gloo."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        port = found.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:  # pragma: no cover
            status = 1
            try:
                torch.set_num_threads(1)
                os.environ.update(
                    RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
                )
                ranks = join_ranks(cuda=False)
                action(ranks)
                ranks.close()
                status = 0
            except BaseException as error:
                print(repr(error), file=sys.stderr)
            finally:
                os._exit(status)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_two_processes_are_two_parts(data: Path, tmp_path: Path) -> None:
    alone = fresh_network(tiny_graph())
    make_trainer(tiny_graph(), data, tmp_path / "alone", network=alone, settings=CHANGES).run()

    def share(ranks: Ranks) -> None:
        network = fresh_network(tiny_graph())
        trainer = make_trainer(
            tiny_graph(), data, tmp_path / "shared", network=network, settings=CHANGES, ranks=ranks, validate=True
        )
        outcome = trainer.run()
        assert outcome.measured is not None
        torch.save({"network": network.state_dict(), "loss": outcome.figures}, tmp_path / f"{ranks.rank}.pt")

    in_two_processes(share)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first["loss"] == second["loss"]
    assert (tmp_path / "shared" / "tiny_last.weights").is_file()
    for name, tensor in alone.state_dict().items():
        assert torch.equal(first["network"][name], second["network"][name]), name
        if "rolling" not in name:
            torch.testing.assert_close(first["network"][name], tensor, rtol=0, atol=1e-6)


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
def test_running_statistics_are_averaged(tmp_path: Path) -> None:
    values = [torch.arange(12.0), torch.arange(12.0) * 3]

    def average(ranks: Ranks) -> None:
        network = fresh_network(tiny_graph())
        tensor_of(network, 0, "rolling_mean").copy_(values[ranks.rank])
        ranks.average_statistics(network)
        assert torch.equal(tensor_of(network, 0, "rolling_mean"), torch.arange(12.0) * 2)
        assert ranks.share(float(ranks.rank + 5)) == 5.0
        assert ranks.add(torch.tensor([1.0])).item() == 2.0

    in_two_processes(average)


def test_one_process_needs_nobody() -> None:
    ranks = join_ranks(cuda=False)
    assert (ranks.rank, ranks.count, ranks.first) == (0, 1, True)
    assert ranks.share(2.0) == 2.0
    ranks.wait()
    ranks.close()


@pytest.mark.skipif(not torch.distributed.is_gloo_available(), reason="torch without gloo")
@pytest.mark.parametrize("dies", [0, 1])
def test_the_death_of_another_process_is_one_line_and_soon(dies: int, tmp_path: Path) -> None:
    def killed(ranks: Ranks) -> None:
        ranks.add(torch.ones(3))
        if ranks.rank == dies:
            os.kill(os.getpid(), signal.SIGKILL)
        began = time.monotonic()
        with pytest.raises(TrainingError, match="another process of this run has ended") as caught:
            ranks.add_gradients(with_gradients())
        assert "\n" not in str(caught.value)
        with pytest.raises(TrainingError, match="has ended"):
            ranks.wait()
        ranks.close()
        assert time.monotonic() - began < 60
        (tmp_path / "said").touch()

    def with_gradients() -> Network:
        network = fresh_network(tiny_graph())
        for parameter in network.parameters():
            parameter.grad = torch.ones_like(parameter)
        return network

    with pytest.raises(AssertionError):
        in_two_processes(killed)
    assert (tmp_path / "said").exists()
