"""Mixed precision for ONNX models, by the rules of PyTorch's autocast.

Converters that turn a whole model to float16 also round positions of samples, and cannot represent
the pixels of a long side: float16 has 11 bits.
"""

from __future__ import annotations

import ast
from collections.abc import Collection

import numpy as np
import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

# Most of the computation, in float16.
_NARROW = {"Conv", "ConvTranspose", "Einsum", "Gemm", "MatMul"}
# In float32: sampling, and sums over many values.
_WIDE = {
    "GridSample", "GroupNormalization", "InstanceNormalization", "LayerNormalization",
    "ReduceMean", "ReduceSum", "Softmax",
}  # fmt: skip
_SCOPES = "pkg.torch.onnx.name_scopes"
_FLOATS = (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def to_half_precision(model: ir.Model, full_precision: Collection[str]) -> None:
    """Converts most of a model to float16, in place; inputs and outputs remain float32.

    Args:
        model: a float32 model with the names of modules in its metadata, as PyTorch exports it.
        full_precision: names of modules that are computed in float32.

    Raises:
        OverflowError: a weight exceeds the range of float16.
    """
    _Conversion(model.graph, full_precision).run()
    RemoveUnusedNodesPass()(model)  # and weights


class _Conversion:
    """The conversion of a graph, node by node in topological order."""

    def __init__(self, graph: ir.Graph, full_precision: Collection[str]) -> None:
        self.graph = graph
        self.full_precision = full_precision
        self.casts: dict[tuple[str, ir.DataType], ir.Value] = {}
        # Results of modules in full precision; converted where they are combined with float16.
        self.may_narrow: set[str] = set()

    def run(self) -> None:
        for node in list(self.graph):
            self._convert(node)
        for index, value in enumerate(self.graph.outputs):
            if value.dtype == ir.DataType.FLOAT16:
                name = value.name
                value.name = f"{name}_fp16"
                wide = self._cast(value, ir.DataType.FLOAT, None)
                wide.name = name
                self.graph.outputs[index] = wide

    def _convert(self, node: ir.Node) -> None:
        kept = self._in_full_precision(node)
        dtype = ir.DataType.FLOAT if kept else self._dtype(node)
        if dtype is None or node.op_type == "Cast":
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.dtype in _FLOATS and value.dtype != dtype:
                node.replace_input_with(index, self._as(value, dtype, node))
        for value in node.outputs:
            if value.dtype in _FLOATS:
                value.dtype = dtype
                if kept:
                    self.may_narrow.add(_name(value))

    def _dtype(self, node: ir.Node) -> ir.DataType | None:
        """The type in which a node is computed; None: it has no floating-point inputs."""
        floats = [value for value in node.inputs if value is not None and value.dtype in _FLOATS]
        if not floats:
            return None
        if node.op_type in _NARROW:
            return ir.DataType.FLOAT16
        if node.op_type in _WIDE:
            return ir.DataType.FLOAT
        computed = [value for value in floats if not _is_constant(value)] or floats
        wide = [
            value
            for value in computed
            if value.dtype == ir.DataType.FLOAT and _name(value) not in self.may_narrow
        ]
        is_narrow = any(value.dtype == ir.DataType.FLOAT16 for value in computed)
        return ir.DataType.FLOAT16 if is_narrow and not wide else ir.DataType.FLOAT

    def _in_full_precision(self, node: ir.Node) -> bool:
        scopes = ast.literal_eval(node.metadata_props.get(_SCOPES, "[]"))
        return any(
            scope == name or scope.startswith(f"{name}.")
            for scope in scopes
            for name in self.full_precision
        )

    def _as(self, value: ir.Value, dtype: ir.DataType, user: ir.Node) -> ir.Value:
        """``value`` in another type, cast at most once."""
        key = _name(value), dtype
        if key not in self.casts:
            narrowed = value.is_initializer() and dtype == ir.DataType.FLOAT16
            self.casts[key] = self._narrowed(value) if narrowed else self._cast(value, dtype, user)
        return self.casts[key]

    def _cast(self, value: ir.Value, dtype: ir.DataType, user: ir.Node | None) -> ir.Value:
        out = ir.Value(
            name=f"{value.name}_{dtype.name.lower()}",
            shape=value.shape,
            type=ir.TensorType(dtype),
        )
        cast = ir.Node(
            "", "Cast", [value], [ir.AttrInt64("to", int(dtype))], outputs=[out],
            name=f"cast_{out.name}",
        )  # fmt: skip
        if user is None:
            self.graph.append(cast)
        else:
            self.graph.insert_before(user, cast)
        return out

    def _narrowed(self, value: ir.Value) -> ir.Value:
        """A float16 copy of a weight."""
        assert value.const_value is not None
        weight = value.const_value.numpy()
        with np.errstate(over="ignore"):
            half = weight.astype(np.float16)
        if np.isinf(half).any():
            raise OverflowError(f"{value.name} has values up to {np.abs(weight).max():g}")
        name = f"{value.name}_float16"
        out = ir.Value(
            name=name,
            shape=value.shape,
            type=ir.TensorType(ir.DataType.FLOAT16),
            const_value=ir.tensor(half, name=name),
        )
        self.graph.register_initializer(out)
        return out


def _name(value: ir.Value) -> str:
    assert value.name is not None
    return value.name


def _is_constant(value: ir.Value) -> bool:
    producer = value.producer()
    return value.is_initializer() or (producer is not None and producer.op_type == "Constant")
