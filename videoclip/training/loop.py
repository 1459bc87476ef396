"""The training loop: reads a store, trains a model, keeps the epoch that validates best, tests it once."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import set_seed
from rich.progress import track

from videoclip.config import RunConfig
from videoclip.data.manifest import Clip, of_split, read_manifest
from videoclip.errors import DataError
from videoclip.model import MAX_LOGIT_SCALE, build_model, load_model, load_trained
from videoclip.store import FeatureStore
from videoclip.store.dataset import TrainingPairs, captions, in_store
from videoclip.training.evaluate import evaluate, runs_live
from videoclip.training.optimizer import make_optimizer, schedule, set_learning_rate
from videoclip.training.run import Run
from videoclip.training.task import ContrastiveTask


def train(
    config: RunConfig,
    out: str | Path,
    resume: bool = False,
    prepare: Callable[[RunConfig], None] | None = None,
) -> dict[str, Any] | None:
    """Train, validate after each epoch, test the best epoch once.

    Args:
        config: the whole run.
        out: its folder; afterwards ``best/`` is a checkpoint for ``load_model`` and ``report.json`` the result.
        resume: go on after an interruption, from the last checkpoint to the same result.
        prepare: makes the data, if need be; the main process calls it first.

    Returns:
        The report: metrics per test split, best epoch, trained parameters, seconds. None but in the main process.

    Raises:
        VideoclipError: config, data, store or an earlier run in ``out`` do not fit.
    """
    AcceleratorState._reset_state()  # an earlier run of this process may have used another precision
    accelerator = Accelerator(mixed_precision=_precision(config.train.precision), cpu=not torch.cuda.is_available())
    run = Run(out, config, resume)
    finished = run.read_report()
    if finished is not None:
        return finished if accelerator.is_main_process else None
    if prepare is not None:
        with accelerator.main_process_first():
            prepare(config)
    trainer = Trainer(config, run, accelerator)
    began = time.monotonic()
    trainer.fit()
    accelerator.wait_for_everyone()
    return trainer.report(time.monotonic() - began) if accelerator.is_main_process else None


class Trainer:
    """State of a run in memory; ``train`` is the way in."""

    def __init__(self, config: RunConfig, run: Run, accelerator: Accelerator) -> None:
        self.config, self.run, self.accelerator = config, run, accelerator
        set_seed(config.train.seed)
        self.store = FeatureStore(config.data.store)
        self.manifest = read_manifest(config.data.manifest)
        self.model = build_model(config.model)
        self.store.check_backbone(self.model.backbone)  # type: ignore[arg-type]
        self.pairs = self._pairs()
        for split in (config.data.validation, *config.data.test):
            self._present(split)  # what is missing should be told now, not after the training
        self.progress, state = run.load()
        if accelerator.is_main_process:
            run.start(config, self.store.fingerprint)
            run.cut_log(self.progress.epoch, self.progress.step)
        if state:
            load_trained(self.model, state["model"], str(run.folder))
        optimizer = make_optimizer(self.model, config.train)
        if state:
            optimizer.load_state_dict(state["optimizer"])
            torch.set_rng_state(state["rng"])
        self.task, self.optimizer = accelerator.prepare(
            ContrastiveTask(self.model, config.train.reversed_negatives), optimizer
        )
        if state and accelerator.scaler is not None:
            accelerator.scaler.load_state_dict(state["scaler"])

    def fit(self) -> None:
        """Run the epochs that are left."""
        steps = self._steps()
        while self.progress.epoch < self.config.train.epochs:
            order = self.pairs.order(self.progress.epoch)
            title = f"epoch {self.progress.epoch + 1}/{self.config.train.epochs}"
            left = range(self.progress.step, steps)
            for step in track(left, title, disable=not self.accelerator.is_main_process, transient=True):
                self._step(order, step, steps)
                if (step + 1) % self.config.train.checkpoint_steps == 0 and step + 1 < steps:
                    self.progress.step = step + 1
                    self._save()
            self._validate(steps)
            self.progress.epoch, self.progress.step = self.progress.epoch + 1, 0
            self._save()

    def report(self, seconds: float) -> dict[str, Any]:
        """Score the best epoch on the test splits and write the result."""
        best = load_model(self.run.folder / "best").to(self.accelerator.device)
        tests = {
            split: evaluate(best, self.store, self._clips(split), self.config.data.allow_missing).summary()
            for split in self.config.data.test
        }
        report = {
            "test": tests,
            "selected_by": f"{self.config.data.validation} {self.config.train.select}",
            "best_epoch": self.progress.best_epoch,
            "best_value": self.progress.best_value,
            "parameters": sum(p.numel() for p in self.model.parameters() if p.requires_grad),
            "seconds": round(seconds, 1),
            "seed": self.config.train.seed,
        }
        self.run.report(report)
        return report

    def _step(self, order: np.ndarray, step: int, steps: int) -> None:
        """One optimiser step over ``batch_size`` pairs, of which this process takes its share."""
        train, done = self.config.train, self.progress.epoch * steps + step
        share = schedule(done, steps * train.epochs, train.warmup)
        set_learning_rate(self.optimizer, share)
        chosen = order[step * train.batch_size : (step + 1) * train.batch_size]
        losses = []
        for part in np.array_split(chosen, train.accumulation):
            mine = part[self.accelerator.process_index :: self.accelerator.num_processes]
            batch = self.pairs.batch(mine, self.progress.epoch).to(self.accelerator.device)
            loss = self.task(batch)
            if not torch.isfinite(loss):
                raise DataError(
                    f"The loss became {loss.item()} in epoch {self.progress.epoch + 1}, step {step}; lower train.lr."
                )
            self.accelerator.backward(loss / train.accumulation)
            losses.append(loss.item())
        self.accelerator.clip_grad_norm_(self.task.parameters(), train.clip_gradient)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.model.logit_scale.data.clamp_(max=MAX_LOGIT_SCALE)
        if self.accelerator.is_main_process:
            values = {
                "epoch": self.progress.epoch,
                "step": step,
                "loss": float(np.mean(losses)),
                "lr": train.lr * share,
            }
            self.run.log(values)

    def _validate(self, steps: int) -> None:
        """Score the validation split; keep the weights if no earlier epoch was as good."""
        clips = self._clips(self.config.data.validation)
        metrics = evaluate(self.model, self.store, clips, self.config.data.allow_missing).metrics
        value = metrics[self.config.train.select]
        sign = -1 if self.config.train.select.endswith("_rank") else 1
        improved = self.progress.best_value is None or sign * value > sign * self.progress.best_value
        if improved:
            self.progress.best_value, self.progress.best_epoch = value, self.progress.epoch
        if self.accelerator.is_main_process:
            if improved:
                self.model.save(self.run.folder / "best")
            self.run.log({"epoch": self.progress.epoch, "step": steps, **{f"val/{k}": v for k, v in metrics.items()}})

    def _save(self) -> None:
        if self.accelerator.is_main_process:
            scaler = self.accelerator.scaler
            self.run.save(
                self.progress,
                {
                    "model": self.model.trained(),
                    "optimizer": self.optimizer.state_dict(),
                    "rng": torch.get_rng_state(),
                    "scaler": scaler.state_dict() if scaler is not None else {},
                },
            )

    def _clips(self, split: str) -> list[Clip]:
        return of_split(self.manifest, split, self.config.data.manifest)

    def _present(self, split: str) -> list[Clip]:
        return in_store(self._clips(split), self.store, self.config.data.allow_missing)

    def _pairs(self) -> TrainingPairs:
        config, clips = self.config, self._present(self.config.data.train)
        live = runs_live(self.model, self.store)
        return TrainingPairs(
            self.store,
            clips,
            config.model.frames,
            tokens=self.model.backbone.tokenize(captions(clips)) if live and self.model.backbone else None,
            words=self.model.similarity.needs_words and not live,
            context=config.model.context,
            random_frames=config.data.sampling == "random",
            seed=config.train.seed,
        )

    def _steps(self) -> int:
        """Optimiser steps an epoch; pairs that do not fill a last batch wait for the next epoch's order."""
        train, share = self.config.train, self.config.train.accumulation * self.accelerator.num_processes
        if train.batch_size % share:
            raise DataError(
                f"train.batch_size={train.batch_size} cannot be shared evenly: make it a multiple of accumulation x "
                f"processes = {share}."
            )
        if len(self.pairs) < train.batch_size:
            raise DataError(
                f"train.batch_size={train.batch_size} is more than the {len(self.pairs)} training pairs; lower it."
            )
        return len(self.pairs) // train.batch_size


def _precision(wanted: str) -> str:
    if wanted == "fp16" and not torch.cuda.is_available():
        raise DataError("train.precision=fp16 needs a GPU; use bf16 or fp32.")
    if wanted == "auto":
        return "bf16" if torch.cuda.is_available() and torch.cuda.is_bf16_supported() else "no"
    return "no" if wanted == "fp32" else wanted
