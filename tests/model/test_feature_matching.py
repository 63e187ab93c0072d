"""Feature matching: the compared activations, and the flow of its gradients."""

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import torch
from basicsr.archs.discriminator_arch import UNetDiscriminatorSN
from torch import Tensor, nn
from torch.nn import functional as F

from rescale_model.training.critic import Critic

FULL = torch.autocast("cpu", torch.bfloat16, enabled=False)
HALF = torch.autocast("cpu", torch.bfloat16)


def pair() -> tuple[Tensor, Tensor]:
    restored, real = torch.rand(2, 2, 3, 32, 32)
    return restored.requires_grad_(True), real


def frozen(net: nn.Module) -> nn.Module:
    return net.requires_grad_(False)


def test_it_compares_all_activations_but_the_score() -> None:
    torch.manual_seed(0)
    first, second, last = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3, 2), nn.Conv2d(5, 1, 1)
    net = frozen(nn.Sequential(first, nn.LeakyReLU(0.2, inplace=True), second, nn.Tanh(), last))
    restored, real = pair()
    score, losses = Critic(net, nn.L1Loss())(restored, real, FULL)

    def features(images: Tensor) -> list[Tensor]:
        one = F.leaky_relu(first(images), 0.2)
        return [one, second(one)]

    expected = sum(
        (x - y).abs().mean() for x, y in zip(features(restored), features(real), strict=True)
    )
    assert losses.keys() == {"l_feat"}
    torch.testing.assert_close(losses["l_feat"], expected)
    torch.testing.assert_close(score, net(restored))


def test_gradients_are_those_of_the_restored_images_alone() -> None:
    torch.manual_seed(0)
    net = frozen(UNetDiscriminatorSN(3, 4))
    restored, real = pair()
    real.requires_grad_(True)
    _, losses = Critic(net, nn.L1Loss())(restored, real, FULL)
    losses["l_feat"].backward()
    assert restored.grad is not None and restored.grad.any()
    assert real.grad is None or not real.grad.any()
    assert all(parameter.grad is None for parameter in net.parameters())


@pytest.mark.parametrize("autocast", [FULL, HALF])
def test_equal_images_have_no_distance(autocast: torch.autocast) -> None:
    """Even though spectral norms change the weights with every pass."""
    torch.manual_seed(0)
    critic = Critic(frozen(UNetDiscriminatorSN(3, 4)), nn.L1Loss())
    restored, real = pair()
    score, losses = critic(real, real, autocast)
    assert losses["l_feat"] == 0
    assert score.dtype == losses["l_feat"].dtype == torch.float32
    assert critic(restored, real, autocast)[1]["l_feat"] > 0


def test_the_score_is_the_same_with_and_without() -> None:
    torch.manual_seed(0)
    nets = [frozen(UNetDiscriminatorSN(3, 4)) for _ in range(2)]
    nets[1].load_state_dict(nets[0].state_dict())
    restored, real = pair()
    score, losses = Critic(nets[0], None)(restored, real, FULL)
    torch.testing.assert_close(Critic(nets[1], nn.L1Loss())(restored, real, FULL)[0], score)
    assert losses == {}
    for (name, one), other in zip(
        nets[0].state_dict().items(), nets[1].state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name
    assert not any(module._forward_hooks for module in nets[1].modules())


def test_a_discriminator_with_a_single_convolution_is_rejected() -> None:
    with pytest.raises(ValueError, match="feature_opt: Sequential has 1 convolutions"):
        Critic(nn.Sequential(nn.Conv2d(3, 1, 3)), nn.L1Loss())
