"""Validations of an AIDN with several metrics."""

from collections.abc import Callable
from types import SimpleNamespace

from rescale_data.hr_dataset import HRImageDataset
from rescale_model.models.aidn import AIDNModel

METRICS = {
    f"{image}_{name}{'_y' if luma else ''}": {
        "type": f"calculate_{name}",
        "image": image,
        "test_y_channel": luma,
    }
    for image in ("hr", "lr", "bicubic")
    for name in ("psnr", "ssim")
    for luma in (False, True)
}
Results = dict[str, float]
Judge = Callable[..., Results]


def validate(model: AIDNModel, iteration: int | str = 1, save_img: bool = False) -> None:
    """Validates ``model`` on the dataset of its options."""
    dataset = next(options for key, options in model.opt["datasets"].items() if key != "train")
    model.validation(SimpleNamespace(dataset=HRImageDataset(dataset)), iteration, None, save_img)
