"""An ONNX graph under construction, and arithmetic that appends its nodes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


class Graph:
    """Nodes, constants and known shapes of a graph; names stand for values."""

    def __init__(self) -> None:
        self.count = 0
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.shapes: list[onnx.ValueInfoProto] = []

    def node(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        """Append a node and return the name of its (last) output."""
        self.count += 1
        names = [f"{kind}_{self.count}" + "_" * i for i in range(outputs)]
        self.nodes.append(helper.make_node(kind, inputs, names, names[0], **attributes))
        return names[-1]

    def constant(self, name: str, value: np.ndarray) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def rename(self, old: str, new: str) -> str:
        """Give a value the name under which a file returns it."""
        self.nodes.append(helper.make_node("Identity", [old], [new], new))
        return new


def _operator(kind: str) -> Callable[..., Value]:
    """Return the method that appends a node; this value is its first input."""
    return lambda self, *others: self.node(kind, *others)


class Value:
    """A tensor of a graph. Arithmetic with others and with numbers is float32, as numpy's."""

    __array_ufunc__ = None  # array - value is ours, not numpy's

    def __init__(self, graph: Graph, name: str) -> None:
        self.graph, self.name = graph, name

    def node(self, kind: str, *others: Value | np.ndarray | float, **attributes: object) -> Value:
        """Append a node whose first input is this value."""
        names = [self.lift(other).name for other in others]
        return Value(self.graph, self.graph.node(kind, self.name, *names, **attributes))

    def lift(self, other: Value | np.ndarray | float) -> Value:
        """Return a value; numbers and arrays become constants."""
        if isinstance(other, Value):
            return other
        array = np.asarray(other, np.float32) if np.isscalar(other) else other
        self.graph.count += 1
        return Value(self.graph, self.graph.constant(f"constant_{self.graph.count}", array))

    __add__ = __radd__ = _operator("Add")
    __mul__ = __rmul__ = _operator("Mul")
    __sub__, __truediv__ = _operator("Sub"), _operator("Div")
    __matmul__ = _operator("MatMul")
    __and__, __or__ = _operator("And"), _operator("Or")
    __lt__, __le__ = _operator("Less"), _operator("LessOrEqual")
    __gt__, __ge__ = _operator("Greater"), _operator("GreaterOrEqual")
    at_least, at_most = _operator("Max"), _operator("Min")
    clip = _operator("Clip")  # low, high
    where = _operator("Where")  # what is chosen where this value is true, and where it is not

    def __rsub__(self, other: float) -> Value:
        return self.lift(other) - self

    def __rtruediv__(self, other: float) -> Value:
        return self.lift(other) / self

    def choose(
        self, yes: Callable[[], Value], no: Callable[[], Value], kind: int = TensorProto.FLOAT
    ) -> Value:
        """Return what `yes` adds if this (one bool) is true, else what `no` adds; one runs."""
        graph, branches = self.graph, []
        outside = graph.nodes, graph.constants
        for branch in (yes, no):
            graph.nodes, graph.constants = [], []  # constants of outside would cost as inputs do
            result = helper.make_tensor_value_info(branch().name, kind, None)
            parts = graph.nodes, result.name, [], [result], graph.constants
            branches.append(helper.make_graph(*parts))
        graph.nodes, graph.constants = outside
        return self.node("If", then_branch=branches[0], else_branch=branches[1])

    def float(self) -> Value:
        return self.node("Cast", to=TensorProto.FLOAT)

    def all(self) -> Value:
        """Return whether all are true, one bool."""
        least = self.node("Cast", to=TensorProto.INT32).node("ReduceMin", keepdims=0)
        return least.node("Cast", to=TensorProto.BOOL)

    def range(self, step: float = 1.0) -> Value:
        """Return 0, one step... below this number, float32 (L,)."""
        return self.lift(0.0).node("Range", self, step)

    def length(self, axis: int) -> Value:
        """Return the length of an axis, one float32."""
        return self.node("Shape", start=axis, end=axis + 1).node("Squeeze").float()

    def transpose(self, *axes: int) -> Value:
        return self.node("Transpose", perm=axes)

    def sum(self) -> Value:
        """Sum over the last axis, which stays with length 1."""
        return self.node("ReduceSum", np.array([-1]), keepdims=1)

    def max(self, axis: int = -1) -> Value:
        """Return the largest along an axis, which stays with length 1."""
        return self.node("ReduceMax", axes=[axis], keepdims=1)
