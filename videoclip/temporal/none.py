"""No temporal encoder: the frames as they are."""

from torch import Tensor

from videoclip.temporal import TemporalEncoder


class Identity(TemporalEncoder):
    """Leaves the frames alone; for mean pooling, query scoring and every other similarity on plain frames."""

    def __init__(self, width: int) -> None:
        super().__init__()

    def encode(self, frames: Tensor, mask: Tensor) -> Tensor:
        """(B, T, D) -> (B, T, D), unchanged."""
        return frames
