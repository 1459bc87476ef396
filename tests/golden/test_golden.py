"""Equality with the authors' own code: every recording of a supported system is reproduced within its tolerance.

Recordings are folders ``CASE`` or ``CASE-1``, ``CASE-2``, ...; ``VIDEOCLIP_GOLDEN`` names the folder that holds them.
"""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from videoclip import convert, metrics
from videoclip.backbone.openclip import OpenClip
from videoclip.features import TextFeatures, VideoFeatures
from videoclip.losses import symmetric_cross_entropy
from videoclip.registry import create
from videoclip.video import sampling

FOLDER = Path(os.environ.get("VIDEOCLIP_GOLDEN", Path(__file__).parents[3] / "shared" / "golden"))


class Recording:
    """One recorded case: what it was made with, and a check of every output."""

    def __init__(self, folder: Path) -> None:
        self.case = json.loads((folder / "case.json").read_text())
        self.options = self.case.get("hyperparameters", {})
        self.inputs = load_file(folder / "inputs.safetensors")
        self.outputs = load_file(folder / "outputs.safetensors")
        weights = folder / "weights.safetensors"
        self.weights = load_file(weights) if weights.exists() else {}

    def check(self, mine: dict[str, Tensor], names: list[str]) -> None:
        """Compare outputs ``names``; each must have been computed."""
        assert names
        for name in names:
            tolerance = self.case["tolerance"][name]
            if tolerance.get("exact"):
                assert torch.equal(mine[name].long(), self.outputs[name].long()), name
            else:
                torch.testing.assert_close(
                    mine[name].detach(), self.outputs[name], **tolerance, msg=lambda m, n=name: f"{n}: {m}"
                )

    def text(self) -> TextFeatures:
        return TextFeatures(self.inputs["text_features"].flatten(1))

    def video(self) -> VideoFeatures:
        return VideoFeatures.from_frames(self.inputs["frame_features"], self.inputs["video_mask"].bool())


def loss_of_pairs(logits: Tensor) -> Tensor:
    count = min(logits.shape)
    return symmetric_cross_entropy(logits[:count, :count])


def openai_clip(recording: Recording, folder: Path) -> None:
    o = recording.options
    vision = {"image_size": o["image_size"], "patch_size": o["patch_size"], "width": o["vision_width"]}
    vision |= {"layers": o["vision_layers"], "head_width": o["vision_width"] // o["vision_heads"]}
    text = {"context_length": o["context_length"], "vocab_size": o["vocab_size"], "width": o["text_width"]}
    text |= {"layers": o["text_layers"], "heads": o["text_heads"]}
    config = {"embed_dim": o["embed_dim"], "quick_gelu": True, "vision_cfg": vision, "text_cfg": text}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    save_file(recording.weights, folder / "open_clip_model.safetensors")
    backbone = OpenClip(str(folder))
    backbone.requires_grad_(True)
    mine = {"image_features": backbone.encode_image(recording.inputs["image"])}
    mine["text_features"] = backbone.encode_text(recording.inputs["text"]).sentence
    sentence, image = (torch.nn.functional.normalize(mine[n], dim=-1) for n in ("text_features", "image_features"))
    mine["logits_per_image"] = backbone.clip.logit_scale.exp() * image @ sentence.T
    mine["loss"] = loss_of_pairs(mine["logits_per_image"])
    mine["loss"].backward()
    mine |= {f"grad.{n}": p.grad for n, p in backbone.clip.named_parameters()}
    recording.check(mine, list(recording.outputs))


def _head(recording: Recording, system: str) -> tuple[convert.VideoTextModel, dict[str, Tensor]]:
    """Logits, loss and every recorded gradient of a converted head."""
    model = convert.load_original(system, recording.weights, heads=recording.options.get("heads"))
    mine = {"sim": model(recording.text(), recording.video())}
    mine["loss"] = loss_of_pairs(mine["sim"])
    mine["loss"].backward()
    names = convert.original_names(system, recording.weights)
    parameters = dict(model.named_parameters())
    for original in recording.weights:
        ours = names.ours(original)
        if ours in parameters:
            gradient = parameters[ours].grad
            mine[f"grad.{original}"] = gradient.T if ours in names.transposed else gradient
    return model, mine


def clip4clip(recording: Recording, folder: Path) -> None:
    model, mine = _head(recording, "clip4clip")
    mine["video_embedding"] = model.similarity.pool(model.encode_video(recording.video()))
    recording.check(mine, list(recording.outputs))


def clip2video(recording: Recording, folder: Path) -> None:
    """The ``maskfix`` outputs; gradients are those of the uncorrected loss, so they count where both losses agree."""
    model, mine = _head(recording, "clip2video")
    video = recording.video()
    tokens, added, mask = model.temporal.tokens(video.frames, video.mask)
    kinds = model.temporal.types(1 - torch.arange(tokens.shape[1]) % 2)
    mine |= {
        "maskfix.sim": mine["sim"],
        "maskfix.loss": mine["loss"],
        "maskfix.tdb_tokens": tokens,
        "tdb_mask": mask,
    }
    mine["tdb_type_embedding"] = kinds.expand_as(tokens)
    mine["tdb_position_embedding"] = (added - kinds).expand_as(tokens)
    names = [n for n in recording.outputs if n.startswith(("maskfix.", "tdb_")) and n != "tdb_tokens"]
    if torch.equal(recording.outputs["sim"], recording.outputs["maskfix.sim"]):
        names = list(recording.outputs)
        mine["tdb_tokens"] = tokens
    recording.check(mine, names)


def hitchhiker_query_scoring(recording: Recording, folder: Path) -> None:
    """Not the ``scores`` mode: the authors' code multiplies by norms there instead of cosines."""
    video = VideoFeatures.from_frames(recording.inputs["frame_features"])
    mine = {
        f"query_scoring_feats_t{t}": create("similarity", "query_scoring", {"temperature": t}, width=1)(
            recording.text(), video
        )
        for t in recording.options["temperatures"]
    }
    mine["mean_pooling"] = create("similarity", "mean", {"normalize_frames": False}, width=1)(recording.text(), video)
    recording.check(mine, [n for n in recording.outputs if "_scores_" not in n])


def clip4clip_metrics(recording: Recording, folder: Path) -> None:
    expected = recording.case["expected"]
    square = recording.inputs["sim"]
    diagonal = torch.arange(len(square))
    for key, matrix in (("sim/t2v compute_metrics(x)", square), ("sim/v2t compute_metrics(x.T)", square.T)):
        ranks, tied = metrics.text_to_video_ranks(matrix, diagonal)
        assert not tied.any()
        _check_metrics(metrics.summarise(ranks, tied, "x"), expected[key])
        assert (ranks - 1).tolist() == expected[key]["cols"]
    for key, matrix in (
        ("sim_ties/t2v compute_metrics(x)", recording.inputs["sim_ties"]),
        ("sim_ties/v2t compute_metrics(x.T)", recording.inputs["sim_ties"].T),
    ):
        assert places_as_clip4clip_counts_ties(matrix) == expected[key]["cols"]
    flat, owner = recording.inputs["sim_flat"], recording.inputs["sentence_owner"]
    mine = metrics.retrieval_metrics(flat, owner)
    multi = expected["multi/t2v tensor_text_to_video_metrics(sim_padded)"]
    ranks, _ = metrics.text_to_video_ranks(flat, owner)
    lower_median = float(ranks.median())  # the original takes the lower middle value in this direction
    _check_metrics(mine | {"text_to_video/median_rank": lower_median}, multi, "text_to_video")
    _check_metrics(mine, expected["multi/v2t compute_metrics(tensor_video_to_text_sim(sim_padded))"], "video_to_text")
    v2t = metrics.best_caption_scores(flat, owner, flat.shape[1])
    recording.check({"v2t_sim": v2t}, ["v2t_sim"])


def places_as_clip4clip_counts_ties(scores: Tensor) -> list[int]:
    """CLIP4Clip's slip: one entry for every place whose score equals the true pair's, so ties add entries."""
    ordered = scores.sort(descending=True, dim=1).values
    return torch.nonzero(ordered == scores.diagonal()[:, None])[:, 1].tolist()


def _check_metrics(mine: dict[str, float], expected: dict[str, float], direction: str = "x") -> None:
    for ours, theirs in (
        ("R@1", "R1"),
        ("R@5", "R5"),
        ("R@10", "R10"),
        ("median_rank", "MedianR"),
        ("mean_rank", "MeanR"),
    ):
        assert mine[f"{direction}/{ours}"] == pytest.approx(expected[theirs], rel=1e-5), theirs


def clip4clip_frame_sampling(recording: Recording, folder: Path) -> None:
    expected = recording.case["expected"]
    assert expected["decode"] and expected["slice"]
    for one in expected["decode"]:
        arguments = (
            one["frame_count"],
            one["fps"],
            one["feature_framerate"],
            one["start_time"],
            one["end_time"],
        )
        assert sampling.clip4clip_candidates(*arguments).tolist() == one["frame_indices"]
    keep = {0: "first", 1: "last", 2: "spread"}
    for one in expected["slice"]:
        # A file of n frames at 1 frame a second: every frame is a candidate.
        mine = sampling.clip4clip(one["num_frames"], 1, one["max_frames"], keep=keep[one["slice_framepos"]])
        kept = mine.real[::-1] if one["frame_order"] == 1 else mine.real
        padded = np.full(one["max_frames"], -1)
        padded[: len(kept)] = kept
        assert padded.tolist() == one["indices_padded_with_minus1"]
        assert mine.mask.astype(int).tolist() == one["video_mask"]


RUNNERS = {
    "openai_clip": openai_clip,
    "clip4clip_meanp": clip4clip,
    "clip4clip_seqlstm": clip4clip,
    "clip4clip_seqtransf": clip4clip,
    "clip4clip_metrics": clip4clip_metrics,
    "clip4clip_frame_sampling": clip4clip_frame_sampling,
    "clip2video_tdb": clip2video,
    "clip2video_tdb_mlp": clip2video,
    "clip2video_tdb_plain": clip2video,
    "hitchhiker_query_scoring": hitchhiker_query_scoring,
}


def system_of(folder: Path) -> str:
    return re.sub(r"-\d+$", "", folder.name)


CASES = sorted(f for f in FOLDER.glob("*") if system_of(f) in RUNNERS and (f / "case.json").exists())


@pytest.mark.skipif(not FOLDER.is_dir(), reason=f"no recordings at {FOLDER}; set VIDEOCLIP_GOLDEN to their folder")
def test_recordings_were_found() -> None:
    assert CASES, f"{FOLDER} holds no recording of {', '.join(RUNNERS)}"


@pytest.mark.parametrize("folder", CASES, ids=lambda f: f.name)
def test_equals_the_authors_code(folder: Path, tmp_path: Path) -> None:
    RUNNERS[system_of(folder)](Recording(folder), tmp_path)
