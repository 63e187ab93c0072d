"""Small trainings of the networks with a codebook: VQGAN, and VQIR in both stages."""

from pathlib import Path
from typing import Any

import torch
from torch import nn
from training import Options, changed, step, test_options, train_options

from rescale_arch import VQGAN, VQIR
from rescale_model.models.vqgan import VQGANModel
from rescale_model.models.vqir import VQIRModel
from rescale_model.models.vqir_refine import VQIRRefineModel

VQ: dict[str, Any] = {
    "ch": 32,
    "ch_mult": [1, 1, 1, 1, 1],
    "num_res_blocks": 1,
    "attn_resolutions": [],
    "z_channels": 32,
    "embed_dim": 32,
    "n_embed": 16,
}
VQGAN_TINY: dict[str, Any] = VQ | {"n_embed": 32}
MODELS = {1: VQIRModel, 2: VQIRRefineModel}
FEATURES = {"type": "L1Loss", "loss_weight": 2.0}
WITHOUT_GAN: Options = {"network_d": ..., "train: gan_opt": ..., "train: optim_d": ...}
_LOSSES: dict[int, Options] = {
    1: {
        "guide_opt": {"type": "MSELoss", "loss_weight": 0.5},
        "code_opt": {"type": "MSELoss"},
        "gram_opt": {"type": "GramLoss"},
    },
    2: {
        "pixel_opt": {"type": "L1Loss"},
        "edge_opt": {"type": "EdgeLoss", "loss_weight": 0.05},
        "gan_opt": {"type": "GANLoss", "gan_type": "hinge", "loss_weight": 0.1},
        "optim_d": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.96]},
    },
}


def vqgan_options(data: Path, hr_folder: Path) -> Options:
    """Trains a VQGAN against a discriminator."""
    adam = {"type": "Adam", "lr": 1e-3, "betas": [0.5, 0.9]}
    return changed(
        train_options(data, hr_folder),
        {
            "name": "vqgan",
            "model_type": "VQGANModel",
            "network_g": {"type": "VQGAN", **VQGAN_TINY},
            "network_d": {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 8},
            "train: scales": ...,
            "train: guide_opt": ...,
            "train: optim_g": dict(adam),
            "train: optim_d": dict(adam),
            "train: codebook_opt": {"type": "CodeBookLoss"},
            "train: gan_opt": {"type": "GANLoss", "gan_type": "hinge", "loss_weight": 0.8},
            "val: scales": ...,
            "val: metrics": {"psnr": {"type": "calculate_psnr"}},
        },
    )


def vqir_train_options(stage: int, start: Path, data: Path, hr_folder: Path) -> Options:
    """Trains a stage from the file of the previous step."""
    options = train_options(data, hr_folder)
    options |= {
        "name": f"stage{stage}",
        "model_type": MODELS[stage].__name__,
        "network_g": {"type": "VQIR", "factor": 16, "stage": stage, **VQ},
        "path": {f"pretrain_network_{'vqgan' if stage == 1 else 'g'}": str(start)},
    }
    if stage == 2:
        options["network_d"] = {"type": "UNetDiscriminatorSN", "num_in_ch": 3, "num_feat": 4}
    options["train"] = {
        **{key: options["train"][key] for key in ("scheduler", "total_iter")},
        "ema_decay": 0,
        "optim_g": {"type": "Adam", "lr": 1e-3, "betas": [0.9, 0.96]},
        **_LOSSES[stage],
    }
    del options["val"]["scales"]
    return changed(options, {"datasets: train: io_backend": None})


def vqir_test_options(stage: int, weights: Path, hr_folder: Path) -> Options:
    """Tests a file of a stage, with all restored images."""
    images = MODELS[stage].evaluated
    return test_options(
        hr_folder,
        weights,
        name=f"evaluated{stage}",
        model_type=MODELS[stage].__name__,
        network_g={"type": "VQIR", "factor": 16, "stage": stage, **VQ},
        path={"pretrain_network_g": str(weights)},
        val={
            "save_img": True,
            "metrics": {image: {"type": "calculate_psnr", "image": image} for image in images},
        },
    )


def perturbed(net: nn.Module, seed: int) -> nn.Module:
    """Makes outputs depend on every weight: some of them are zero in a new network."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in net.named_parameters():
            if "mix" not in name:
                value.add_(torch.randn(value.shape, generator=generator), alpha=0.02)
        if isinstance(net, VQGAN | VQIR):  # so that not every feature has the same nearest code
            net.quantize.embedding.weight.copy_(
                torch.randn(net.quantize.embedding.weight.shape, generator=generator)
            )
    return net


def logged_step(model: VQGANModel, iteration: int, seed: int = 0) -> dict[str, float]:
    """A training step; returns what the log says of it."""
    step(model, iteration, seed)
    return model.get_current_log()
