"""Nothing inside the tower is trained."""

from videoclip.tuning import Tuning


class Frozen(Tuning):
    """The tower stays as it was loaded."""

    walks = False
    mergeable = True

    def merge(self) -> None:
        """Nothing to do."""
