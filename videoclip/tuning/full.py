"""Everything inside the tower is trained."""

from torch import nn

from videoclip.tuning import Tuning


class Full(Tuning):
    """Full fine-tuning of the tower."""

    def apply(self, tower: nn.Module) -> None:
        """Free every parameter."""
        tower.requires_grad_(True)
