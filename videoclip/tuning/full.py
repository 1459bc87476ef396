"""Everything inside the tower is trained."""

from videoclip.backbone.walk import Tower
from videoclip.tuning import Tuning


class Full(Tuning):
    """Full fine-tuning of the tower."""

    walks = False
    mergeable = True

    def __init__(self, tower: Tower) -> None:
        super().__init__(tower)
        tower.module.requires_grad_(True)

    def merge(self) -> None:
        """Nothing to do: the tower's own weights were trained."""
