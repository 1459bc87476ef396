from __future__ import annotations

from pathlib import Path

import pytest

from videoclip.backbone.trust import confirm_source
from videoclip.errors import BackboneError


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "tiny").mkdir()
    (tmp_path / "weights").write_bytes(b"")


@pytest.mark.parametrize(("name", "pretrained"), [("tiny", None), ("ViT-B-32", "openai"), ("ViT-B-32", None)])
def test_what_is_the_same_whoever_names_it_passes(name: str, pretrained: str | None) -> None:
    confirm_source(name, pretrained, "store", trust=False)


@pytest.mark.parametrize(
    ("name", "pretrained"),
    [
        ("hf-hub:some/model", None),
        ("local-dir:folder", None),
        ("folder", None),
        ("./absent", None),
        ("C:\\model", None),
        ("ViT-B-32", "weights"),
        ("ViT-B-32", "/elsewhere/weights.pt"),
        ("ViT-B-32", "https://example.org/weights.pt"),
        ("a\0b", None),
    ],
)
def test_places_need_trust(name: str, pretrained: str | None) -> None:
    with pytest.raises(BackboneError, match=r"^my store would load .* Add --trust"):
        confirm_source(name, pretrained, "my store", trust=False)
    confirm_source(name, pretrained, "my store", trust=True)


def test_the_message_is_safe_on_a_terminal() -> None:
    with pytest.raises(BackboneError) as caught:
        confirm_source("hf-hub:\x1b[2J\n", None, "store", trust=False)
    assert str(caught.value).isprintable()
