"""Recordings of what happens to scores: metrics, corrections, losses, and the averages of weights they train."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.golden.recording import Recording
from videoclip import loss, metrics
from videoclip.metrics.ranks import Scores, best_captions, rank
from videoclip.registry import create
from videoclip.retrieval import hubness
from videoclip.training.averaging import BetaMovingAverage


def clip4clip_metrics(recording: Recording, folder: Path) -> None:
    expected = recording.case["expected"]
    square = recording.inputs["sim"]
    diagonal = torch.arange(len(square))
    for key, matrix in (("sim/t2v compute_metrics(x)", square), ("sim/v2t compute_metrics(x.T)", square.T)):
        found = rank(Scores.of(matrix, diagonal))
        assert not found.text_tied.any()
        check_metrics(metrics.summarise(found.text, found.text_tied, "x"), expected[key])
        assert (found.text - 1).tolist() == expected[key]["cols"]
    for key, matrix in (
        ("sim_ties/t2v compute_metrics(x)", recording.inputs["sim_ties"]),
        ("sim_ties/v2t compute_metrics(x.T)", recording.inputs["sim_ties"].T),
    ):
        assert places_as_clip4clip_counts_ties(matrix) == expected[key]["cols"]
    flat, owner = recording.inputs["sim_flat"], recording.inputs["sentence_owner"]
    mine = metrics.retrieval_metrics(flat, owner)
    multi = expected["multi/t2v tensor_text_to_video_metrics(sim_padded)"]
    lower_median = float(
        rank(Scores.of(flat, owner)).text.median()
    )  # the original takes the lower middle value in this direction
    check_metrics(mine | {"text_to_video/median_rank": lower_median}, multi, "text_to_video")
    check_metrics(mine, expected["multi/v2t compute_metrics(tensor_video_to_text_sim(sim_padded))"], "video_to_text")
    recording.check({"v2t_sim": best_captions(flat, owner)[1].T}, ["v2t_sim"])


def places_as_clip4clip_counts_ties(scores: Tensor) -> list[int]:
    """CLIP4Clip's slip: one entry for every place whose score equals the true pair's, so ties add entries."""
    ordered = scores.sort(descending=True, dim=1).values
    return torch.nonzero(ordered == scores.diagonal()[:, None])[:, 1].tolist()


def check_metrics(mine: dict[str, float], expected: dict[str, float], direction: str = "x") -> None:
    for ours, theirs in (
        ("R@1", "R1"),
        ("R@5", "R5"),
        ("R@10", "R10"),
        ("median_rank", "MedianR"),
        ("mean_rank", "MeanR"),
    ):
        assert mine[f"{direction}/{ours}"] == pytest.approx(expected[theirs], rel=1e-5), theirs


def contra_losses(recording: Recording, folder: Path) -> None:
    o, x, near = recording.options, recording.inputs, recording.inputs["clips_with_neighbours"]
    logits = x["text"] @ x["video"].T / o["temperature"]
    hard_text = (x["video"][near] * x["negative_text"]).sum(1) / o["temperature"]
    hard_video = (x["text"][near] * x["negative_video"]).sum(1) / o["temperature"]
    mine = {
        "nce": o["lambda_1"] * create("loss", "joint_softmax")(loss.Pairs.of(logits)),
        "uniformity": o["lambda_2"] * loss.uniformity(torch.cat([x["video"], x["text"]])),
        "neighbouring_text": o["lambda_3"] * loss.one_negative(logits.diagonal()[near], hard_text),
        "neighbouring_video": o["lambda_4"] * loss.one_negative(logits.diagonal()[near], hard_video),
    }
    mine["loss"] = torch.stack(list(mine.values())).sum()
    mine["loss"].backward()
    recording.check(mine | {f"grad.input:{name}": tensor.grad for name, tensor in x.items() if tensor.grad is not None})


def of(matrix: Tensor, chunk: int = 3) -> Scores:
    """Scores whose rows belong to no video in particular, some at a time."""
    return Scores(
        lambda index: matrix.detach()[index],
        torch.zeros(len(matrix)).long(),
        matrix.shape[1],
        list(torch.arange(len(matrix)).split(chunk)),
    )


def qb_norm(recording: Recording, folder: Path) -> None:
    test, bank, mine, expected = (
        recording.inputs["test_sim"],
        recording.inputs["bank_sim"],
        {},
        recording.case["expected"],
    )
    queries, videos = test.shape
    per_video = queries // videos
    owner = torch.arange(videos).repeat_interleave(per_video)
    for k, beta in recording.options["k_beta"]:
        name = f"k{int(k)}_beta{beta:g}"
        found = hubness.qb_norm(of(test), of(bank), int(k), beta).whole()
        mine |= {
            f"normalised_{name}": found.double(),
            f"activation_set_k{int(k)}": hubness.hubs(of(bank), int(k)).nonzero()[:, 0],
        }
        ranks = rank(Scores.of(found, owner), "all_captions")  # the rule of the authors' video-to-text metric
        assert ranks.video is not None and ranks.video_tied is not None
        both = ((ranks.text, ranks.text_tied, name), (ranks.video, ranks.video_tied, f"v2t_{name}"))
        for found_ranks, tied, theirs in both:
            rounded = metrics.summarise(found_ranks, tied, "x")
            names = {"R@1": "R1", "R@5": "R5", "R@10": "R10", "median_rank": "MedR", "mean_rank": "MeanR"}
            for ours, recorded in names.items():
                assert rounded[f"x/{ours}"] == pytest.approx(expected[theirs][recorded], abs=0.051), (theirs, recorded)
    mine["all_rows_beta20"] = hubness.qb_norm(of(test), of(bank), videos, 20.0).whole().double()
    recording.check(mine)


def dual_softmax_formula(recording: Recording, folder: Path) -> None:
    sim, mine = recording.inputs["sim"], {}
    for name in recording.outputs:
        temperature = float(name.rpartition("temp")[2])
        if "dim1" in name:
            mine[name] = hubness.dual_softmax(of(sim.T), temperature).whole().T
        else:
            factor = len(sim) if "_len_" in name else 1
            mine[name] = factor * hubness.dual_softmax(of(sim), temperature).whole()
    recording.check(mine)


def camoe_dual_softmax_loss(recording: Recording, folder: Path) -> None:
    sim = recording.inputs["sim"]
    pairs = loss.Pairs.of(sim)
    module = create("loss", "dual_softmax", {"temperature": recording.options["temp"]})
    rows = module.one_way(pairs.logits, pairs.positive, pairs.ignored, pairs.scale)
    rows.mean().backward()
    recording.check({"loss_rows": rows, "loss": rows.mean(), "grad.input:sim": sim.grad})  # type: ignore[dict-item]
    both = (rows.mean() + module.one_way(sim.T, pairs.positive, pairs.ignored, pairs.scale).mean()) / 2
    torch.testing.assert_close(module(pairs), both)


def nnn_retrieval(recording: Recording, folder: Path) -> None:
    x = recording.inputs
    scores, bank = (of((x[name] @ x["gallery"].T).detach(), 7) for name in ("queries", "reference"))
    mine = {}
    mine["base_indices"], mine["base_scores"] = scores.top(scores.videos)
    for k, weight in recording.options["alternate_ks_and_weight"]:
        columns, values = hubness.nnn(scores, bank, k, weight).top(scores.videos)
        name = f"k{k}_w{weight:g}"
        bias = scores.whole() - hubness.nnn(scores, bank, k, 1.0).whole()
        mine |= {
            f"nnn_indices_{name}": columns,
            f"nnn_scores_{name}": values,
            f"alignment_means_k{k}": bias[0][:, None],
        }
    recording.check(mine)


def clipood_mms_bma(recording: Recording, folder: Path) -> None:
    o, x = recording.options, recording.inputs
    encoder = nn.Linear(x["x"].shape[-1], x["text_features"].shape[-1])
    encoder.load_state_dict(recording.weights)
    average = BetaMovingAverage(encoder, o["iters"], o["beta"])
    assert average.weights == pytest.approx(recording.case["expected"]["bma_weights"], rel=1e-6)
    optimizer, found = torch.optim.SGD(encoder.parameters(), lr=o["lr"]), []
    for batch, labels in zip(x["x"].detach(), x["labels"], strict=True):
        features = F.normalize(encoder(batch), dim=-1)
        step = loss.margin_softmax(features, x["text_features"].detach(), labels, o["lam"], 1 / o["temperature"])
        optimizer.zero_grad()
        step.backward()
        optimizer.step()
        average.update(encoder)
        found.append(step.detach())
    mine = {f"bma_{name}": tensor for name, tensor in average.average.items()}
    mine |= {f"final_{name}": tensor for name, tensor in encoder.named_parameters()}
    recording.check({**mine, "losses": torch.stack(found)})


RUNNERS = {
    "clip4clip_metrics": clip4clip_metrics,
    "contra_losses": contra_losses,
    "qb_norm": qb_norm,
    "dual_softmax_formula": dual_softmax_formula,
    "camoe_dual_softmax_loss": camoe_dual_softmax_loss,
    "nnn_retrieval": nnn_retrieval,
    "clipood_mms_bma": clipood_mms_bma,
}
