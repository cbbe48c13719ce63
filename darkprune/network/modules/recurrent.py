"""[crnn], [rnn], [gru], [lstm], [conv_lstm], [history]: their channels can be counted, but nothing here runs them."""

from __future__ import annotations

from typing import NoReturn

from darkprune.errors import TrainingError
from darkprune.graph.graph import Layer
from darkprune.layers.recurrent import ConvLstm, Crnn, Gru, History, Lstm, Rnn
from darkprune.network.modules.base import module_for

#: kinds whose function only refuses
UNTRAINABLE = (Crnn, Rnn, Gru, Lstm, ConvLstm, History)


@module_for(*UNTRAINABLE)
def recurrent(layer: Layer) -> NoReturn:
    """Refuses.

    Raises:
        TrainingError: always.
    """
    raise TrainingError(f"{layer.place}: a network with a recurrent [{layer.name}] cannot be trained here, nor run")
