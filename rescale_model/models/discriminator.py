"""The discriminator of a model, as its options describe it."""

from __future__ import annotations

import rescale_compat  # noqa: F401  must precede basicsr

from basicsr.archs import build_network
from torch import nn

from rescale_model.models.base import RescalingModel
from rescale_model.training.critic import Critic


def build_discriminator(model: RescalingModel) -> nn.Module:
    """Builds the network of the option ``network_d`` and loads ``path: pretrain_network_d``.

    Returns:
        The network in training mode on the device of ``model``, wrapped for distributed training.
    """
    net = model.model_to_device(build_network(model.opt["network_d"]))
    model.print_network(net)
    path = model.opt["path"]
    if path.get("pretrain_network_d"):
        strict, key = path.get("strict_load_d", True), path.get("param_key_d", "params")
        model.load_network(net, path["pretrain_network_d"], strict, key)
    return net.train()


def build_critic(model: RescalingModel) -> Critic:
    """Builds the critic of ``model.net_d``, with feature matching if the options have it."""
    has_features = model.opt["train"].get("feature_opt")
    feature_loss = model.build_loss("feature_opt") if has_features else None
    # The bare network: while it is frozen, there are no gradients to synchronize.
    return Critic(model.get_bare_model(model.net_d), feature_loss)
