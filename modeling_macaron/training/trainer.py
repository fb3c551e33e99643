"""Trainer of the Macaron model, exact for any number of processes."""

from __future__ import annotations

import logging
import shutil
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from accelerate.data_loader import prepare_data_loader
from torch.utils.data import DataLoader, RandomSampler
from transformers import Trainer
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from modeling_macaron.modeling_macaron import MacaronForExpressionPrediction

from .callbacks import WeightAverage
from .checkpoints import whole_or_nothing
from .dataset import PromoterDataset
from .metrics import compute_metrics
from .streaming import StreamedPromoters

logger = logging.getLogger(__name__)

_SHOWN_ROWS = 10


class MacaronTrainer(Trainer):
    """Trainer with the loss of the Macaron model.

    With gradient accumulation or several processes, loss and gradients equal those of the global batch on one process.
    Both terms of the loss are logged, `expression_loss` (see `MacaronOutput.row_losses`) and
    `reconstruction_loss`.

    Evaluation predicts the expression from unmasked sequences and reconstructs masked ones; each metric is computed
    over the whole split. Row weights count in training only.

    With `ema_decay`, evaluation, checkpoints and the trained model use averaged weights. A checkpoint also holds the
    raw weights, from which training resumes (`raw_weights.safetensors`).

    A loss that is not finite raises a `FloatingPointError` that names the rows, at the next log step and before any
    save.

    The arguments are those of `transformers.Trainer`. `data_collator` must be a `PromoterCollator`, and `train_dataset`
    a `PromoterDataset` or a `StreamedPromoters`; each process reads its share of a stream. Raises a `ValueError` if
    `ema_decay` is used with FSDP or DeepSpeed, or if `dataloader_drop_last` would drop all training rows.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.rows_per_step = self.args.train_batch_size * self.args.world_size * self.args.gradient_accumulation_steps
        rows = self.train_dataset
        if self.args.dataloader_drop_last and isinstance(rows, PromoterDataset) and len(rows) < self.rows_per_step:
            raise ValueError(
                f"{len(rows)} training rows are fewer than the batch of {self.rows_per_step}: pass a smaller "
                "--global_batch_size, or --dataloader_drop_last false to train on incomplete batches"
            )
        # compute_loss scales by the counts of get_batch_samples; the Trainer must not divide by the steps again.
        self.model_accepts_loss_kwargs = True
        self.compute_metrics = partial(compute_metrics, reconstruction_weight=self.model.config.reconstruction_weight)
        self._logged_losses = torch.zeros(2, device=self.args.device)
        self._steps_since_log = 0
        # Batches since the last check: optimizer steps before, rows and their losses, each (batch,), and the loss ().
        self._unchecked: list[tuple[int, torch.Tensor, torch.Tensor, torch.Tensor]] = []
        self.average = None if self.args.ema_decay is None else WeightAverage(self.args.ema_decay)
        if self.average is not None:
            if self.is_fsdp_enabled or self.is_deepspeed_enabled:
                raise ValueError("ema_decay does not support FSDP or DeepSpeed, which shard the weights")
            self.add_callback(self.average)

    def _run_epoch(self, *args, **kwargs):
        """Train for an epoch. Does nothing after the last step, where transformers would take one more."""
        if isinstance(self.train_dataset, PromoterDataset):  # accelerate sets the epoch on one process only
            self.train_dataset.begin_epoch(kwargs["epoch"])
        if self.state.global_step >= self.state.max_steps:
            self.control.should_training_stop = True
        else:
            super()._run_epoch(*args, **kwargs)

    def get_train_dataloader(self):
        """Return the loader of the training rows. For a stream, it reads the share of this process.

        accelerate would read a stream in one process for all. Each worker would read the whole share.
        """
        if not isinstance(self.train_dataset, StreamedPromoters):
            return super().get_train_dataloader()
        loader = DataLoader(
            self.train_dataset.share(self.accelerator.process_index, self.accelerator.num_processes),
            batch_size=self._train_batch_size, collate_fn=self.data_collator,
            pin_memory=self.args.dataloader_pin_memory,
        )  # fmt: skip
        return prepare_data_loader(
            loader, self.args.device, num_processes=1, process_index=0, put_on_device=True, dispatch_batches=False,
            non_blocking=self.accelerator.non_blocking,
        )  # fmt: skip

    def _get_train_sampler(self, train_dataset=None):
        """Draw whole global batches with `dataloader_drop_last`. The Trainer's last accumulated step may be short."""
        sampler = super()._get_train_sampler(train_dataset)
        if not (self.args.dataloader_drop_last and isinstance(sampler, RandomSampler)):
            return sampler
        steps = len(sampler.data_source) // self.rows_per_step
        return RandomSampler(sampler.data_source, num_samples=steps * self.rows_per_step)

    def _get_dataloader(self, *args, is_training=False, **kwargs):
        """For evaluation, collate unmasked sequences and keep an incomplete last batch."""
        if is_training:
            return super()._get_dataloader(*args, is_training=True, **kwargs)
        usual = self.data_collator, self.args.dataloader_drop_last
        self.data_collator, self.args.dataloader_drop_last = self.data_collator.for_evaluation(), False
        try:
            return super()._get_dataloader(*args, **kwargs)
        finally:
            self.data_collator, self.args.dataloader_drop_last = usual

    def create_scheduler(self, num_training_steps, optimizer=None):
        """Create the learning-rate schedule. Warns if the warm-up takes more than half of the run."""
        warmup_steps = self.args.get_warmup_steps(num_training_steps)
        if self.args.should_log and 2 * warmup_steps > num_training_steps:
            logger.warning(
                "the learning rate warms up for %s of %s steps: pass a smaller --warmup_steps (below 1, a share of the "
                "run, for example 0.1)", f"{warmup_steps:,}", f"{num_training_steps:,}",
            )  # fmt: skip
        return super().create_scheduler(num_training_steps, optimizer)

    def get_batch_samples(self, epoch_iterator, num_batches, device):
        """Collect the batches of one optimizer step, with its global row weight and number of masked nucleotides."""
        batch_samples, _ = super().get_batch_samples(epoch_iterator, num_batches, device)
        self._steps_since_log += 1
        counts = sum((self._counts(batch).to(device) for batch in batch_samples), torch.zeros(2, device=device))
        return batch_samples, self.accelerator.reduce(counts, reduction="sum")

    def _counts(self, batch: dict) -> torch.Tensor:
        """Row weight and number of masked nucleotides (2,) of a batch, without waiting for a GPU."""
        rows = batch.get("row_weights", torch.ones_like(batch["labels"])).sum()
        return torch.stack([rows, self._num_masked(batch["masked_nucleotides"]).sum()])

    def _num_masked(self, masked_nucleotides: torch.Tensor) -> torch.Tensor:
        """Count the masked nucleotides of each row (batch,) within the positions that the model reads."""
        return (masked_nucleotides[:, : self.model.config.sequence_length] != -100).sum(dim=1)

    @property
    def _reconstructs(self) -> bool:
        """Whether the loss includes the reconstruction. If not, the last block skips all but expression positions."""
        return self.model.config.reconstruction_weight > 0

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """Compute this batch's share of the step's loss, times the number of processes that average gradients.

        `num_items_in_batch` (2,) holds the row weight and the number of masked nucleotides of the whole step.
        """
        inputs = dict(inputs)
        rows = inputs.pop("row", None)
        if self._reconstructs:
            outputs = model(**inputs, output_nucleotide_logits=False)
            losses = torch.stack([outputs.expression_loss, outputs.reconstruction_loss])
        else:
            wanted = {name: inputs[name] for name in ("input_ids", "labels", "row_weights") if name in inputs}
            outputs = model(**wanted, output_nucleotide_logits=False)
            losses = torch.stack([outputs.loss, torch.zeros_like(outputs.loss)])
        if model.training and rows is not None:
            losses_now = (outputs.row_losses.detach(), outputs.loss.detach())
            self._unchecked.append((self.state.global_step, rows, *losses_now))
        if num_items_in_batch is not None:
            weight, masked = self._counts(inputs)
            share = torch.stack([weight / num_items_in_batch[0], (masked + 1) / (num_items_in_batch[1] + 1)])
            losses = losses * share * self.accelerator.num_processes
        if model.training:
            self._logged_losses += losses.detach()
        loss = losses[0] + self.model.config.reconstruction_weight * losses[1]
        return (loss, outputs) if return_outputs else loss

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Log, with both terms of the training loss. Also called after the last step."""
        self._check_finite()
        if "loss" in logs:
            losses = self.accelerator.reduce(self._logged_losses, reduction="mean") / max(self._steps_since_log, 1)
            logs["expression_loss"], logs["reconstruction_loss"] = losses.tolist()
            if not self._reconstructs:
                del logs["reconstruction_loss"]
            self._logged_losses.zero_()
            self._steps_since_log = 0
        super().log(logs, start_time)

    def _check_finite(self) -> None:
        """Raise on every process if any has a loss that is not finite. All processes must call this together."""
        batches, self._unchecked = self._unchecked, []
        if not batches:
            return
        finite = torch.stack([torch.isfinite(loss) & torch.isfinite(losses).all() for *_, losses, loss in batches])
        if bool(self.accelerator.gather(finite.all().reshape(1)).all()):
            return
        if bool(finite.all()):
            raise FloatingPointError("the loss is not finite on another process, which names the rows")
        step, rows, losses, _ = batches[int(finite.int().argmin())]
        bad = ~torch.isfinite(losses)
        bad |= ~bad.any()  # without a bad row, the weights have diverged
        found = rows.to(bad.device)[bad].tolist()
        names = ", ".join(map(getattr(self.train_dataset, "name_row", str), found[:_SHOWN_ROWS]))
        cause = "look at their values, or train in float32"
        if bad.all():
            cause = "the weights have diverged: continue from the last checkpoint with a smaller learning rate"
        raise FloatingPointError(
            f"the loss is not finite at step {step + 1}, from {len(found)} of {len(bad)} rows of a batch "
            f"({names}{', ...' if len(found) > _SHOWN_ROWS else ''}); {cause}"
        )

    def prediction_step(self, model, inputs, prediction_loss_only, ignore_keys=None):
        """Return None, predictions and parts of the loss (batch,), and labels (batch,)."""
        inputs = self._prepare_inputs(inputs)
        labels, masked_nucleotides = inputs["labels"], inputs["masked_nucleotides"]
        with torch.no_grad(), self.compute_loss_context_manager():
            outputs = model(input_ids=inputs["input_ids"], labels=labels, output_nucleotide_logits=False)
            predictions = {"expression": outputs.logits.flatten().float(), "loss": outputs.row_losses}
            if outputs.variance is not None:
                predictions["variance"] = outputs.variance.flatten()
            if not self._reconstructs:
                return None, predictions, labels
            nucleotide_logits = model(input_ids=inputs["masked_input_ids"]).nucleotide_logits
        masked_nucleotides = masked_nucleotides[:, : nucleotide_logits.shape[1]]
        entropies = F.cross_entropy(nucleotide_logits.transpose(1, 2).float(), masked_nucleotides, reduction="none")
        masked = {"entropy": entropies.sum(dim=1), "masked": self._num_masked(masked_nucleotides)}
        return None, predictions | masked, labels

    def evaluation_loop(self, *args, **kwargs):
        """Evaluate or predict a split, with averaged weights if there are any."""
        with self._averaged_weights():
            return super().evaluation_loop(*args, **kwargs)

    def whole_model(self) -> MacaronForExpressionPrediction:
        """Return the unwrapped model. Under FSDP, all processes must call this, and only the main one gets weights."""
        if not self.is_fsdp_enabled:
            return self.accelerator.unwrap_model(self.model)
        return self._assemble(self.accelerator.get_state_dict(self.model))

    def _assemble(self, weights: dict[str, torch.Tensor]) -> MacaronForExpressionPrediction:
        """Make a plain model with gathered weights. FSDP's wrapper class would save the wrong code."""
        with torch.device("meta"):
            model = MacaronForExpressionPrediction(self.model.config)
        model.load_state_dict(weights, strict=self.args.should_save, assign=True)
        return model

    def _averaged_weights(self) -> AbstractContextManager[None]:
        return nullcontext() if self.average is None else self.average.in_use(self.model)

    def _save_checkpoint(self, *args, **kwargs):
        """Save a checkpoint if the loss is finite. Replaces a folder left over from an interrupted run."""
        self._check_finite()
        folder = Path(self.args.output_dir, f"{PREFIX_CHECKPOINT_DIR}-{self.state.global_step}")
        if self.args.should_save and folder.exists():
            shutil.rmtree(folder)
        self.accelerator.wait_for_everyone()
        for callback in self.callback_handler.callbacks:  # the Trainer fails if a resumed checkpoint lacks one
            if isinstance(callback, ExportableState):
                self.state.stateful_callbacks.setdefault(type(callback).__name__, callback.state())
        with whole_or_nothing(folder):
            super()._save_checkpoint(*args, **kwargs)

    def _save_rng_state(self, output_dir):
        """Save the random state and wait for all processes. The next file completes the checkpoint."""
        super()._save_rng_state(output_dir)
        self.accelerator.wait_for_everyone()

    def _save(self, output_dir=None, state_dict=None):
        """Save the averaged weights and, in training, the raw ones too. Under FSDP, save the gathered model."""
        if self.args.should_save and self.is_fsdp_enabled:
            sharded, self.model = self.model, self._assemble(state_dict)
            try:
                return super()._save(output_dir, state_dict)
            finally:
                self.model = sharded
        if not self.args.should_save or self.average is None or self.average.weights is None:
            return super()._save(output_dir, state_dict)
        model = self.accelerator.unwrap_model(self.model, keep_torch_compile=False)
        self.average.save_raw(model, self.args.output_dir if output_dir is None else output_dir)
        with self._averaged_weights():
            return super()._save(output_dir, state_dict)

    def _load_from_checkpoint(self, resume_from_checkpoint, model=None):
        """Load the weights of a checkpoint, averaged and raw ones if weights are averaged."""
        super()._load_from_checkpoint(resume_from_checkpoint, model)
        if self.average is not None:
            model = self.model if model is None else model
            self.average.restore(self.accelerator.unwrap_model(model, keep_torch_compile=False), resume_from_checkpoint)
