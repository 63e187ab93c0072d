"""VQIR in tiles: complete, without seams, in bounded memory."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
import recipe
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F
from training import model_options

from rescale_arch import VQIR
from rescale_arch.images import pad_to_multiple
from rescale_arch.regions import Read, Write
from rescale_arch.scales import Size
from rescale_arch.vqir.network import Levels
from rescale_model.models.vqir import VQIRModel
from rescale_model.models.vqir_refine import VQIRRefineModel

NUMBERS = {
    "ch": 32,
    "ch_mult": (1, 1, 1, 1, 1),
    "num_res_blocks": 1,
    "attn_resolutions": (),
    "z_channels": 32,
    "embed_dim": 32,
    "n_embed": 64,
}


class Local(VQIR):
    """In place of VQIR: every pixel depends on those that it stands for, and on nothing else."""

    def downscale(self, hr: Tensor) -> Tensor:
        return F.avg_pool2d(pad_to_multiple(hr, self.factor), self.factor)

    def upscale(self, lr: Tensor, *, size: Size) -> Tensor:
        return self.levels(lr, size=size).full

    def levels(self, lr: Tensor, *, size: Size) -> Levels:
        full, half, quarter = (
            lr.repeat_interleave(self.factor // reduction, 2)
            .repeat_interleave(self.factor // reduction, 3)
            .narrow(2, 0, -(-size[0] // reduction))
            .narrow(3, 0, -(-size[1] // reduction))
            for reduction in (1, 2, 4)
        )
        return Levels(full, half, quarter)


@pytest.fixture(scope="module")
def local() -> dict[int, Local]:
    return {factor: Local(factor, **NUMBERS) for factor in (16, 32)}  # type: ignore[arg-type]


def filled(
    run: Callable[[Read, Sequence[Write]], None], source: Tensor, *sizes: Size
) -> list[Tensor]:
    """What ``run`` writes, of the given sizes; each pixel exactly once."""
    outputs = [torch.full((1, 3, *size), float("nan")) for size in sizes]

    def read(top: int, left: int, bottom: int, right: int) -> Tensor:
        assert 0 <= top < bottom <= source.shape[2]
        assert 0 <= left < right <= source.shape[3]
        return source[..., top:bottom, left:right].clone()

    def writer(output: Tensor) -> Write:
        def write(top: int, left: int, pixels: Tensor) -> None:
            region = output[..., top : top + pixels.shape[2], left : left + pixels.shape[3]]
            assert region.shape == pixels.shape
            assert region.isnan().all()
            region.copy_(pixels)

        return write

    run(read, [writer(output) for output in outputs])
    assert not any(output.isnan().any() for output in outputs)
    return outputs


def tiled_downscale(net: VQIR, hr: Tensor, tile: int) -> Tensor:
    size = hr.shape[-2], hr.shape[-1]
    return filled(
        lambda read, writes: net.downscale_tiles(size, None, read, writes[0], tile),
        hr,
        net.lr_size(size),
    )[0]


def tiled_upscale(net: VQIR, lr: Tensor, size: Size, tile: int) -> Tensor:
    return filled(
        lambda read, writes: net.upscale_tiles(size, None, read, writes[0], tile), lr, size
    )[0]


def tiled_levels(net: VQIR, lr: Tensor, size: Size, tile: int) -> Levels:
    sizes = [(-(-size[0] // reduction), -(-size[1] // reduction)) for reduction in (1, 2, 4)]
    full, half, quarter = filled(
        lambda read, writes: net.levels_tiles(size, read, writes, tile), lr, *sizes
    )
    return Levels(full, half, quarter)


@settings(max_examples=60)
@given(
    factor=st.sampled_from([16, 32]),
    size=st.tuples(st.integers(32, 700), st.integers(32, 700)),
    tile=st.integers(1, 400),
)
def test_every_pixel_is_written_once_and_belongs_there(
    local: dict[int, Local], factor: int, size: Size, tile: int
) -> None:
    net = local[factor]
    hr = torch.rand(1, 3, *size)
    lr = net.downscale(hr)
    torch.testing.assert_close(tiled_downscale(net, hr, tile), lr, rtol=0, atol=1e-6)
    levels = net.levels(lr, size=size)
    torch.testing.assert_close(tiled_upscale(net, lr, size, tile), levels.full, rtol=0, atol=1e-6)
    torch.testing.assert_close(tiled_levels(net, lr, size, tile), levels, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("factor", "stage"), [(16, 1), (32, 2)])
def test_one_tile_is_the_whole(factor: int, stage: int) -> None:
    net = recipe.fill(VQIR(factor, stage, **NUMBERS))
    hr = torch.rand(1, 3, 100, 130)
    lr = net.downscale(hr)
    assert torch.equal(tiled_downscale(net, hr, 130), lr)
    restored = tiled_upscale(net, net.round_lr(lr), (100, 130), 130)
    assert torch.equal(restored, net.upscale(net.round_lr(lr), size=(100, 130)))
    if stage == 2:
        assert torch.equal(
            tiled_levels(net, lr, (100, 130), 130).half, net.levels(lr, size=(100, 130)).half
        )


class Moody(Local):
    """Off by an amount of its own in every tile, as what sees the whole of a tile may be."""

    def levels(self, lr: Tensor, *, size: Size) -> Levels:
        off = lr.mean()
        return Levels(*(level + off for level in super().levels(lr, size=size)))


@pytest.mark.parametrize("axis", [2, 3])
def test_differences_between_tiles_fade_over_their_overlap(axis: int) -> None:
    net = Moody(16, **NUMBERS)  # type: ignore[arg-type]
    lr = torch.zeros(1, 3, 64, 64)
    lr.narrow(axis, 32, 32).fill_(1)  # 0 in the first tile, 1 in the second, but for the overlap
    restored = tiled_upscale(net, lr, (1024, 1024), 512)
    profile = restored[0, 0].movedim(axis - 2, 0)[:, 0]
    edge = profile[512] - profile[511]  # of the image itself
    steps = profile.diff()
    steps[511] -= 1
    assert edge > 0.9
    assert steps.abs().max() < 1.5 / 128  # the tiles' means are a little less than 1 apart
    assert profile[-1] - profile[0] > 1.6


def fitted(hr: Tensor) -> VQIR:
    """A network of random weights, whose code book has what it makes of ``hr`` both ways."""
    net = VQIR(**NUMBERS).eval().requires_grad_(False)  # type: ignore[arg-type]
    book = net.quantize.embedding.weight

    def draw(features: Tensor, count: int) -> Tensor:
        vectors = features.permute(0, 2, 3, 1).flatten(0, 2)
        return vectors[torch.randperm(len(vectors))[:count]]

    book.copy_(draw(net._features(hr), 64))
    book[32:] = draw(net.icrm.reverse(net.icrm(net.encode(hr)[0])), 32)
    return net


def test_no_seams() -> None:
    """Tiles differ from the whole; at most a quarter more so where they meet."""
    size, tile = (384, 384), 128
    hr = torch.from_numpy(recipe.image(5, *size))
    net = fitted(hr)
    lr, tiled_lr = net.downscale(hr), tiled_downscale(net, hr, tile)
    stored = net.round_lr(lr)
    assert len(net.quantize(net._recover(stored))[1].unique()) > 16
    pairs = (
        (lr, tiled_lr, 16),
        (net.upscale(stored, size=size), tiled_upscale(net, stored, size, tile), 1),
    )
    for whole, tiles, reduction in pairs:
        error = (tiles - whole).abs().mean(dim=(0, 1))
        near = torch.zeros_like(error, dtype=torch.bool)
        for cut in (128 // reduction, 256 // reduction):
            width = max(1, 8 // reduction)
            near[cut - width : cut + width] = True
            near[:, cut - width : cut + width] = True
        ratio = error[near].mean() / error[~near].mean()
        assert 0 < ratio < 1.25


@pytest.mark.parametrize("stage", [1, 2])
def test_validation_in_tiles(tmp_path: Path, stage: int) -> None:
    torch.manual_seed(3)
    net = VQIR(16, stage, **NUMBERS).eval()  # type: ignore[arg-type]
    torch.save(net.state_dict(), tmp_path / "net.pth")
    hr = torch.rand(1, 3, 150, 200)
    size = (150, 200)
    images = {}
    for tile in (None, 64):
        options = {
            "name": "tiles",
            "num_gpu": 0,
            "manual_seed": 0,
            "datasets": {},
            "network_g": {"type": "VQIR", "factor": 16, "stage": stage, **NUMBERS},
            "path": {"pretrain_network_g": str(tmp_path / "net.pth")},
            "val": {"save_img": False, "tile": tile},
        }
        model = {1: VQIRModel, 2: VQIRRefineModel}[stage](
            model_options(options, tmp_path, is_train=False)
        )
        model.fingerprint = "sha256:0"
        with torch.inference_mode():
            evaluated = model.round_trip(model.net_g, "picture", hr, (16.0, 16.0))
        images[tile] = {name: one.image for name, one in evaluated.items()}
    with torch.inference_mode():
        for tile in (200, 64):
            given = images[None if tile == 200 else tile]
            lr = net.round_lr(tiled_downscale(net, hr, tile))
            torch.testing.assert_close(given["lr"], lr, rtol=0, atol=1e-6)
            assert torch.equal(given["hr"], tiled_upscale(net, given["lr"], size, tile))
            if stage == 2:
                levels = tiled_levels(net, given["lr"], size, tile)
                assert torch.equal(given["half"], levels.half)
                assert torch.equal(given["quarter"], levels.quarter)
    assert not torch.equal(images[None]["hr"], images[64]["hr"])


def test_sizes_that_do_not_fit() -> None:
    net = VQIR(**NUMBERS)  # type: ignore[arg-type]
    hr = torch.rand(1, 3, 15, 40)
    with pytest.raises(ValueError, match=r"size \(15, 40\) has a side below 16 pixels"):
        tiled_downscale(net, hr, 64)
    with pytest.raises(ValueError, match="tile is 0: a number of pixels from 1"):
        tiled_downscale(net, torch.rand(1, 3, 40, 40), 0)


PEAK = """
import resource, sys, torch
from rescale_arch import VQIR

net = VQIR(**{numbers}).eval().requires_grad_(False)
size = {size}
read = lambda top, left, bottom, right: torch.rand(1, 3, bottom - top, right - left)
write = lambda top, left, pixels: None
for direction in (net.downscale_tiles, net.upscale_tiles):
    direction(size, None, read, write, 128)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // (1024 if sys.platform != "darwin" else 2**20))
"""  # noqa: E501


@pytest.mark.slow
def test_memory_does_not_grow_with_the_image() -> None:
    peaks = []
    for size in [(256, 512), (1536, 2048)]:
        script = PEAK.format(numbers=NUMBERS, size=size)
        run = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=True
        )
        peaks.append(int(run.stdout))
    # The larger image alone takes 36 MiB as floats, its features 384 MiB a layer.
    assert peaks[1] - peaks[0] < 32
