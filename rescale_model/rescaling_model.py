"""What all rescaling models share: loading, saving, precision, validation of LR and HR images."""

from __future__ import annotations

import io
import json
import logging
import math
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import rescale_compat  # noqa: F401  first: it lets basicsr import

import torch
import torch.distributed as dist
from basicsr.archs import build_network
from basicsr.losses import build_loss
from basicsr.models.sr_model import SRModel
from basicsr.utils import get_root_logger
from basicsr.utils.dist_util import master_only
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from rescale_arch.bfloat16 import SLOW_BFLOAT16, bfloat16_is_native
from rescale_arch.compiling import compile_for_training
from rescale_arch.inference_kernels import inference_kernels
from rescale_arch.memory_format import channels_last
from rescale_arch.official_weights import canonical_weights, load_strictly
from rescale_data.image_file import write_file
from rescale_data.unit_range import to_unit_range
from rescale_data.weight_file import fingerprint, read_weights
from rescale_model.evaluation import Evaluation, Judged, Means
from rescale_model.finite_check import FiniteCheck
from rescale_model.json_file import write_options
from rescale_model.resume import (
    Progress,
    agree_on_seed,
    random_states,
    same_randomness,
    set_random_states,
)
from rescale_model.stop_signal import StopSignal

PRECISIONS = ("fp32", "bf16")


class RescalingModel(SRModel, ABC):
    """BasicSR's ``SRModel`` for networks that make their LR image themselves.

    A subclass trains (:meth:`build_losses`, :meth:`losses`) and says what validation is to judge
    (:meth:`validation_cases`, :meth:`round_trip`). Batches hold ``gt`` and ``gt_path``.

    A run that was stopped, by a signal or by ``kill -9``, and resumed through ``rescale train``
    ends with the weights of one that was not: training states hold the random states of all ranks
    and the place in the data, too. On a CPU that is exact to the bit.

    A step whose losses are not finite does not reach the weights: it is left out, or the run stops
    with the state of before saved. A GPU does not wait for that check, which is of the losses; with
    ``skip_non_finite`` it does, since then gradients are checked as well.

    Options beyond BasicSR's:
        ``train: precision`` -- fp32 (default) or bf16 (autocast). On a GPU, fp32 convolutions are
            computed in TF32 in training, as is PyTorch's default;
        ``val: precision`` -- fp32 (default), which in validation and tests is fp32 on a GPU too, or
            bf16 (autocast);
        ``train: compile: true`` -- compiles the parts of the network whose sizes stay the same (see
            :mod:`rescale_arch.compiling`), in the first steps, which takes minutes. Meant for GPUs:
            on a CPU it gains little. Validation, whose pictures have any size, runs as without. A
            run that was stopped and resumed is the same up to rounding only;
        ``sync_bn: true`` -- batch statistics over all ranks (GPU only);
        ``train: optim_g: type`` -- any optimiser of ``torch.optim``;
        ``train: skip_non_finite: true`` -- leaves out steps with losses or gradients that are not
            finite, on all ranks alike, and counts them in the log as ``skipped``; by default such
            losses stop the run;
        ``val:`` -- see :class:`rescale_model.evaluation.Evaluation`.

    Attributes:
        judged: the names that :meth:`round_trip` gives images under.
        progress: where the run is in its data; None where BasicSR's own runner trains.
        stop: asked after every step whether to leave; None likewise.
    """

    judged: Collection[str] = ("hr", "lr", "bicubic")
    progress: Progress | None = None
    stop: StopSignal | None = None

    def __init__(self, opt: dict[str, Any]) -> None:
        agree_on_seed(opt)
        self.skipped = 0
        self._saved_iter = 0
        if opt["num_gpu"] and not torch.cuda.is_available():
            raise ValueError(
                f"option num_gpu is {opt['num_gpu']}, but PyTorch finds no GPU: use auto or 0"
            )
        if opt["num_gpu"] > 1 and not opt["dist"]:
            # BasicSR's DataParallel would multiply the batch and take batch statistics per GPU
            raise ValueError(
                f"option num_gpu is {opt['num_gpu']}, but this is a single process, which uses one "
                "GPU: use num_gpu: 1, or start a process for each GPU: torchrun --nproc_per_node "
                f"{opt['num_gpu']} $(which rescale) .. --launcher pytorch"
            )
        super().__init__(opt)
        asked = [s for s in ("train", "val") if (opt.get(s) or {}).get("precision") == "bf16"]
        if asked and not bfloat16_is_native(self.device):
            get_root_logger().warning(f"Option {' and '.join(asked)}: precision: {SLOW_BFLOAT16}")
        self.evaluation = None
        if opt.get("val"):
            self.evaluation = Evaluation(opt["val"], self.judged)
            self.validation_cases()  # a wrong option is told now, not at the first validation

    # training ---------------------------------------------------------------------------------

    @abstractmethod
    def build_losses(self) -> None:
        """Builds the losses from ``opt['train']``."""

    @abstractmethod
    def losses(self, current_iter: int) -> dict[str, Tensor]:
        """The weighted losses of the present batch, which are summed and minimised."""

    def init_training_settings(self) -> None:
        """Sets up EMA, losses, optimisers and schedulers."""
        self.net_g.train()
        train_opt = self.opt["train"]
        self.ema_decay = train_opt.get("ema_decay", 0)
        if self.ema_decay > 0:
            get_root_logger().info(f"Use Exponential Moving Average with decay: {self.ema_decay}")
            self.net_g_ema = channels_last(build_network(self.opt["network_g"]).to(self.device))
            self.model_ema(0)  # a partial load leaves the other entries as in net_g
            path = self.opt["path"].get("pretrain_network_g")
            if path is not None:
                strict = self.opt["path"].get("strict_load_g", True)
                self.load_network(self.net_g_ema, path, strict, "params_ema")
            self.net_g_ema.eval().requires_grad_(False)
        self.build_losses()
        if train_opt.get("compile"):
            compile_for_training(self.get_bare_model(self.net_g))
        self.setup_optimizers()
        self.setup_schedulers()
        self._remember()

    def build_loss(self, name: str) -> nn.Module:
        """Builds the loss of the option ``train: name``.

        Raises:
            ValueError: the option is missing.
        """
        loss_opt = self.opt["train"].get(name)
        if not loss_opt:
            raise ValueError(f"option train: {name} is missing: {type(self).__name__} needs it")
        loss: nn.Module = build_loss(loss_opt).to(self.device)
        return loss

    def setup_optimizers(self) -> None:
        """One optimiser over all parameters that are trained."""
        options = dict(self.opt["train"]["optim_g"])
        trained = [p for p in self.net_g.parameters() if p.requires_grad]
        self.optimizer_g = self.get_optimizer(options.pop("type"), trained, **options)
        self.optimizers.append(self.optimizer_g)

    def build_discriminator(self) -> None:
        """Builds ``net_d`` as the option ``network_d`` says, for models that train one."""
        self.net_d = self.model_to_device(build_network(self.opt["network_d"]))
        self.print_network(self.net_d)
        path = self.opt["path"]
        if path.get("pretrain_network_d"):
            strict, key = path.get("strict_load_d", True), path.get("param_key_d", "params")
            self.load_network(self.net_d, path["pretrain_network_d"], strict, key)
        self.net_d.train()

    def setup_discriminator_optimizer(self) -> None:
        """The second optimiser, over the discriminator."""
        options = dict(self.opt["train"]["optim_d"])
        parameters: list[Tensor] = list(self.net_d.parameters())
        self.optimizer_d = self.get_optimizer(options.pop("type"), parameters, **options)
        self.optimizers.append(self.optimizer_d)

    def get_optimizer(
        self, optim_type: str, params: list[Tensor], lr: float, **kwargs: Any
    ) -> torch.optim.Optimizer:
        """The optimiser of ``torch.optim`` that is called ``optim_type``.

        Raises:
            ValueError: there is none.
        """
        return optimizer_class(optim_type)(params, lr=lr, **kwargs)

    def feed_data(self, data: Mapping[str, Any]) -> None:
        """Takes a batch: ``gt``, HR images, and their names for messages, ``gt_path``.

        ``gt`` is (B, 3, H, W), float in [0, 1] or uint8.
        """
        gt = data["gt"].to(self.device, non_blocking=True)
        self.gt = to_unit_range(gt.contiguous(memory_format=torch.channels_last))
        self.gt_path = list(data.get("gt_path", ()))

    def update_learning_rate(self, current_iter: int, warmup_iter: int = -1) -> None:
        """Begins a step, or leaves if a signal asks for it.

        Raises:
            SystemExit: 128 + the signal's number; what the steps before have trained is saved.
        """
        if self.stop is not None and (number := self.stop.agreed()):
            self._leave(current_iter - 1, number)
        self._remember()
        super().update_learning_rate(current_iter, warmup_iter)

    def optimize_parameters(self, current_iter: int) -> None:
        """One training step, whole or not at all.

        Raises:
            ValueError: the losses are not finite, and the options do not ask to skip such steps.
        """
        buffers = [buffer for net in self._trained_nets() for buffer in net.buffers()]
        before = [buffer.clone() for buffer in buffers]
        for optimizer in self.optimizers:
            optimizer.zero_grad(set_to_none=True)
        self._last_losses: dict[str, Tensor] = {}
        self._checks: list[FiniteCheck] = []
        self.backward(current_iter)
        if self._is_finite():
            for optimizer in self.optimizers:
                optimizer.step()  # without gradients it does nothing, but counts for the scheduler
            self.after_step(current_iter)
        else:
            for buffer, value in zip(buffers, before, strict=True):  # batch statistics, for one
                buffer.copy_(value)
            self._refuse(current_iter)
        if self.progress is not None:
            self.progress.samples += len(self.gt) * self.opt["world_size"]

    def backward(self, current_iter: int) -> None:
        """Finds the gradients of the step; a second optimiser's, too."""
        self.add_gradients(self.losses(current_iter))

    def add_gradients(self, losses: Mapping[str, Tensor]) -> None:
        """Adds the gradients of the sum of ``losses``, which are logged and checked."""
        total: Tensor = sum(losses.values())  # type: ignore[assignment]
        self._checks.append(FiniteCheck(total))
        total.backward()
        self._last_losses |= {name: value.detach() for name, value in losses.items()}

    def after_step(self, current_iter: int) -> None:
        """What follows once the weights have changed."""
        if self.ema_decay > 0:
            self.model_ema(self.ema_decay)

    def get_current_log(self) -> dict[str, float]:
        """The losses of the last step, averaged over the ranks.

        Reckoned when asked for: a GPU would have to wait for it in every step.
        """
        log: dict[str, float] = self.reduce_loss_dict(self._last_losses)
        if self.opt["train"].get("skip_non_finite"):
            log["skipped"] = self.skipped
        return log

    def _trained_nets(self) -> list[nn.Module]:
        return [self.net_g, self.net_d] if hasattr(self, "net_d") else [self.net_g]

    def _is_finite(self) -> bool:
        if self.opt["train"].get("skip_non_finite"):
            parameters = [p for net in self._trained_nets() for p in net.parameters()]
            # no norm is over infinity, so this one leaves the gradients as they are
            self._checks.append(FiniteCheck(nn.utils.clip_grad_norm_(parameters, math.inf)))
        return all([check.passed() for check in self._checks])

    def _refuse(self, current_iter: int) -> None:
        """Tells of a step that was left out, and skips or stops."""
        names: list[Any] = [(_wrong(self._last_losses), self.gt_path)]
        if self.opt["dist"]:
            own, names = names[0], [None] * self.opt["world_size"]
            dist.all_gather_object(names, own)
        guilty = [entry for entry in names if entry[0]] or names
        wrong = ", ".join(sorted({text for texts, _ in guilty for text in texts})) or "gradients"
        scale = f", scale {self.scale:g}" if hasattr(self, "scale") else ""
        message = f"iteration {current_iter}{scale}: not finite: {wrong}; images: " + ", ".join(
            path for _, paths in guilty for path in paths
        )
        if self.opt["train"].get("skip_non_finite"):
            self.skipped += 1
            get_root_logger().warning(f"Skipped {message}")
            return
        self._go_back()
        last = current_iter - 1
        weights = [p for net in self._trained_nets() for p in net.parameters()]
        if not all(bool(weight.isfinite().all()) for weight in weights):
            raise ValueError(f"{message}; the weights are not finite any more, nor saved")
        self._save_progress(last)
        raise ValueError(
            f"{message}; {f'iteration {last} is saved' if last else 'nothing is trained yet'}; "
            "train: skip_non_finite: true leaves such steps out"
        )

    def _remember(self) -> None:
        """Keeps what a step changes before its losses are known to be finite."""
        self._before = (
            [scheduler.state_dict() for scheduler in self.schedulers],
            [[group["lr"] for group in optimizer.param_groups] for optimizer in self.optimizers],
            random_states(),
        )

    def _go_back(self) -> None:
        schedulers, rates, randomness = self._before
        for scheduler, state in zip(self.schedulers, schedulers, strict=True):
            scheduler.load_state_dict(state)
        self._set_lr(rates)
        set_random_states(randomness)

    def _save_progress(self, iteration: int) -> None:
        """Saves what ``iteration`` has left, unless that is done already."""
        if iteration > self._saved_iter:
            self.save(self.progress.epoch if self.progress is not None else 0, iteration)

    def _leave(self, iteration: int, number: int) -> None:
        self._save_progress(iteration)
        get_root_logger().info(f"Left by a signal; --auto_resume goes on from {iteration}.")
        raise SystemExit(128 + number)

    @torch.no_grad()
    def model_ema(self, decay: float = 0.999) -> None:
        """Moves the average network towards the trained one; batch statistics are copied."""
        net, average = self.get_bare_model(self.net_g), self.net_g_ema
        move_average(average.parameters(), net.parameters(), decay)
        buffers = list(zip(average.buffers(), net.buffers(), strict=True))
        for dtype in {buffer.dtype for _, buffer in buffers}:  # with several it is one by one
            own, trained = zip(*(pair for pair in buffers if pair[1].dtype == dtype), strict=True)
            torch._foreach_copy_(own, trained)

    def autocast(self, section: str) -> torch.autocast:
        """The precision that ``opt[section]`` asks for.

        Raises:
            ValueError: it is unknown.
        """
        precision = self.opt[section].get("precision", "fp32")
        if precision not in PRECISIONS:
            raise ValueError(
                f"option {section}: precision is {precision!r}: valid are {', '.join(PRECISIONS)}"
            )
        return torch.autocast(self.device.type, torch.bfloat16, enabled=precision == "bf16")

    def model_to_device(self, net: nn.Module) -> nn.Module:
        """Moves ``net`` to the device and wraps it for distributed training, on a CPU as well.

        Raises:
            ValueError: ``sync_bn`` without a GPU, which PyTorch does not have.
        """
        net = channels_last(net.to(self.device))
        if not self.opt["dist"]:
            return net
        on_gpu = self.device.type == "cuda"
        if self.opt.get("sync_bn"):
            if not on_gpu:
                raise ValueError("option sync_bn: synchronised batch norm needs a GPU")
            net = nn.SyncBatchNorm.convert_sync_batchnorm(net)
        return DistributedDataParallel(
            net,
            device_ids=[torch.cuda.current_device()] if on_gpu else None,
            find_unused_parameters=self.opt.get("find_unused_parameters", False),
        )

    # files ------------------------------------------------------------------------------------

    def load_network(
        self, net: nn.Module, load_path: str, strict: bool = True, param_key: str | None = "params"
    ) -> None:
        """Loads BasicSR's, the authors' or safetensors weights.

        Args:
            net: the network.
            load_path: the file.
            strict: False loads the entries that ``net`` shares with the file and logs the others.
            param_key: entry of the file; where it has neither ``params`` nor ``params_ema``, those
                two mean the only weights that it has.

        Raises:
            FileNotFoundError: no such file.
            ValueError: the file is no checkpoint, or does not fit; the message lists what differs.
        """
        net = self.get_bare_model(net)
        weights = self.read_network(load_path, param_key)
        if not strict:
            logger = get_root_logger()
            own = net.state_dict()
            shared = {
                name: value
                for name, value in weights.items()
                if name in own and own[name].shape == value.shape
            }
            if not shared:
                raise ValueError(f"{load_path} shares no entry with {type(net).__name__}")
            logger.warning(f"Not in the file: {sorted(own.keys() - shared.keys())}")
            logger.warning(f"Not loaded from it: {sorted(weights.keys() - shared.keys())}")
            weights = {**own, **shared}
        load_strictly(net, weights, load_path)

    def read_network(self, load_path: str, param_key: str | None = "params") -> dict[str, Tensor]:
        """The weights that a file holds; for arguments and errors see :meth:`load_network`."""
        checkpoint = read_weights(load_path)
        if param_key in ("params", "params_ema") and param_key not in checkpoint:
            param_key = None
        try:
            weights = canonical_weights(checkpoint, param_key)
        except ValueError as error:
            raise ValueError(f"{load_path}: {error}") from None
        get_root_logger().info(f"Loading {load_path}, key {param_key or 'found'}.")
        return weights

    @master_only
    def save_network(
        self,
        net: nn.Module | list[nn.Module],
        net_label: str,
        current_iter: int,
        param_key: str | list[str] = "params",
    ) -> None:
        """Saves as BasicSR does, whole or not at all, and the network's keywords as ``config``.

        Raises:
            OSError: the file cannot be written.
        """
        nets = net if isinstance(net, list) else [net]
        keys = param_key if isinstance(param_key, list) else [param_key]
        options = self.opt[net_label.replace("net_", "network_")]
        checkpoint: dict[str, Any] = {
            "config": {key: value for key, value in options.items() if key != "type"}
        }
        saved: dict[tuple[str, int], Tensor] = {}
        for key, module in zip(keys, nets, strict=True):
            state = self.get_bare_model(module).state_dict()
            for name, value in state.items():  # what two networks share is stored once
                if (name, value.data_ptr()) not in saved:
                    saved[name, value.data_ptr()] = value.cpu()
            checkpoint[key] = {name: saved[name, value.data_ptr()] for name, value in state.items()}
        label = "latest" if current_iter == -1 else current_iter
        _save(checkpoint, os.path.join(self.opt["path"]["models"], f"{net_label}_{label}.pth"))

    def save_training_state(self, epoch: int, current_iter: int) -> None:
        """Saves what resuming needs, whole or not at all; all ranks take part, the first one saves.

        Raises:
            OSError: the file cannot be written.
        """
        if current_iter == -1:
            return
        state = {
            "epoch": epoch,
            "iter": current_iter,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "schedulers": [scheduler.state_dict() for scheduler in self.schedulers],
            **self.training_state(),
        }
        if self.opt["rank"] == 0:
            folder = self.opt["path"]["training_states"]
            _save(state, os.path.join(folder, f"{current_iter}.state"))
        self._saved_iter = current_iter

    def training_state(self) -> dict[str, Any]:
        """What a training state holds beyond BasicSR's; all ranks take part."""
        randomness: list[Any] = [random_states()]
        if self.opt["dist"]:
            own, randomness = randomness[0], [None] * self.opt["world_size"]
            dist.all_gather_object(randomness, own)
        state = {
            "seed": self.opt["manual_seed"],
            "skipped": self.skipped,
            "random_states": randomness,
        }
        if self.progress is not None:
            state["samples"] = self.progress.samples
        return state

    def resume_training(self, resume_state: Mapping[str, Any]) -> None:
        """Goes on from a training state.

        Raises:
            ValueError: it is of a training with other optimisers.
        """
        if len(resume_state["optimizers"]) != len(self.optimizers):
            raise ValueError(
                f"{self.opt['path']['resume_state']}: holds {len(resume_state['optimizers'])} "
                f"optimisers, but these options have {len(self.optimizers)}"
            )
        super().resume_training(resume_state)
        self._saved_iter = resume_state["iter"]
        self.skipped = resume_state.get("skipped", 0)
        self._recall_best(self._saved_iter)
        states = resume_state.get("random_states", ())
        if len(states) == self.opt["world_size"]:
            set_random_states(states[self.opt["rank"]])
        else:
            get_root_logger().warning(
                f"The training state holds the random states of {len(states)} processes, but there "
                f"are {self.opt['world_size']}: they begin anew"
            )
        self._remember()

    # validation -------------------------------------------------------------------------------

    @abstractmethod
    def validation_cases(self) -> dict[str, Any]:
        """What every image is validated at: a label for files and tables, and its meaning."""

    @abstractmethod
    def round_trip(self, net: nn.Module, name: str, gt: Tensor, case: Any) -> dict[str, Judged]:
        """Downscales and restores one image.

        Args:
            net: the network, in evaluation mode.
            name: of the image, for messages.
            gt: (1, 3, H, W).
            case: a value of :meth:`validation_cases`.

        Returns:
            Images under the names that ``val: metrics: ..: image`` takes, those of ``judged``.
        """

    def validation(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool = False
    ) -> None:
        """Validates every image of the data set at every case; the ranks share the images out."""
        if self.evaluation is None:
            raise ValueError("option val is missing")
        if self.is_train:  # BasicSR counts on when the last iteration is over
            current_iter = min(int(current_iter), int(self.opt["train"]["total_iter"]))
        try:
            with same_randomness():
                self._validate(dataloader, current_iter, tb_logger, save_img)
        except _Interrupted as interrupted:
            self._leave(int(current_iter), interrupted.number)

    def _validate(
        self, dataloader: Any, current_iter: int | str, tb_logger: Any, save_img: bool
    ) -> None:
        assert self.evaluation is not None
        dataset = dataloader.dataset
        name = dataset.opt["name"]
        if self.opt["dist"]:
            self._share_buffers()
        with self._evaluation_net() as net:
            self.fingerprint = fingerprint(net.state_dict())
            rows = self.evaluation.run(
                dataset,
                self.validation_cases(),
                lambda label, gt, case: self._interruptible(net, label, gt, case),
                rank=self.opt["rank"],
                world_size=self.opt["world_size"],
                folder=self._picture_folder(name) if save_img else None,
                tag=f"_{current_iter}" if self.is_train else "",
            )
        if self.opt["dist"]:
            gathered: list[Any] = [None] * self.opt["world_size"]
            dist.all_gather_object(gathered, rows)
            rows = [row for part in gathered for row in part]
        if self.opt["rank"] == 0:
            self._report(name, rows, current_iter, tb_logger)

    def _interruptible(self, net: nn.Module, name: str, gt: Tensor, case: Any) -> dict[str, Judged]:
        # several ranks are asked together, after the next step
        if self.stop is not None and not self.opt["dist"] and self.stop.received():
            raise _Interrupted(self.stop.received())
        return self.round_trip(net, name, to_unit_range(gt.to(self.device)), case)

    def _share_buffers(self) -> None:
        """Batch statistics as on rank 0, which saves them: the others' are of their own batches."""
        nets = [self.get_bare_model(self.net_g)]
        if hasattr(self, "net_g_ema"):
            nets.append(self.net_g_ema)
        for net in nets:
            for buffer in net.buffers():
                dist.broadcast(buffer, src=0)

    @contextmanager
    def _evaluation_net(self) -> Iterator[nn.Module]:
        net = self.net_g_ema if hasattr(self, "net_g_ema") else self.get_bare_model(self.net_g)
        was_training = net.training
        net.eval()
        compiles = self.is_train and self.opt["train"].get("compile")
        plain = torch.compiler.set_stance("force_eager") if compiles else nullcontext()
        try:
            with torch.inference_mode(), inference_kernels(), self.autocast("val"), plain:
                yield net
        finally:
            net.train(was_training)

    def _picture_folder(self, dataset_name: str) -> str:
        return os.path.join(self.opt["path"]["visualization"], dataset_name)

    def _report(
        self, dataset: str, rows: list[dict[str, Any]], current_iter: int | str, tb_logger: Any
    ) -> None:
        """Writes table, CSV and JSON, of a test also its options; keeps the best figures."""
        assert self.evaluation is not None
        if not self.evaluation.metrics:
            return
        means = self.evaluation.means(rows)
        self.metric_results = {
            f"{metric}_{case}": value
            for case, values in means.items()
            for metric, value in values.items()
        }
        self._note_best(dataset, means, current_iter)
        for metric, value in self.metric_results.items():
            if tb_logger:
                tb_logger.add_scalar(f"metrics/{dataset}/{metric}", value, current_iter)
        best = self.best_metric_results[dataset] if self.is_train else None
        logger: logging.Logger = get_root_logger()
        logger.info(
            f"Validation {dataset}, {self.evaluation.protocol} protocol\n"
            + self.evaluation.table(means, best)
        )
        tag = f"_{current_iter}" if self.is_train else ""
        folder = self._picture_folder(dataset)
        self.evaluation.write(folder, f"metrics{tag}", rows, means)
        if not self.is_train:
            write_options(folder, self.opt)

    def _note_best(self, dataset: str, means: Means, current_iter: int | str) -> None:
        """Keeps the best figures so far, in the form that BasicSR has."""
        assert self.evaluation is not None
        self.best_metric_results = getattr(self, "best_metric_results", {})
        best = self.best_metric_results.setdefault(dataset, {})
        for case, values in means.items():
            for metric, options in self.evaluation.metrics.items():
                if metric in values:
                    name, better = f"{metric}_{case}", options["better"]
                    worst = float("-inf" if better == "higher" else "inf")
                    best.setdefault(name, {"better": better, "val": worst, "iter": -1})
                    self._update_best_metric_result(dataset, name, values[metric], current_iter)

    def _recall_best(self, iteration: int) -> None:
        """Finds the best figures up to ``iteration`` in the files of the run's validations."""
        files = Path(self.opt["path"]["visualization"]).glob("*/metrics_*.json")
        found = [(path.stem.removeprefix("metrics_"), path) for path in files]
        numbered = sorted((int(label), path) for label, path in found if label.isdecimal())
        for validated, path in numbered:
            if validated <= iteration and self.evaluation is not None:
                means = json.loads(path.read_text())["mean"]
                numbers = {
                    case: {metric: float(value) for metric, value in values.items()}
                    for case, values in means.items()
                }
                self._note_best(path.parent.name, numbers, validated)


def optimizer_class(name: str) -> Callable[..., torch.optim.Optimizer]:
    """The optimiser of ``torch.optim`` that is called ``name``.

    Raises:
        ValueError: there is none.
    """
    cls = getattr(torch.optim, name, None)
    if not (isinstance(cls, type) and issubclass(cls, torch.optim.Optimizer)):
        raise ValueError(f"option type: torch.optim has no optimiser {name!r}")
    return cls


@torch.no_grad()
def move_average(means: Iterable[Tensor], values: Iterable[Tensor], decay: float) -> None:
    """Exponential moving averages, in place: ``decay * mean + (1 - decay) * value``.

    A few kernels for all tensors together: on a GPU, launching two for each takes longer.
    """
    torch._foreach_lerp_(list(means), list(values), 1 - decay)


class _Interrupted(Exception):
    """A signal came in the midst of a validation."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


def _wrong(losses: Mapping[str, Tensor]) -> list[str]:
    """The losses that are not finite."""
    values = {name: value.mean().item() for name, value in losses.items()}
    return [f"{name} is {value}" for name, value in values.items() if not math.isfinite(value)]


def _save(content: Mapping[str, Any], path: str) -> None:
    buffer = io.BytesIO()  # torch.save itself tells of a full disk without the system's reason
    torch.save(content, buffer)
    write_file(path, buffer.getvalue())
