"""CLIP4Clip's LSTM head (Luo et al., 2021, arXiv:2104.08860, "seqLSTM")."""

from torch import Tensor, nn

from videoclip.layers import gathered, recur, scattered
from videoclip.temporal import TemporalEncoder, front


class LSTM(TemporalEncoder):
    """A one-layer LSTM over the real frames, added to the frames.

    Equal to the authors' code; there the real frames must come first, here they may lie anywhere. Also ActionCLIP's
    "LSTM" (arXiv:2109.08472), which has no frame mask.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D)."""
        order = front(mask)
        packed = nn.utils.rnn.pack_padded_sequence(
            gathered(frames, order), mask.sum(1).clamp(min=1).cpu(), batch_first=True, enforce_sorted=False
        )
        states, _ = nn.utils.rnn.pad_packed_sequence(recur(self.lstm, packed), True, total_length=frames.shape[1])
        return frames + scattered(states, order)
