"""Stores in and out: check, merge, export to npy + Parquet or WebDataset, import what other tools have computed."""

from __future__ import annotations

import io
import tarfile
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.progress import track

from videoclip.errors import StoreError, VideoclipError, writing
from videoclip.files import make_folder, reading
from videoclip.store import FeatureStore
from videoclip.store.recipe import DESCRIPTION, Recipe, create_description
from videoclip.store.shards import Record, ShardWriter, not_finite
from videoclip.store.sources import append_changes

Array = np.ndarray
COMMIT_RECORDS = 256


def verify(store: FeatureStore) -> list[str]:
    """Return what is wrong with a store's files, a sentence for each fault; empty if every row is as it was written."""
    lost = [f"clip {key!r}: its shard is missing or cut off; `videoclip cache` makes it again." for key in store.lost]
    problems = []
    for record in track([*store.records("clips"), *store.records("texts")], "checking"):
        try:
            _checked(store, record)
        except StoreError as error:
            problems.append(str(error))
    return [*lost, *dict.fromkeys(problems)]  # a damaged header is the same fault for each of its records


def prune(store: FeatureStore) -> list[str]:
    """Forget the clips whose video file no longer exists; their rows go with the next merge.

    Returns:
        Their ids.

    Raises:
        StoreError: the store cannot be written.
    """
    vanished = store.vanished
    append_changes(
        store.folder,
        [{"key": key, "generation": store.record(key).generation, "forgotten": True} for key in vanished],
    )
    return vanished


def merge(
    stores: Sequence[FeatureStore], out: str | Path, shard_mib: int = 256, skip_damaged: bool = False
) -> FeatureStore:
    """Copy stores of one recipe into a new one; a clip or caption that several hold is copied once.

    Args:
        stores: one or more.
        out: the new store, or one that an interrupted merge left.
        shard_mib: size of its shards.
        skip_damaged: leave out what does not fit its checksum.

    Raises:
        StoreError: recipes differ, a clip of one id was made of different files, or a row is damaged.
    """
    first, folder = stores[0], Path(out)
    for other in stores[1:]:
        if different := first.recipe.differences(other.recipe):
            raise StoreError(f"{first.folder} and {other.folder} have different recipes ({'; '.join(different)}).")
    create_description(folder, first.recipe, first.backbone_spec)
    kinds: dict[Literal["clips", "texts"], Any] = {"clips": first.recipe.tensors, "texts": first.recipe.text_tensors}
    for kind, tensors in kinds.items():
        seen = {record.key: _origin(record) for record in FeatureStore(folder).records(kind)}
        with ShardWriter(folder, kind, tensors, first.recipe.dtype_of, shard_bytes=shard_mib << 20) as writer:
            for store in stores:
                for record in store.records(kind):
                    _check_same_source(seen, record, store)
                    if record.key in seen:
                        continue
                    try:
                        rows = _checked(store, record)
                    except StoreError:
                        if skip_damaged:
                            continue
                        raise
                    writer.add(record.key, rows, **store.notes(record))
                    seen[record.key] = _origin(record)
                    if len(seen) % COMMIT_RECORDS == 0:
                        writer.commit()
    return FeatureStore(folder)


def export_npy(store: FeatureStore, out: str | Path) -> None:
    """Write all clips as one ``frames.npy`` (rows, D), with a table ``clips.parquet`` that tells where each one lies.

    Raises:
        VideoclipError: pyarrow is not installed.
        StoreError: the folder cannot be written.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise VideoclipError("Parquet needs pyarrow: pip install 'videoclip[export]'.") from error
    folder = Path(out)
    records = store.records("clips")
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        for name, shape in store.recipe.tensors.items():
            total = sum(record.tensors[name].rows for record in records)
            target = np.lib.format.open_memmap(
                folder / f"{name}.npy", "w+", store.recipe.dtype_of(name), (total, *shape)
            )
            for record, at in zip(track(records, name), _starts(records, name), strict=True):
                target[at : at + record.tensors[name].rows] = store.raw(record)[name]
            target.flush()
        table = [
            {"id": record.key, "row": at, "rows": record.tensors["frames"].rows, **store.notes(record)}
            for record, at in zip(records, _starts(records, "frames"), strict=True)
        ]
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(table), folder / "clips.parquet")
        (folder / "recipe.json").write_text((store.folder / DESCRIPTION).read_text())


def export_webdataset(store: FeatureStore, out: str | Path, clips_a_shard: int = 1000) -> None:
    """Write all clips as WebDataset shards ``00000.tar``: ``N.frames.npy`` and what is known of it, ``N.json``.

    Raises:
        VideoclipError: webdataset is not installed.
        StoreError: the folder cannot be written.
    """
    try:
        import webdataset
    except ImportError as error:
        raise VideoclipError("WebDataset shards need webdataset: pip install 'videoclip[export]'.") from error
    folder = Path(out)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        with webdataset.ShardWriter(f"{folder.as_posix()}/%05d.tar", maxcount=clips_a_shard, verbose=0) as shards:
            for number, record in enumerate(track(store.records("clips"), "clips")):
                arrays = {f"{name}.npy": np.array(rows) for name, rows in store.raw(record).items()}
                shards.write({"__key__": f"{number:08d}", **arrays, "json": {"id": record.key, **store.notes(record)}})


def import_features(
    source: str | Path, out: str | Path, backbone: str, fps: float | None = None, dtype: str = "float16"
) -> FeatureStore:
    """Make a store of features that another tool has computed.

    Read are ``.npy`` files (T, D), one a clip; ``.npz`` files with an array ``features``, ``clip_embeddings`` or the
    only one in it, and times in ``timestamps_ms`` or ``seconds``; and the ``.tar`` shards of clip-video-encode, which
    hold the same. A clip's id is its file's path below ``source``, or its name in the ``.tar``, without suffix. Note
    that clip-video-encode 1.3 encodes frames with red and blue exchanged.

    Args:
        source: a file, or a folder that is searched.
        out: the new store.
        backbone: what made the features; any name. Only stores of one name can be merged or compared.
        fps: frames a second, where the files do not tell times.
        dtype: of the stored rows.

    Raises:
        StoreError: a file holds no (T, D) array of finite real numbers, or numbers beyond ``dtype``; widths differ,
            two files give one id, or there is not one time, ascending, for each frame.
    """
    folder, writer, recipe, known, added = Path(out), None, None, set[str](), set[str]()
    make_folder(folder.parent)  # what cannot be written is said before anything is read
    try:
        for path, name, arrays in _arrays(Path(source)):
            frames = _as_dtype(path, _frames(path, arrays), dtype)
            seconds = _times(path, arrays, len(frames), fps)
            if recipe is None:
                recipe = _imported(backbone, fps, dtype, frames.shape[1])
                create_description(folder, recipe, {"name": backbone, "pretrained": None})
                known = set(FeatureStore(folder).ids)
                writer = ShardWriter(folder, "clips", recipe.tensors, dtype)
            if frames.shape[1] != recipe.width:
                raise StoreError(f"{path}: is {frames.shape[1]} wide, the files before it {recipe.width}.")
            if name in added:
                raise StoreError(f"{path}: there was a {name!r} before; ids must be unique.")
            added.add(name)
            if name in known:
                continue
            notes = {"decoder": "imported", "status": "unknown", "errors": 0, "sha256": ""}
            assert writer is not None
            writer.add(name, {"frames": frames}, seconds=seconds.round(6).tolist(), **notes)
    finally:
        if writer is not None:
            writer.close()
    if recipe is None:
        raise StoreError(f"{source}: contains no .npy, .npz or .tar file.")
    return FeatureStore(folder)


def import_texts(folder: str | Path, texts: Mapping[str, Array] | Iterable[tuple[str, Array]]) -> None:
    """Add text features (D,), not normalised, computed elsewhere, to a store.

    Raises:
        StoreError: a feature has another width than the store, or is not finite.
    """
    store = FeatureStore(folder)
    width, known = store.recipe.width, store.captions
    with ShardWriter(store.folder, "texts", store.recipe.text_tensors, store.recipe.dtype) as writer:
        for text, feature in texts.items() if isinstance(texts, Mapping) else texts:
            if np.shape(feature) != (width,):
                raise StoreError(f"{store.folder}: the feature of {text!r} is {np.shape(feature)}, not ({width},).")
            if text not in known:
                rows = _as_dtype(f"text {text!r}", np.asarray(feature)[None], store.recipe.dtype)
                writer.add(text, {"sentence": rows})


def _origin(record: Record) -> tuple[str, list[float | None]]:
    """Return the content and the stretch that a record was made from; nothing of a text."""
    return record.notes.get("sha256", ""), record.notes.get("stretch", [None, None])


def _check_same_source(seen: Mapping[str, Any], record: Record, store: FeatureStore) -> None:
    if seen.get(record.key, _origin(record)) != _origin(record):
        raise StoreError(
            f"{store.folder}: clip {record.key!r} was made from another file or stretch than in a store before it; "
            "cache it again, or merge without one of the stores."
        )


def _checked(store: FeatureStore, record: Record) -> dict[str, Array]:
    rows = store.raw(record)
    for name, array in rows.items():
        if zlib.crc32(np.ascontiguousarray(array).data) != record.tensors[name].crc32:
            raise StoreError(
                f"{record.file(name)}: the {name} of {record.key!r} are damaged; `videoclip store merge "
                "--skip-damaged` leaves them out, and `videoclip cache` then makes them again."
            )
        if bad := not_finite(name, array):
            raise StoreError(
                f"{record.file(name)}: {record.key!r} has values that are not finite ({bad}); `videoclip store merge "
                "--skip-damaged` leaves it out."
            )
    return rows


def _starts(records: Sequence[Record], name: str) -> list[int]:
    return np.cumsum([0, *(record.tensors[name].rows for record in records)])[:-1].tolist()


def _imported(backbone: str, fps: float | None, dtype: str, width: int) -> Recipe:
    unknown = "unknown"
    return Recipe(f"imported:{backbone}", {}, None, fps, unknown, "imported", unknown, dtype, {"frames": [width]})


def _arrays(source: Path) -> Iterator[tuple[str, str, dict[str, Array]]]:
    """Where an array was found, the clip's name, and the arrays by their names."""
    if not source.exists():
        raise StoreError(f"{source}: no such file or folder.")
    suffixes = (".npy", ".npz", ".tar")
    files = [source] if source.is_file() else sorted(f for f in source.rglob("*") if f.suffix in suffixes)
    for file in files:
        if file.suffix != ".tar":
            name = file.name if file == source else file.relative_to(source).as_posix()
            with reading(file, "an array of numbers", StoreError):
                content = file.read_bytes()
            yield str(file), name.removesuffix(file.suffix), _load(str(file), file.suffix, content)
            continue
        for member, content in _members(file, suffixes[:2]):
            suffix = Path(member).suffix
            yield f"{file}:{member}", member.removesuffix(suffix), _load(f"{file}:{member}", suffix, content)


def _members(path: Path, suffixes: Sequence[str]) -> Iterator[tuple[str, bytes]]:
    """Yield names and contents of the files of a .tar that have one of the suffixes."""
    with reading(path, "a .tar archive", StoreError), tarfile.open(path) as archive:
        for member in archive:
            content = archive.extractfile(member) if Path(member.name).suffix in suffixes else None
            if content is not None:
                yield member.name, content.read()


def _load(path: str, suffix: str, content: bytes) -> dict[str, Array]:
    with reading(path, "an array of numbers", StoreError):
        loaded: Any = np.load(io.BytesIO(content), allow_pickle=False)
        arrays = {"features": loaded} if isinstance(loaded, np.ndarray) else dict(loaded)
        if not all(isinstance(array, np.ndarray) for array in arrays.values()):  # any .zip opens as an .npz
            raise ValueError(f"contains {', '.join(arrays)}")
        return arrays


def _frames(path: str, arrays: Mapping[str, Array]) -> Array:
    named = [arrays[name] for name in ("features", "clip_embeddings") if name in arrays]
    found = named or [array for array in arrays.values() if array.ndim == 2]
    if not found or found[0].ndim != 2 or not found[0].size:
        raise StoreError(
            f"{path}: contains no array (frames, width); found { ({n: a.shape for n, a in arrays.items()}) }."
        )
    return found[0]


def _as_dtype(path: str, rows: Array, dtype: str) -> Array:
    """Return rows in the dtype in which they are stored, if they are finite numbers there as well."""
    if rows.dtype.kind not in "fiu":
        raise StoreError(f"{path}: has values of type {rows.dtype}, not real numbers.")
    if bad := not_finite("features", rows):
        raise StoreError(f"{path}: has values that are not finite ({bad}).")
    with np.errstate(over="ignore"):  # looked at next
        converted = rows.astype(dtype)
    if bad := not_finite("features", converted):
        row = int(bad.partition("row ")[2].partition(":")[0])
        value = rows[row].flat[int(np.abs(rows[row]).argmax())]
        raise StoreError(f"{path}: row {row} has the value {value:g}, which {dtype} cannot hold; use --dtype float32.")
    return converted


def _times(path: str, arrays: Mapping[str, Array], frames: int, fps: float | None) -> Array:
    """Return the time in seconds of each frame."""
    name = next((name for name in ("timestamps_ms", "seconds") if name in arrays), None)
    if name is None:
        if fps is None:
            raise StoreError(f"{path}: contains no timestamps; pass --fps.")
        return np.arange(frames) / fps

    times = arrays[name]
    if times.dtype.kind not in "fiu" or times.ndim != 1:
        raise StoreError(
            f"{path}: {name} has type {times.dtype} and shape {times.shape}; one number per frame is needed."
        )
    if len(times) != frames:
        raise StoreError(f"{path}: has {frames} frames, but {len(times)} times in {name}.")
    seconds = times.astype(float) / (1000 if name == "timestamps_ms" else 1)
    if not np.isfinite(seconds).all() or (np.diff(seconds) < 0).any():
        raise StoreError(f"{path}: {name} must be finite and ascending.")
    return seconds
