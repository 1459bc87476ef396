"""Nothing inside the tower is trained."""

from videoclip.tuning import Tuning


class Frozen(Tuning):
    """The tower stays as it was loaded."""

    walks = False
