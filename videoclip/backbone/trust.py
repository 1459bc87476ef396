"""Models that a file names: a store or a classifier must not choose by itself what is loaded."""

from __future__ import annotations

from pathlib import Path

from videoclip.errors import BackboneError, printable


def confirm_source(name: str, pretrained: str | None, source: str | Path, trust: bool) -> None:
    """Refuse a backbone that a file chose and the user did not.

    The shipped model and open_clip's architectures with its own tags pass: they are the same whoever names them.
    Repositories (``hf-hub:``), addresses, folders and weights files are what the file's author made them.

    Args:
        name: backbone to load, as for ``create_backbone``.
        pretrained: tag or weights file, as for ``create_backbone``.
        source: store or file that names the backbone.
        trust: whether the user confirmed it.

    Raises:
        BackboneError: it needs ``trust``; says what would be loaded.
    """
    chosen = [str(text) for text in (name, pretrained) if text and _is_place(str(text))]
    if chosen and not trust:
        raise BackboneError(
            f"{source} would load {printable(' with '.join(chosen))}, which its author chose. "
            "Add --trust if you know where both come from."
        )


def _is_place(text: str) -> bool:
    """Whether a name leads to a repository, an address, a folder or a file, rather than into open_clip's lists."""
    if text == "tiny":
        return False  # shipped; a folder of that name is never looked at
    if any(sign in text for sign in ":/\\\0"):
        return True
    return Path(text).exists()
