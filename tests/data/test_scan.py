"""A folder as a manifest: links, loops, names in other encodings, and what is not a video."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from videoclip.data.manifest import Clip, passed_over, read_manifest, write_manifest
from videoclip.errors import DataError


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Videos, links to folders and files, loops, dead links, and other files."""
    for name in ("v/a.mp4", "v/real/b.mp4", "other/c.mp4", "other/audio.swf", "v/notes.txt", "v/README"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "v/linked").symlink_to("../other")
    (tmp_path / "v/again").symlink_to("real")
    (tmp_path / "v/real/up").symlink_to("..")
    (tmp_path / "v/d.mp4").symlink_to("../other/c.mp4")
    (tmp_path / "v/dead.mp4").symlink_to("nowhere.mp4")
    (tmp_path / "v/self.mp4").symlink_to("self.mp4")
    os.mkfifo(tmp_path / "v/pipe.mp4")
    return tmp_path / "v"


def test_links_are_followed_once(tree: Path) -> None:
    assert [clip.id for clip in read_manifest(tree)] == ["a.mp4", "d.mp4", "linked/c.mp4", "real/b.mp4"]


def test_what_is_not_taken_is_counted(tree: Path) -> None:
    assert passed_over(tree) == {
        ".swf": 1,
        ".txt": 1,
        "(no suffix)": 1,
        "(dead link)": 2,
        "(folder listed already)": 2,
        "(not a file)": 1,
    }


def test_a_folder_without_videos_says_what_it_contains(tmp_path: Path) -> None:
    (tmp_path / "audio.swf").touch()
    with pytest.raises(DataError, match=r"contains no video file .found 1 .swf."):
        read_manifest(tmp_path)


def test_names_in_other_encodings_keep_their_bytes(tmp_path: Path) -> None:
    name = b"caf\xe9.mp4"
    (tmp_path / "v").mkdir()
    with open(os.fsencode(tmp_path / "v") + b"/" + name, "wb"):
        pass
    (clip,) = read_manifest(tmp_path / "v")
    assert clip.id == r"caf\udce9.mp4"
    write_manifest([clip], tmp_path / "m.jsonl")
    (again,) = read_manifest(tmp_path / "m.jsonl")
    assert again == clip
    assert os.fsencode(again.path).endswith(name)
    assert os.path.isfile(again.path)


def test_texts_with_lone_surrogates_can_be_written() -> None:
    clip = Clip(id="\udcff", path="a", captions=("\ud800 x",), split="\udc80", label="\udc81", group="\udc82")
    assert (clip.id, clip.captions, clip.split) == (r"\udcff", (r"\ud800 x",), r"\udc80")
    assert (clip.label, clip.group) == (r"\udc81", r"\udc82")


def test_files_that_vanish_while_a_folder_is_scanned(tmp_path: Path) -> None:
    (tmp_path / "stays.mp4").touch()
    stop = threading.Event()

    def come_and_go() -> None:
        while not stop.is_set():
            for number in range(20):
                folder = tmp_path / f"d{number}"
                folder.mkdir()
                (folder / "x.mp4").touch()
                (folder / "l.mp4").symlink_to("x.mp4")
                (folder / "x.mp4").unlink()
                (folder / "l.mp4").unlink()
                folder.rmdir()

    thread = threading.Thread(target=come_and_go)
    thread.start()
    try:
        found = [read_manifest(tmp_path) for _ in range(200)]
    finally:
        stop.set()
        thread.join()
    assert all("stays.mp4" in {clip.id for clip in clips} for clips in found)


def test_paths_are_relative_to_the_manifest_whatever_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "out").mkdir()
    monkeypatch.chdir(tmp_path)
    write_manifest([Clip(id="a", path="v/a.mp4"), Clip(id="b", path="out/b.mp4")], "out/m.jsonl")
    assert [clip.path for clip in read_manifest("out/m.jsonl")] == [tmp_path / "v/a.mp4", Path("out/b.mp4")]
