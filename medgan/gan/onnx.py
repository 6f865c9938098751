"""The generator as an ONNX graph, so that it runs where there is no torch: inputs z (N, Z) and c (N,), output image.

A model with fields beside the class has a third input, features (N, F), made by `medgan.gan.conditions.encode`.

The file is written without the onnx package: five message types of the protocol buffer schema are enough for a ladder
of convolutions. Field numbers are those of onnx/onnx.proto (IR version 8, opset 17).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from medgan.errors import InvalidRequest
from medgan.gan.generator import Generator
from medgan.gan.layers import LEAK, Residual, SmoothUp, box
from medgan.gan.sketch import EDGE, HALF_WAY, Sketch
from medgan.gan.spectrum import Polish

_IR_VERSION, _OPSET = 8, 17
_LOW_BITS = 0x7F
_FLOAT, _INT64 = 1, 7
_ATTRIBUTE_FLOAT, _ATTRIBUTE_INT, _ATTRIBUTE_TEXT, _ATTRIBUTE_INTS = 1, 2, 3, 7


def export(generator: nn.Module) -> bytes:
    """ONNX bytes of a ladder generator; `InvalidRequest` for the dense one."""
    if not isinstance(generator, Generator):
        raise InvalidRequest("only ladder generators are exported to ONNX")
    graph = _Graph()
    embedding = generator.embedding
    embedded = graph.node("Gather", [graph.tensor(embedding.weight), "c"])
    if embedding.fields is not None:
        mapped = graph.node("Gemm", ["features", graph.tensor(embedding.fields.weight)], transB=1)
        embedded = graph.node("Add", [embedded, mapped])
    joined = graph.node("Concat", ["z", embedded], axis=1)
    start = generator.start
    x = graph.node("Gemm", [joined, graph.tensor(start.weight), graph.tensor(start.bias)], transB=1)
    x = graph.node("Reshape", [x, graph.constant(np.array([-1, *generator.base], np.int64))])
    ground = None
    for index, stage in enumerate(generator.stages):
        for layer in stage.children():
            x = graph.layer(layer, x)
        if index == HALF_WAY and generator.sketch is not None:
            read, ground = graph.sketch(generator.sketch)
            x = graph.node("Add", [x, read])
    x = graph.layer(generator.finish, x)
    x = x if ground is None else graph.node("Add", [x, ground])
    x = graph.node("Tanh" if generator.bounded else "Identity", [x])
    if generator.polish is not None:
        x = graph.polish(generator.polish, x)
    graph.node("Identity", [x], output="image")
    z_dim = start.in_features - generator.embedding.embedding_dim
    features = 0 if embedding.fields is None else embedding.fields.in_features
    return graph.model(z_dim, features, [generator.size_px] * (len(generator.base) - 1))


class _Graph:
    """Nodes and weights in order, already encoded."""

    def __init__(self) -> None:
        self.nodes: list[bytes] = []
        self.initializers: list[bytes] = []

    def constant(self, values: NDArray[np.float32] | NDArray[np.int64]) -> str:
        """Store an array and return its name."""
        name = f"w{len(self.initializers)}"
        kind = _INT64 if values.dtype == np.int64 else _FLOAT
        dims = b"".join(_varint_field(1, dim) for dim in values.shape)
        little = np.ascontiguousarray(values).astype(values.dtype.newbyteorder("<"))
        body = dims + _varint_field(2, kind) + _bytes_field(8, name.encode()) + _bytes_field(9, little.tobytes())
        self.initializers.append(body)
        return name

    def tensor(self, values: Tensor) -> str:
        """Store a tensor and return its name."""
        return self.constant(values.detach().cpu().float().contiguous().numpy())

    def node(self, kind: str, inputs: Sequence[str], *, output: str = "", **attributes: float | str | list[int]) -> str:
        """Add an operator and return the name of its output."""
        output = output or f"x{len(self.nodes)}"
        body = b"".join(_bytes_field(1, name.encode()) for name in inputs) + _bytes_field(2, output.encode())
        body += _bytes_field(4, kind.encode())
        body += b"".join(_bytes_field(5, _attribute(name, value)) for name, value in attributes.items())
        self.nodes.append(body)
        return output

    def layer(self, layer: nn.Module, x: str) -> str:
        """Add one layer of a ladder."""
        match layer:
            case nn.LeakyReLU():
                return self.node("LeakyRelu", [x], alpha=float(layer.negative_slope))
            case (
                nn.BatchNorm2d(running_mean=Tensor() as mean, running_var=Tensor() as variance)
                | nn.BatchNorm3d(running_mean=Tensor() as mean, running_var=Tensor() as variance)
            ):
                parts = [self.tensor(part) for part in (layer.weight, layer.bias, mean, variance)]
                return self.node("BatchNormalization", [x, *parts], epsilon=float(layer.eps))
            case SmoothUp():
                weights = [self.tensor(box(layer.weight)), self.tensor(layer.bias)]
                return self.doubled(x, weights, layer.weight.ndim - 2)
            case nn.ConvTranspose2d(bias=Tensor() as bias) | nn.ConvTranspose3d(bias=Tensor() as bias):
                return self.doubled(x, [self.tensor(layer.weight), self.tensor(bias)], layer.weight.ndim - 2)
            case nn.Conv2d() | nn.Conv3d():
                weights = [self.tensor(part) for part in (layer.weight, layer.bias) if part is not None]
                pads = [int(layer.padding[0])] * (2 * (layer.weight.ndim - 2))
                return self.node("Conv", [x, *weights], pads=pads, group=layer.groups)
            case Residual():
                y = self.node("LeakyRelu", [self.layer(layer.widen, x)], alpha=LEAK)
                y = self.node("LeakyRelu", [self.layer(layer.mix, y)], alpha=LEAK)
                return self.node("Add", [x, self.layer(layer.narrow, y)])
            case _:
                raise InvalidRequest(f"a layer of kind {type(layer).__name__} has no ONNX form here")

    def doubled(self, x: str, weights: list[str], dims: int) -> str:
        """A transposed convolution of 4 taps a side and stride 2."""
        return self.node("ConvTranspose", [x, *weights], strides=[2] * dims, pads=[1] * (2 * dims))

    def sketch(self, sketch: Sketch) -> tuple[str, str]:
        """What the ladder reads of the coarse picture of `z` and `c`, and the ground that it paints over."""
        side, dims = sketch.widen.shape[1], sketch.dims
        row = self.row(sketch)
        mean, basis = (self.node("Gather", [self.tensor(part), row]) for part in (sketch.mean, sketch.basis))
        flat = self.node("Add", [mean, self.node("Einsum", ["z", basis], equation="nz,nzp->np")])
        coarse = self.node("Reshape", [flat, self.constant(np.array([-1, 1, *[side] * dims], np.int64))])
        x, axes = coarse, "ncijk"[: 2 + dims]
        for axis in axes[2:]:
            x = self.node(
                "Einsum", [x, self.tensor(sketch.widen)], equation=f"{axes},y{axis}->{axes.replace(axis, 'y')}"
            )
        edges = [self.constant(np.array(edge, np.float32)) for edge in (-EDGE, EDGE)]
        return self.layer(sketch.read, coarse), self.node("Atanh", [self.node("Clip", [x, *edges])])

    def row(self, sketch: Sketch) -> str:
        """`Sketch.row`, the signs read as binary digits."""
        places = np.zeros(sketch.basis.shape[1], np.float32)
        places[: sketch.halvings] = 2.0 ** np.arange(sketch.halvings)[::-1]
        signs = self.node("Greater", ["z", self.constant(np.array(0, np.float32))])
        digits = self.node("MatMul", [self.node("Cast", [signs], to=_FLOAT), self.constant(places)])
        first = self.node("Mul", ["c", self.constant(np.array(2**sketch.halvings, np.int64))])
        return self.node("Add", [first, self.node("Cast", [digits], to=_INT64)])

    def polish(self, polish: Polish, x: str) -> str:
        """The filter after the ladder, edges continued outward."""
        dims, reach = polish.kernel.ndim - 2, polish.kernel.shape[-1] // 2
        pads = self.constant(np.array([0, 0, *[reach] * dims] * 2, np.int64))
        wide = self.node("Pad", [x, pads], mode="edge")
        return self.node("Conv", [wide, self.tensor(polish.kernel)], pads=[0] * (2 * dims), group=1)

    def model(self, z_dim: int, features: int, sizes: list[int]) -> bytes:
        """The whole file."""
        graph = b"".join(_bytes_field(1, node) for node in self.nodes) + _bytes_field(2, b"generator")
        graph += b"".join(_bytes_field(5, weights) for weights in self.initializers)
        graph += _bytes_field(11, _value("z", _FLOAT, [None, z_dim])) + _bytes_field(11, _value("c", _INT64, [None]))
        if features:
            graph += _bytes_field(11, _value("features", _FLOAT, [None, features]))
        graph += _bytes_field(12, _value("image", _FLOAT, [None, 1, *sizes]))
        opset = _bytes_field(1, b"") + _varint_field(2, _OPSET)
        return (
            _varint_field(1, _IR_VERSION) + _bytes_field(2, b"medgan") + _bytes_field(7, graph) + _bytes_field(8, opset)
        )


def _value(name: str, kind: int, shape: Sequence[int | None]) -> bytes:
    """ValueInfoProto: a name, an element type, and dimensions of which None is the batch."""
    dims = b"".join(_bytes_field(1, _bytes_field(2, b"N") if dim is None else _varint_field(1, dim)) for dim in shape)
    tensor = _varint_field(1, kind) + _bytes_field(2, dims)
    return _bytes_field(1, name.encode()) + _bytes_field(2, _bytes_field(1, tensor))


def _attribute(name: str, value: float | str | list[int]) -> bytes:
    """AttributeProto of a float, an int, a text, or a list of ints."""
    head = _bytes_field(1, name.encode())
    if isinstance(value, str):
        return head + _bytes_field(4, value.encode()) + _varint_field(20, _ATTRIBUTE_TEXT)
    if isinstance(value, list):
        return head + b"".join(_varint_field(8, part) for part in value) + _varint_field(20, _ATTRIBUTE_INTS)
    if isinstance(value, int):
        return head + _varint_field(3, value) + _varint_field(20, _ATTRIBUTE_INT)
    return head + _key(2, 5) + np.float32(value).tobytes() + _varint_field(20, _ATTRIBUTE_FLOAT)


def _key(field: int, wire: int) -> bytes:
    return _varint(field << 3 | wire)


def _varint_field(field: int, value: int) -> bytes:
    return _key(field, 0) + _varint(value)


def _bytes_field(field: int, value: bytes) -> bytes:
    return _key(field, 2) + _varint(len(value)) + value


def _varint(value: int) -> bytes:
    """Base-128 with a continuation bit; two's complement of 64 bits when negative."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value > _LOW_BITS:
        out.append(value & _LOW_BITS | 0x80)
        value >>= 7
    return bytes([*out, value])
