"""Crops, flips, jitter and batches against torchvision's transforms, one by one and in distribution."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from scipy import stats

from medyate import tasks
from medyate.errors import InputError
from medyate.networks._torchvision import torchvision
from medyate.tasks import augment
from medyate.tasks.augment import Augmentation, Draws
from medyate.tasks.sources import FolderSource

ORDERS = [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]
LEVEL = 1 / 127.5  # one of 256 levels, after normalisation


def ks(a, b):
    """p-value of the two-sample test of Kolmogorov and Smirnov."""
    return stats.ks_2samp(a, b, method="asymp").pvalue


def transforms():
    torchvision()
    import torchvision.transforms as t

    return t


def picture(height, width, seed=0):
    """Smooth shapes plus noise: uint8 [height, width, 3]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:height, 0:width] / max(height, width)
    waves = [np.sin(9 * x * a + 7 * y * b + c) for a, b, c in rng.random((3, 3))]
    values = 128 + 100 * np.stack(waves, -1) + rng.normal(0, 12, (height, width, 3))
    return values.clip(0, 255).astype(np.uint8)


@st.composite
def cases(draw):
    """An image, a box in it, a flip, three factors, an order, a resolution."""
    height, width = draw(st.integers(4, 90)), draw(st.integers(4, 90))
    tall, wide = draw(st.integers(1, height)), draw(st.integers(1, width))
    box = [draw(st.integers(0, height - tall)), draw(st.integers(0, width - wide)), tall, wide]
    factors = [draw(st.floats(0.6, 1.4)) for _ in range(3)]
    image = picture(height, width, draw(st.integers(0, 5)))
    return (image, box, draw(st.booleans()), factors, draw(st.sampled_from(ORDERS)), draw(st.sampled_from([8, 32, 48])))


def by_torchvision(image, box, flip, factors, order, resolution):
    """torchvision's functions on floats, which do not round between the steps."""
    f = transforms().functional
    steps = (f.adjust_brightness, f.adjust_contrast, f.adjust_saturation)
    x = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    x = f.resized_crop(x, *box, [resolution, resolution], antialias=True)
    x = f.hflip(x) if flip else x
    for step in order:
        x = steps[step](x, factors[step])
    return f.normalize(x, [0.5] * 3, [0.5] * 3)


def by_pil(image, box, flip, factors, order, resolution):
    """torchvision's functions on PIL images, which round to eight bits after every step."""
    t = transforms()
    f = t.functional
    steps = (f.adjust_brightness, f.adjust_contrast, f.adjust_saturation)
    x = f.resized_crop(Image.fromarray(image), *box, [resolution, resolution])
    x = f.hflip(x) if flip else x
    for step in order:
        x = steps[step](x, factors[step])
    return f.normalize(f.to_tensor(x), [0.5] * 3, [0.5] * 3)


def ours_one(image, box, flip, factors, order, resolution):
    out = torch.empty(3, resolution, resolution)
    augment.augment_one(torch.from_numpy(image), box, flip, factors, list(order), out)
    return out


def ours_many(cases_):
    """The batched way: crops in padded frames."""
    height = max(box[2] for _, box, *_ in cases_)
    width = max(box[3] for _, box, *_ in cases_)
    crops = torch.full((len(cases_), height, width, 3), 77, dtype=torch.uint8)
    for crop, (image, (top, left, tall, wide), *_) in zip(crops, cases_, strict=True):
        crop[:tall, :wide] = torch.from_numpy(image)[top : top + tall, left : left + wide]
    draws = Draws(
        torch.tensor([case[1] for case in cases_]),
        torch.tensor([case[2] for case in cases_]),
        torch.tensor([case[3] for case in cases_]),
        torch.tensor([case[4] for case in cases_]),
    )
    return augment.augment_many(crops, draws, cases_[0][5])


@settings(max_examples=60, deadline=None)
@given(cases())
def test_one_image_is_torchvisions(case):
    # Rows and columns are each rounded when resized: at most a level, then 1.4 ** 3 times that.
    assert (ours_one(*case) - by_torchvision(*case)).abs().max() < 3 * LEVEL
    # PIL also rounds after every step and takes the mean grey as a whole number.
    assert (ours_one(*case) - by_pil(*case)).abs().max() < 7 * LEVEL
    assert (ours_one(*case) - by_pil(*case)).abs().mean() < 2.5 * LEVEL


@settings(max_examples=30, deadline=None)
@given(st.lists(cases(), min_size=1, max_size=4))
def test_a_batch_is_torchvisions(several):
    several = [(*case[:5], 32) for case in several]
    ours = ours_many(several)
    for got, case in zip(ours, several, strict=True):
        assert (got - by_torchvision(*case)).abs().max() < 0.02 * LEVEL


@pytest.mark.parametrize("extent", [1, 5, 31, 32, 33, 97, 320])
def test_filter_is_torchs(extent):
    weights = augment.resampling_weights(torch.tensor([extent, extent]), extent + 7, 32)[1]
    columns = torch.eye(extent)[None, None]  # resizing unit images gives the filter's matrix
    torchs = torch.nn.functional.interpolate(columns, size=(32, extent), mode="bilinear", antialias=True)[0, 0]
    assert torch.allclose(weights[:, :extent], torchs, atol=1e-6)
    assert not weights[:, extent:].any()


@pytest.mark.parametrize("size", [(160, 213), (32, 32), (20, 200), (300, 40), (9, 10)])
def test_boxes_are_distributed_as_torchvisions(size):
    height, width = size
    count = 3000
    t = transforms()
    torch.manual_seed(1)
    image = torch.empty(3, height, width)
    theirs = np.array([t.RandomResizedCrop.get_params(image, [0.08, 1.0], [3 / 4, 4 / 3]) for _ in range(count)])
    ours = augment.draw(
        torch.full((count,), height), torch.full((count,), width), Augmentation(), torch.Generator().manual_seed(2)
    ).boxes.numpy()
    for column in range(4):
        assert ks(ours[:, column], theirs[:, column]) > 1e-3
    # The shape as a whole: area and ratio, which the four columns alone do not tell.
    assert ks(ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]) > 1e-3
    assert ks(ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]) > 1e-3
    top, left, tall, wide = ours.T
    assert (top >= 0).all() and (left >= 0).all() and (tall > 0).all() and (wide > 0).all()
    assert (top + tall <= height).all() and (left + wide <= width).all()


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 400), st.integers(1, 400))
def test_central_crop_where_nothing_fits_is_torchvisions(height, width):
    # Boxes of twice the area never fit.
    theirs = transforms().RandomResizedCrop.get_params(torch.empty(3, height, width), [2.0, 2.0], [3 / 4, 4 / 3])
    ours = augment.draw(
        torch.tensor([height]), torch.tensor([width]), Augmentation(scale=(2.0, 2.0)), torch.Generator()
    ).boxes
    assert ours[0].tolist() == list(theirs)


def test_jitter_is_distributed_as_torchvisions():
    count = 6000
    torch.manual_seed(3)
    jitter = transforms().ColorJitter(0.4, 0.4, 0.4)
    params = [
        jitter.get_params(jitter.brightness, jitter.contrast, jitter.saturation, jitter.hue) for _ in range(count)
    ]
    ones = torch.full((count,), 8)
    draws = augment.draw(ones, ones, Augmentation(), torch.Generator().manual_seed(4))
    for column in range(3):
        theirs = [p[1 + column] for p in params]
        assert ks(draws.factors[:, column].numpy(), theirs) > 1e-3
    ours = [ORDERS.index(tuple(order)) for order in draws.orders.tolist()]
    # torchvision permutes a fourth step, the hue, that is not used.
    theirs = [ORDERS.index(tuple(i for i in p[0].tolist() if i < 3)) for p in params]
    table = [np.bincount(ours, minlength=6), np.bincount(theirs, minlength=6)]
    assert stats.chi2_contingency(table).pvalue > 1e-3
    assert stats.binomtest(int(draws.flips.sum()), count).pvalue > 1e-3


def test_the_whole_pipeline_is_distributed_as_torchvisions():
    image, count, side = picture(60, 80), 1200, 16
    t = transforms()
    torch.manual_seed(5)
    compose = t.Compose(
        [
            t.RandomResizedCrop(side),
            t.RandomHorizontalFlip(),
            t.ColorJitter(0.4, 0.4, 0.4),
            t.ToTensor(),
            t.Normalize([0.5] * 3, [0.5] * 3),
        ]
    )
    pil = Image.fromarray(image)
    theirs = torch.stack([compose(pil) for _ in range(count)])
    sizes = torch.full((count,), 60), torch.full((count,), 80)
    draws = augment.draw(*sizes, Augmentation(), torch.Generator().manual_seed(6))
    ours = torch.stack(
        [
            ours_one(image, box, flip, factors, order, side)
            for box, flip, factors, order in zip(
                draws.boxes.tolist(), draws.flips.tolist(), draws.factors.tolist(), draws.orders.tolist(), strict=True
            )
        ]
    )
    for statistic in (
        lambda x: x.mean((1, 2, 3)),
        lambda x: x.std((1, 2, 3)),
        lambda x: x[:, 0].mean((1, 2)) - x[:, 2].mean((1, 2)),
        lambda x: (x[..., : side // 2] - x[..., side // 2 :]).mean((1, 2, 3)),
        lambda x: x[:, 1, 3, 5],
        lambda x: x.amax((1, 2, 3)),
    ):
        a, b = statistic(ours).numpy(), statistic(theirs).numpy()
        assert ks(a, b) > 1e-3


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An image folder of PNGs of many shapes; the cache in tmp_path."""
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    root = tmp_path / "photos"
    shapes = [(40, 60), (60, 40), (33, 33), (20, 90), (64, 64), (50, 51)]
    for split in ("train", "test"):
        for group in ("ape", "bee"):
            place = root / split / group
            place.mkdir(parents=True)
            for number, shape in enumerate(shapes):
                seed = hash((split == "train", group == "ape", number)) % 1000
                Image.fromarray(picture(*shape, seed)).save(place / f"{number}.png")
    return root


def load(folder, resolution=32):
    return tasks.load(f"folder:{folder}", resolution=resolution)


def epoch(data, generator, **options):
    return list(data.batches("train", 5, generator=generator, augment=True, **options))


def test_test_batches_are_torchvisions(folder):
    t = transforms()
    data = load(folder, 32)
    compose = t.Compose([t.Resize(37), t.CenterCrop(32), t.ToTensor(), t.Normalize([0.5] * 3, [0.5] * 3)])
    paths = sorted((folder / "test").glob("*/*.png"))
    expected = torch.stack([compose(Image.open(path)) for path in paths])
    batches = list(data.batches("test", 5, augment=False))
    assert [len(labels) for _, labels in batches] == [5, 5, 2]
    images = torch.cat([images for images, _ in batches])
    assert (images - expected).abs().max() < 1e-6
    assert torch.cat([labels for _, labels in batches]).tolist() == [0] * 6 + [1] * 6
    # Without augmentation training images pass the same transform.
    plain = torch.cat([images for images, _ in data.batches("train", 5, augment=False)])
    paths = sorted((folder / "train").glob("*/*.png"))
    kept = [Image.open(path) for path in paths]
    expected = torch.stack([compose(image) for image in kept if min(image.size) <= 48])
    small = [min(image.size) <= 48 for image in kept]
    assert (plain[small] - expected).abs().max() < 1e-6


def test_evaluation_sides_are_the_papers():
    from medyate.tasks import cache

    assert cache.evaluation_side(128) == 147
    square = cache.evaluation_view(Image.fromarray(picture(30, 50)), 16, "square")
    expected = transforms().Resize((16, 16))(Image.fromarray(picture(30, 50)))
    assert (square == np.asarray(expected)).all()


def test_training_batches_are_the_drawn_crops_of_the_files(folder):
    data = load(folder, 48)  # nothing is larger than 72 pixels, so files are kept as they are
    generator = torch.Generator().manual_seed(7)
    batches = epoch(data, generator)
    generator.manual_seed(7)
    order = torch.randperm(12, generator=generator)
    paths = sorted((folder / "train").glob("*/*.png"))
    images = [np.array(Image.open(paths[index])) for index in order.tolist()]
    sizes = torch.tensor([image.shape[:2] for image in images])
    draws = augment.draw(sizes[:, 0], sizes[:, 1], Augmentation(), generator)
    got = torch.cat([x for x, _ in batches])
    for row, image in enumerate(images):
        case = (draws.boxes, draws.flips, draws.factors, draws.orders)
        expected = by_torchvision(image, *(column[row].tolist() for column in case), 48)
        assert (got[row] - expected).abs().max() < 3 * LEVEL
    assert torch.equal(torch.cat([y for _, y in batches]), (order >= 6).long())


def test_device_code_gives_the_same_batches(folder):
    data = load(folder, 48)
    generator = torch.Generator().manual_seed(8)
    expected = torch.cat([x for x, _ in epoch(data, generator)])
    generator.manual_seed(8)
    order = torch.randperm(12, generator=generator)
    sizes = data.decoded.heights[order], data.decoded.widths[order]
    draws = augment.draw(*sizes, data.augmentation, generator)
    cpu = torch.device("cpu")
    got = data._augmented_on(cpu, order, draws)
    assert (got - expected).abs().max() < 3 * LEVEL
    # A data set that is too large for the device is cropped on the host.
    resident = data._crops(cpu, order, draws.boxes)
    object.__setattr__(data, "_on", lambda device, split: None)
    streamed = data._crops(cpu, order, draws.boxes)
    for a, b, (_, _, tall, wide) in zip(resident, streamed, draws.boxes.tolist(), strict=True):
        assert torch.equal(a[:tall, :wide], b[:tall, :wide])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_gpu_batches_are_the_cpus(folder):
    data = load(folder, 48)
    on_cpu = epoch(data, torch.Generator().manual_seed(9))
    on_gpu = epoch(data, torch.Generator().manual_seed(9), device="cuda")
    for (x, y), (a, b) in zip(on_cpu, on_gpu, strict=True):
        assert a.device.type == b.device.type == "cuda"
        assert (a.cpu() - x).abs().max() < 3 * LEVEL and torch.equal(b.cpu(), y)


def same(a, b):
    return all(torch.equal(x, u) and torch.equal(y, v) for (x, y), (u, v) in zip(a, b, strict=True))


def test_the_generator_determines_the_epoch_bit_for_bit(folder):
    data = load(folder)
    generator = torch.Generator().manual_seed(10)
    first, state = epoch(data, generator), generator.get_state()
    second = epoch(data, generator)
    assert same(first, epoch(data, torch.Generator().manual_seed(10)))
    assert not same(first, second)
    resumed = torch.Generator()
    resumed.set_state(state)
    assert same(second, epoch(load(folder), resumed))
    # Drawn when called: batches that are taken late, or not at all, change nothing.
    generator.manual_seed(10)
    late = data.batches("train", 5, generator=generator, augment=True)
    data.batches("train", 5, generator=generator, augment=True)
    assert same(first, list(late))


def test_an_epoch_has_every_image_once(folder):
    data = load(folder)
    batches = list(data.batches("train", 5, generator=torch.Generator(), augment=False))
    shuffled = torch.cat([images for images, _ in batches])
    in_order = torch.cat([images for images, _ in data.batches("train", 5, augment=False)])
    key = shuffled.flatten(1).sum(1).sort().values
    assert torch.equal(key, in_order.flatten(1).sum(1).sort().values)
    assert not torch.equal(shuffled, in_order)


def test_layout_and_types(folder):
    data = load(folder)
    for split, options in (("train", {"generator": torch.Generator(), "augment": True}), ("test", {"augment": False})):
        images, labels = next(data.batches(split, 5, channels_last=True, **options))
        assert images.shape == (5, 3, 32, 32) and images.dtype == torch.float32
        assert images.is_contiguous(memory_format=torch.channels_last)
        assert labels.dtype == torch.int64
        assert images.abs().max() <= 1 + 1e-6
        images, _ = next(data.batches(split, 5, **options))
        assert images.is_contiguous()


def test_batches_do_not_share_memory(folder):
    # A step may change its batch in place.
    data = load(folder)
    first = [images.mul_(0) for images, _ in data.batches("test", 5, augment=False)]
    assert not any(images.any() for images in first)
    assert all(images.any() for images, _ in data.batches("test", 5, augment=False))


def test_bad_arguments(folder):
    data = load(folder)
    g = torch.Generator()
    for arguments, options, words in (
        (("val", 5), {"augment": False}, "'val'; allowed: train, test"),
        (("train", 0), {"augment": False}, "batch size 0"),
        (("test", 5), {"augment": True, "generator": g}, "'train'"),
        (("train", 5), {"augment": True}, "needs a torch.Generator"),
    ):
        with pytest.raises(InputError, match=words):  # at the call, not at the first batch
            data.batches(*arguments, **options)
    for resolution in (0, 7, 2000, "128", 64.0):
        with pytest.raises(InputError, match="resolution"):
            tasks.load(f"folder:{folder}", resolution=resolution)


@pytest.mark.parametrize("resolution", [8, 16, 64])
def test_digits(resolution, tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path))
    from sklearn.datasets import load_digits

    data = tasks.load("Digits", resolution=resolution)
    digits = load_digits()
    assert (len(data.train), len(data.test)) == (1437, 360)
    assert data.test.labels.tolist() == digits.target[::5].tolist()
    assert data.classes == list("0123456789")
    images, _ = next(data.batches("train", 1437, augment=False))
    assert images.shape == (1437, 3, resolution, resolution)
    kept = data.decoded.train.view(-1, 8, 8, 3)[..., 1].numpy()
    rest = np.delete(digits.images, np.arange(0, 1797, 5), axis=0)
    assert np.array_equal(kept, np.round(rest * 255 / 16))
    batch, _ = next(data.batches("train", 64, generator=torch.Generator(), augment=True))
    assert batch.isfinite().all()


def test_every_task_has_the_papers_protocol():
    paper = {task.label: task for task in tasks.TASKS.values() if task.label}
    epochs = {"CUB": 205, "Pets": 205, "Flowers": 205, "CIFAR-10": 105, "CIFAR-100": 55}
    epochs |= {"Food": 55, "VWW": 55}
    assert {k: t.epochs for k, t in paper.items() if t.kind == "image"} == epochs
    assert {k for k, t in paper.items() if t.kind == "text"} == {"QNLI", "RTE", "SST2"}
    assert {k for k, t in paper.items() if t.resize == "square"} == {"VWW"}
    assert all(t.augmentation == Augmentation() for t in paper.values())
    assert isinstance(tasks.get("digits").source, type(tasks.TASKS["digits"].source))
    assert not isinstance(tasks.TASKS["cub"].source, FolderSource)
