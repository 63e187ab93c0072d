"""Registering the project with BasicSR."""

import importlib

import rescale_compat  # noqa: F401  must precede basicsr

import pytest
from basicsr.utils.registry import ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY

import rescale_model.registration
from rescale_arch import AIDN
from rescale_model.models.aidn import AIDNModel


def test_registering_again_changes_nothing() -> None:
    registries = (ARCH_REGISTRY, DATASET_REGISTRY, MODEL_REGISTRY)
    before = [dict(iter(registry)) for registry in registries]
    rescale_model.register()
    rescale_model.register()
    again = importlib.reload(rescale_model.registration)
    again.register()
    assert [dict(iter(registry)) for registry in registries] == before
    assert MODEL_REGISTRY.get("AIDNModel") is AIDNModel
    assert ARCH_REGISTRY.get("AIDN") is AIDN


def test_a_name_that_another_package_holds_is_not_taken_over() -> None:
    class AIDN:
        pass

    holder = ARCH_REGISTRY._obj_map
    ours = holder["AIDN"]
    holder["AIDN"] = AIDN
    try:
        with pytest.raises(AssertionError, match="AIDN"):
            rescale_model.register()
        assert holder["AIDN"] is AIDN
    finally:
        holder["AIDN"] = ours
