"""Nothing inside the tower is trained."""

from torch import nn

from videoclip.tuning import Tuning


class Frozen(Tuning):
    """The tower stays as it was loaded."""

    def apply(self, tower: nn.Module) -> None:
        """Freeze every parameter."""
        tower.requires_grad_(False)
