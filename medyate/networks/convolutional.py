"""The modules of the convolutional networks.

Every one is a stem, a row of inverted bottlenecks (pw1, dw, pw2), in most a last pointwise convolution ("mix"),
average pooling and a linear classifier. Only plain torch modules are used, and their order of definition is their
order of execution, so that a walk over ``model.modules()`` meets the convolutions as the paper numbers them: 0
the stem, 1 ``b0.dw``, 2 ``b0.pw2``, 3 ``b1.pw1``, ...
"""

from __future__ import annotations

from collections import OrderedDict

from torch import nn
from torch.nn import functional as F

from .architectures import Architecture, Block


class SamePad2d(nn.Module):
    """TensorFlow's SAME padding before a strided convolution: NCHW in, zero-padded NCHW out.

    Padded so that the output has ceil(size / stride) pixels a side. The padding is at least 0 and at
    most kernel - 1 for kernel >= stride; where it is odd, right and bottom get the larger part.
    """

    def __init__(self, kernel: int, stride: int):
        super().__init__()
        self.kernel, self.stride = kernel, stride

    def extra_repr(self) -> str:
        return f"kernel={self.kernel}, stride={self.stride}"

    def _sides(self, size):
        # only + - * // : these also work on the stand-ins for sizes of torch.fx
        total = ((size + self.stride - 1) // self.stride - 1) * self.stride + self.kernel - size
        return total // 2, total - total // 2

    def forward(self, x):
        top, bottom = self._sides(x.shape[-2])
        left, right = self._sides(x.shape[-1])
        return F.pad(x, (left, right, top, bottom))


def _unit(
    architecture: Architecture,
    cin: int,
    cout: int,
    kernel: int,
    *,
    stride: int = 1,
    groups: int = 1,
    act: bool = True,
    folded: bool,
) -> nn.Sequential:
    """A convolution ``conv``, its batch norm ``bn`` and ReLU6 ``act``; ``folded`` has no batch norm but a bias."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    padding = kernel // 2
    if architecture.same_padding and stride > 1:  # at stride 1, SAME is kernel // 2 on every side
        modules["pad"] = SamePad2d(kernel, stride)
        padding = 0
    modules["conv"] = nn.Conv2d(cin, cout, kernel, stride, padding, groups=groups, bias=folded)
    if not folded:
        # momentum 0.1 as in the zoo; EfficientNet's own 0.01 would outlast a short fine-tuning
        modules["bn"] = nn.BatchNorm2d(cout, eps=architecture.batch_norm_eps, momentum=0.1)
    if act:
        modules["act"] = nn.ReLU6()  # not in place: its input may be another module's to keep
    return nn.Sequential(modules)


class InvertedBottleneck(nn.Module):
    """``pw1`` (left out where it would not widen), ``dw``, ``pw2`` without activation; the input is
    added where stride 1 and equal channels allow it."""

    def __init__(self, architecture: Architecture, cin: int, block: Block, *, folded: bool):
        super().__init__()
        self.residual = block.stride == 1 and cin == block.out
        self.pw1 = None if block.mid == cin else _unit(architecture, cin, block.mid, 1, folded=folded)
        self.dw = _unit(
            architecture, block.mid, block.mid, block.kernel, stride=block.stride, groups=block.mid, folded=folded
        )
        self.pw2 = _unit(architecture, block.mid, block.out, 1, act=False, folded=folded)

    def forward(self, x):
        y = x if self.pw1 is None else self.pw1(x)
        y = self.pw2(self.dw(y))
        return x + y if self.residual else y


def build(architecture: Architecture, classes: int, *, folded: bool = False) -> nn.Sequential:
    """Images (N, 3, H, W) in, logits (N, classes) out. ``folded`` networks have no mix layer."""
    modules: OrderedDict[str, nn.Module] = OrderedDict()
    modules["stem"] = _unit(architecture, 3, architecture.stem, 3, stride=2, folded=folded)
    channels = architecture.stem
    for i, block in enumerate(architecture.blocks):
        modules[f"b{i}"] = InvertedBottleneck(architecture, channels, block, folded=folded)
        channels = block.out
    if architecture.mix and not folded:
        modules["mix"] = _unit(architecture, channels, architecture.mix, 1, folded=folded)
        channels = architecture.mix
    modules["pool"] = nn.AdaptiveAvgPool2d(1)
    modules["flatten"] = nn.Flatten()
    modules["classifier"] = nn.Linear(channels, classes)
    return nn.Sequential(modules)
