"""The paper's input pipeline (Sec. 4.1) as batched, explicitly seeded tensor code.

Training images pass a random resized crop, a horizontal flip and a colour jitter (brightness,
contrast and saturation in random order); evaluation images are resized and cropped at the centre.
All end as float32 with mean 0.5 and standard deviation 0.5, i.e. within [-1, 1].

Every random number of an epoch is drawn at its start (:func:`draw`), in one go, so that the state
of the generator at that point determines the epoch whatever executes it:

* :func:`augment_one` treats one image on the CPU, where an image stays in the cache of a core;
* :func:`augment_many` treats a whole batch on any device by matrix products.

Both compute what torchvision's transforms compute from the same random numbers, up to the rounding
to eight bits between torchvision's steps.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .registry import Augmentation

BRIGHTNESS, CONTRAST, SATURATION = 0, 1, 2

#: Weights of R, G, B in the grey value (ITU-R 601, as in torchvision).
GREY = (0.2989, 0.587, 0.114)

#: Attempts at a crop box before the central one is taken, as in torchvision.
ATTEMPTS = 10


@dataclass(frozen=True)
class Draws:
    """The random numbers of N images.

    boxes: int64 [N, 4] (top, left, height, width in pixels); flips: bool [N];
    factors: float64 or float32 [N, 3] (brightness, contrast, saturation);
    orders: int64 [N, 3], which of the three comes first, second, third.
    """

    boxes: Tensor
    flips: Tensor
    factors: Tensor
    orders: Tensor

    def __getitem__(self, rows: slice) -> "Draws":
        return Draws(self.boxes[rows], self.flips[rows], self.factors[rows], self.orders[rows])

    @classmethod
    def interleaved(cls, several: Sequence["Draws"]) -> "Draws":
        """Those of several runs image by image: the first image of each, the second of each, .."""
        columns = ("boxes", "flips", "factors", "orders")
        return cls(*(torch.stack([getattr(one, name) for one in several], 1).flatten(0, 1) for name in columns))

    def to(self, device: torch.device) -> "Draws":
        """On ``device``, the factors as float32: not every device has float64."""
        numbers = (self.boxes, self.flips, self.factors.float(), self.orders)
        return Draws(*(column.to(device) for column in numbers))


def draw(heights: Tensor, widths: Tensor, augmentation: Augmentation, generator: torch.Generator) -> Draws:
    """Draw for N images of ``heights`` x ``widths`` pixels (int64 [N], on the CPU)."""
    count = len(heights)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        numbers = torch.rand(count, *shape, generator=generator, dtype=torch.float64)
        return numbers * (high - low) + low

    # Random resized crop: the first attempt that fits the image, else the central crop.
    height, width = heights.double()[:, None], widths.double()[:, None]
    area = height * width * uniform(*augmentation.scale, ATTEMPTS)
    low, high = augmentation.ratio
    ratio = uniform(math.log(low), math.log(high), ATTEMPTS).exp()
    box_width, box_height = (area * ratio).sqrt().round(), (area / ratio).sqrt().round()
    fits = (box_width > 0) & (box_width <= width) & (box_height > 0) & (box_height <= height)
    first = fits.int().argmax(1, keepdim=True)
    box_width, box_height = box_width.gather(1, first), box_height.gather(1, first)
    top = (uniform(0, 1, 1) * (height - box_height + 1)).floor()
    left = (uniform(0, 1, 1) * (width - box_width + 1)).floor()
    central_width = torch.minimum(width, (height * high).round())
    central_height = torch.minimum(height, (width / low).round())
    central = torch.cat(
        (((height - central_height) / 2).floor(), ((width - central_width) / 2).floor(), central_height, central_width),
        1,
    )
    boxes = torch.cat((top, left, box_height, box_width), 1)
    boxes = torch.where(fits.any(1, keepdim=True), boxes, central).long()

    return Draws(
        boxes=boxes,
        flips=uniform(0, 1) < augmentation.flip,
        factors=uniform(max(0.0, 1 - augmentation.jitter), 1 + augmentation.jitter, 3),
        orders=uniform(0, 1, 3).argsort(1),
    )


def resize(image: Tensor, height: int, width: int) -> Tensor:
    """Antialiased bilinear resize of a uint8 image [H, W, 3] to uint8 [3, height, width]."""
    planes = image.permute(2, 0, 1)[None]
    return F.interpolate(planes, size=(height, width), mode="bilinear", antialias=True)[0]


def augment_one(image: Tensor, box: list[int], flip: bool, factors: list[float], order: list[int], out: Tensor) -> None:
    """Crop, flip, jitter and normalise one uint8 image [H, W, 3] into ``out`` [3, R, R].

    ``out`` may have any strides: the work is done on planes, the layout that is quickest here.
    """
    top, left, height, width = box
    resolution = out.shape[-1]
    crop = resize(image[top : top + height, left : left + width], resolution, resolution)
    x = (crop.flip(-1) if flip else crop).float().mul_(1 / 127.5)
    for step in order:
        factor = factors[step]
        # Each step is a blend, factor * image + (1 - factor) * reference. The reference is black,
        # the mean grey value or the grey image.
        if step == BRIGHTNESS:
            x.mul_(factor)
        elif step == CONTRAST:
            red, green, blue = x.mean((1, 2)).tolist()
            grey = GREY[0] * red + GREY[1] * green + GREY[2] * blue
            x.mul_(factor).add_((1 - factor) * grey)
        else:
            weights = torch.tensor([[(1 - factor) * weight for weight in GREY]])
            grey = torch.mm(weights, x.view(3, -1)).view(1, resolution, resolution)
            x.mul_(factor).add_(grey)
        if factor > 1:  # a blend with less than the whole stays between its two parts
            x.clamp_(0, 2)
    torch.sub(x, 1, out=out)


def normalise_(images: Tensor) -> Tensor:
    """Map float values 0..255 to [-1, 1] in place: mean 0.5 and standard deviation 0.5."""
    return images.mul_(1 / 127.5).sub_(1)


def resampling_weights(extents: Tensor, source: int, resolution: int) -> Tensor:
    """The antialiased bilinear filter as matrices: float32 [N, resolution, source].

    extents: int64 [N], how many of the ``source`` pixels the image really has; the rest is padding
    and gets weight 0. The filter is a triangle as wide as one output pixel (at least one source
    pixel), normalised over the pixels that exist: PIL's and torch's ``antialias=True``.
    """
    scale = extents.float()[:, None, None] / resolution
    support = scale.clamp(min=1)
    centre = (torch.arange(resolution, device=extents.device)[:, None] + 0.5) * scale
    pixel = torch.arange(source, device=extents.device)
    weights = (1 - (pixel + 0.5 - centre).abs() / support).clamp_(min=0)
    weights = weights * (pixel < extents[:, None, None])
    return weights / weights.sum(-1, keepdim=True)


def augment_many(crops: Tensor, draws: Draws, resolution: int) -> Tensor:
    """Resize, flip, jitter and normalise N crops on their device: float32 [N, 3, R, R].

    crops: uint8 [N, H, W, 3], each crop at the top left of its padded frame; the heights and
    widths, flips, factors and orders in ``draws`` lie on the same device.
    """
    rows = resampling_weights(draws.boxes[:, 2], crops.shape[1], resolution)
    columns = resampling_weights(draws.boxes[:, 3], crops.shape[2], resolution)
    columns = torch.where(draws.flips[:, None, None], columns.flip(1), columns)
    images = crops.permute(0, 3, 1, 2).float()
    images = rows[:, None] @ images @ columns[:, None].transpose(-1, -2)

    grey_weights = torch.tensor(GREY, device=images.device).view(1, 3, 1, 1)
    for position in range(3):
        step = draws.orders[:, position, None]
        factor = draws.factors.gather(1, step).view(-1, 1, 1, 1)
        step = step.view(-1, 1, 1, 1)
        grey = (images * grey_weights).sum(1, keepdim=True)
        reference = torch.where(step == CONTRAST, grey.mean((2, 3), keepdim=True), grey)
        reference = torch.where(step == BRIGHTNESS, torch.zeros_like(reference), reference)
        images = (images * factor + reference * (1 - factor)).clamp_(0, 255)
    return normalise_(images)
