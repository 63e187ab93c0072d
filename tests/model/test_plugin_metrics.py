"""Metrics of a plugin are called with what they take."""

from typing import Any

import rescale_compat  # noqa: F401  must precede basicsr

import numpy as np
import pytest
import torch
from basicsr.utils.registry import METRIC_REGISTRY

from rescale_model.evaluation.round_trip import EvaluatedImage
from rescale_model.evaluation.validation import Evaluation


def _mean_difference(img: np.ndarray, img2: np.ndarray) -> float:
    return float(img.mean() - img2.mean())


def _plain(img: np.ndarray, img2: np.ndarray) -> float:
    return _mean_difference(img, img2)


def _bordered(img: np.ndarray, img2: np.ndarray, crop_border: int) -> float:
    inner = slice(crop_border, -crop_border)
    return _mean_difference(img[inner, inner], img2[inner, inner])


def _asking(img: np.ndarray, img2: np.ndarray, better: str, factor: float = 1) -> float:
    assert better == "lower"
    return factor * _mean_difference(img, img2)


def _open(img: np.ndarray, **keywords: Any) -> float:
    assert keywords.keys() == {"img2", "crop_border", "better"}
    return _bordered(img, keywords["img2"], keywords["crop_border"])


def _without_reference(img: np.ndarray) -> float:
    return float(img.mean())


def test_a_metric_of_a_plugin_gets_only_what_it_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    functions = (_plain, _bordered, _asking, _open, _without_reference)
    monkeypatch.setattr(METRIC_REGISTRY, "_obj_map", {f.__name__: f for f in functions})
    metrics: dict[str, Any] = {
        function.__name__: {"type": function.__name__} for function in functions
    }
    metrics["_asking"] |= {"better": "lower", "factor": 2}
    torch.manual_seed(0)
    image, reference = torch.rand(2, 1, 3, 12, 16)
    options = {"metrics": metrics, "protocol": "float"}
    scores = Evaluation(options).score("noise", {"hr": EvaluatedImage(image, reference, 3)})
    first, second = (255 * x[..., 3:-3, 3:-3].mean().item() for x in (image, reference))
    assert scores == pytest.approx(
        {
            "_plain": first - second,
            "_bordered": first - second,
            "_asking": 2 * (first - second),
            "_open": first - second,
            "_without_reference": first,
        },
        rel=1e-4,
    )
