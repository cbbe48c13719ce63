"""[crnn], [rnn], [gru], [lstm], [conv_lstm], [history]: their channels can be counted, but nothing here runs them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

from darkprune.errors import TrainingError
from darkprune.graph.graph import Graph, Layer
from darkprune.layers.recurrent import ConvLstm, Crnn, Gru, History, Lstm, Rnn
from darkprune.network.modules.base import LayerModule, module_for, place_of

#: kinds whose function only says no
UNTRAINABLE = (Crnn, Rnn, Gru, Lstm, ConvLstm, History)


@module_for(*UNTRAINABLE)
def recurrent(layer: Layer, graph: Graph, before: Sequence[LayerModule]) -> NoReturn:
    """Refuses.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(f"{place_of(layer)}: a network with a recurrent [{layer.name}] cannot be trained here, nor run")
