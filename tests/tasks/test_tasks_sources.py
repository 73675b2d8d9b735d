"""Image folders and archives, good and bad, and the cache of decoded images."""

import io
import os
import subprocess
import sys
import tarfile
import unicodedata
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from medyate import tasks
from medyate.errors import InputError
from medyate.files import archives
from medyate.files import fetch as files
from medyate.tasks import cache
from medyate.tasks.sources import FolderSource


@pytest.fixture(autouse=True)
def cache_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDYATE_DATA", str(tmp_path / "data"))
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "downloads")
    (tmp_path / "data").mkdir()
    return tmp_path / "cache"


def png(value, size=(9, 12)):
    """A PNG of one grey value."""
    stream = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(stream, "png")
    return stream.getvalue()


def noise():
    stream = io.BytesIO()
    pixels = np.random.default_rng(0).integers(0, 256, (30, 30, 3), np.uint8)
    Image.fromarray(pixels).save(stream, "jpeg")
    return stream.getvalue()


NOISE = noise()


def split_photos(root=""):
    """Paths and contents of a folder with two classes and a split."""
    names = [
        f"{root}{split}/{group}/{n}.png" for split in ("train", "test") for group in ("cat", "dog") for n in range(2)
    ]
    return {name: png(10 * index) for index, name in enumerate(names)}


def as_folder(path, photos):
    for name, content in photos.items():
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(content)
    return path


def as_tar(path, photos, mode="w"):
    with tarfile.open(path, mode) as archive:
        for name, content in photos.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def as_zip(path, photos):
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in photos.items():
            archive.writestr(name, content)
    return path


def load(path, resolution=8):
    return tasks.load(f"folder:{path}", resolution=resolution)


def grey(data, split):
    """The grey values of the images of a split, and their labels."""
    batches = list(data.batches(split, 3, augment=False))
    values = [round((float(x.mean()) + 1) * 127.5) for images, _ in batches for x in images]
    return values, [int(y) for _, labels in batches for y in labels]


FORMS = {
    "folder": lambda path, photos: as_folder(path / "pets", photos),
    "tar": lambda path, photos: as_tar(path / "pets.tar", photos),
    "tar.gz": lambda path, photos: as_tar(path / "pets.tar.gz", photos, "w:gz"),
    "tar.bz2": lambda path, photos: as_tar(path / "pets.tar.bz2", photos, "w:bz2"),
    "tar.xz": lambda path, photos: as_tar(path / "pets.tar.xz", photos, "w:xz"),
    "zip": lambda path, photos: as_zip(path / "pets.zip", photos),
}


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("root", ["", "pets/"])
def test_every_form_holds_the_same(form, root, tmp_path):
    photos = split_photos(root) | {
        f"{root}README.txt": b"hello",
        f"{root}train/cat/._0.png": b"not an image",
        f"{root}train/.DS_Store": b"x",
        f"{root}train/cat/Thumbs.db": b"x",
    }
    data = load(FORMS[form](tmp_path, photos))
    assert data.classes == ["cat", "dog"]
    assert grey(data, "train") == ([0, 10, 20, 30], [0, 0, 1, 1])
    assert grey(data, "test") == ([40, 50, 60, 70], [0, 0, 1, 1])


@pytest.mark.parametrize("name", ["val", "valid", "validation"])
def test_other_names_of_the_test_part(name, tmp_path):
    photos = {k.replace("test/", f"{name}/"): v for k, v in split_photos().items()}
    assert len(load(as_folder(tmp_path / "x", photos)).test) == 4


def test_without_a_split_every_fifth_image_of_a_class_is_for_the_test(tmp_path):
    photos = {f"{group}/{n:02d}.png": png(n) for group in ("a", "b") for n in range(11)}
    with pytest.warns(UserWarning, match="more than one label"):
        data = load(as_folder(tmp_path / "mine", photos))
    assert grey(data, "test") == ([0, 5, 10] * 2, [0] * 3 + [1] * 3)
    assert grey(data, "train")[0] == [1, 2, 3, 4, 6, 7, 8, 9] * 2


def test_imagefolder_of_torchvision_agrees(tmp_path):
    from medyate.networks._torchvision import torchvision

    torchvision()
    from torchvision.datasets import ImageFolder

    photos = {
        f"train/{group}/{n}.{suffix}": png(n + ord(group[0]))
        for group in ("Zebra", "ant", "10", "9")
        for n, suffix in enumerate(("png", "PNG", "bmp"))
    }
    photos |= {k.replace("train", "test"): png(200 + i) for i, k in enumerate(photos)}
    root = as_folder(tmp_path / "x", photos)
    data = load(root)
    theirs = ImageFolder(root / "train")
    assert data.classes == theirs.classes
    assert data.train.labels.tolist() == theirs.targets
    assert grey(data, "train")[0] == [np.asarray(image)[0, 0, 0] for image, _ in theirs]


@pytest.mark.parametrize("form", ["tar", "tar.gz", "zip"])
@pytest.mark.parametrize("name", ["../evil.png", "/evil.png", "train/../../evil.png", "..\\evil.png", "C:\\evil.png"])
def test_climbing_paths_are_refused(form, name, tmp_path):
    path = FORMS[form](tmp_path, split_photos() | {name: png(0)})
    with pytest.raises(InputError, match="climbs out of it"):
        load(path)
    assert not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_in_archives_are_refused(kind, tmp_path):
    path = as_tar(tmp_path / "x.tar", split_photos())
    with tarfile.open(path, "a") as archive:
        info = tarfile.TarInfo("train/cat/link.png")
        info.type, info.linkname = kind, "/etc/passwd"
        archive.addfile(info)
    with pytest.raises(InputError, match="is a link"):
        load(path)


def test_links_in_zips_are_refused(tmp_path):
    path = as_zip(tmp_path / "x.zip", split_photos())
    with zipfile.ZipFile(path, "a") as archive:
        info = zipfile.ZipInfo("train/cat/link.png")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    with pytest.raises(InputError, match="is a link"):
        load(path)


def nothing_is_left(folder):
    """No decoded data set, whole or half."""
    return not folder.exists() or [p.name for p in folder.iterdir()] in ([], ["digests"])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    "content", [b"", b"not an image", NOISE[: len(NOISE) // 2], b"GIF89a"], ids=["empty", "text", "cut", "gif"]
)
def test_a_damaged_image_is_named(form, content, tmp_path, cache_folder):
    path = FORMS[form](tmp_path, split_photos() | {"train/dog/bad.png": content})
    with pytest.raises(InputError, match="train/dog/bad.png' is not a readable image"):
        load(path)
    assert nothing_is_left(cache_folder)


@pytest.mark.parametrize("form", ["tar", "tar.gz", "tar.xz", "zip"])
@pytest.mark.parametrize("keep", [0.0, 0.3, 0.7])
def test_a_truncated_archive_is_told(form, keep, tmp_path, cache_folder):
    path = FORMS[form](tmp_path, split_photos())
    content = path.read_bytes()
    # The last kilobytes of a tar are zeros.
    path.write_bytes(content[: int(len(content.rstrip(b"\0")) * keep)])
    with pytest.raises(InputError, match=r"pets\.(tar|zip)"):
        load(path)
    assert nothing_is_left(cache_folder)


def test_a_damaged_member_of_a_zip_is_told(tmp_path):
    path = as_zip(tmp_path / "x.zip", split_photos())
    content = bytearray(path.read_bytes())
    at = content.index(png(10)[20:50])
    content[at] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="train/cat/1.png' in .* is damaged"):
        load(path)


@pytest.mark.parametrize(
    "photos, words",
    [
        ({}, "holds no images"),
        ({"train/cat/README.txt": b"x"}, "holds no images"),
        ({"cat/0.png": png(1), "cat/1.png": png(2)}, "one class only|no folder of a class"),
        ({"a/0.png": png(1), "a/1.png": png(2), "b/0.png": png(3)}, "'b' .* has one image"),
        (split_photos() | {"train/loose.png": png(9)}, "'train/loose.png' .* no folder of a class"),
        (split_photos() | {"test/cta/0.png": png(9)}, "without training images: cta"),
    ],
)
def test_other_layouts_are_refused(photos, words, tmp_path):
    (tmp_path / "x").mkdir()
    with pytest.raises(InputError, match=words):
        load(as_folder(tmp_path / "x", photos))


@pytest.mark.parametrize("form", FORMS)
def test_a_class_without_images_is_refused(form, tmp_path):
    # Photos of a phone, say, in a format that is not read.
    photos = split_photos() | {"train/eel/IMG_1.HEIC": b"x", "train/eel/IMG_2.HEIC": b"x"}
    with pytest.raises(InputError, match="class 'eel' .* has no images, but 'train/eel/IMG_1.HEIC'"):
        load(FORMS[form](tmp_path, photos))


def test_an_empty_folder_of_a_class_is_refused(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    (path / "train" / "eel").mkdir()
    with pytest.raises(InputError, match="class 'eel' .* has no images; allowed: .jpg"):
        load(path)


@pytest.mark.parametrize("form", FORMS)
def test_other_files_beside_images_are_told(form, tmp_path):
    photos = split_photos() | {"train/cat/IMG_1.HEIC": b"x", "train/dog/notes.txt": b"x"}
    with pytest.warns(UserWarning, match="2 files are no images .*, for instance 'train/cat/IMG_1"):
        load(FORMS[form](tmp_path, photos))


def test_links_to_folders(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    elsewhere = as_folder(tmp_path / "y", {f"{n}.png": png(n) for n in (100, 101)})
    (path / "train" / "eel").symlink_to(elsewhere)
    (path / "train" / "dog" / "up").symlink_to(path)  # a circle
    with pytest.warns(UserWarning, match="no test images of class eel"):
        data = load(path)
    assert data.classes == ["cat", "dog", "eel"] and len(data.train) == 6


def test_duplicates_are_told(tmp_path):
    photos = split_photos()
    photos["test/cat/copy.png"] = photos["train/cat/0.png"]
    photos["train/dog/copy.png"] = photos["train/cat/1.png"]
    with pytest.warns(UserWarning) as told:
        load(as_folder(tmp_path / "x", photos))
    assert sorted(str(w.message) for w in told) == [
        "task 'x': 1 images occur in both train and test",
        "task 'x': 1 images occur with more than one label",
    ]


def test_missing_paths_and_names(tmp_path):
    for name in ("folder:", "folder:/no/such", "nothing", "../data", "", "tsv:/no", "Folder:x", 3):
        with pytest.raises(InputError):
            tasks.get(name)
    with pytest.raises(InputError, match="cifar-10.*folder:PATH.*MEDYATE_DATA"):
        tasks.get("cifar11")


def test_a_pack_is_found_by_its_name(tmp_path):
    (tmp_path / "data" / "packs").mkdir()
    as_tar(tmp_path / "data" / "packs" / "pets7.tar", split_photos("pets7/"))
    data = tasks.load("pets7", resolution=8)
    assert data.name == "pets7" and len(data.train) == 4
    as_folder(tmp_path / "data" / "other", split_photos())
    assert len(tasks.load("other", resolution=8).test) == 4
    rows = {row["name"]: row for row in tasks.listing()}
    assert rows["pets7"]["present"] and not rows["cub"]["present"]


def count_decodes(monkeypatch):
    opened = []
    read = cache._read
    monkeypatch.setattr(cache, "_read", lambda sample: opened.append(sample.name) or read(sample))
    return opened


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_decoded_once_and_again_when_the_data_change(form, tmp_path, monkeypatch):
    opened = count_decodes(monkeypatch)
    photos = split_photos()
    path = FORMS[form](tmp_path, photos)
    load(path)
    assert len(opened) == 8
    assert grey(load(path), "train")[0] == [0, 10, 20, 30]
    assert len(opened) == 8
    load(path, resolution=16)
    assert len(opened) == 16
    # The same size, another content; the clock may not have moved on.
    photos["train/cat/0.png"] = png(90)
    times = path.stat()
    if form == "folder":
        (path / "train/cat/0.png").write_bytes(photos["train/cat/0.png"])
    else:
        path.unlink()
        FORMS[form](tmp_path, photos)
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert grey(load(path), "train")[0] == [90, 10, 20, 30]
    if form == "folder":
        (path / "train/cat/0.png").rename(path / "train/dog/9.png")
        assert grey(load(path), "train") == ([10, 20, 30, 90], [0, 1, 1, 1])


def test_progress_counts_images(tmp_path):
    path, told = as_folder(tmp_path / "x", split_photos()), []
    tasks.load(f"folder:{path}", resolution=8, progress=lambda *numbers: told.append(numbers))
    assert told == [(n, 8) for n in range(1, 9)]
    tasks.load(f"folder:{path}", resolution=8, progress=lambda *numbers: told.append(numbers))
    assert len(told) == 8


def test_a_failure_leaves_nothing_and_the_next_call_works(tmp_path, monkeypatch, cache_folder):
    path = as_folder(tmp_path / "x", split_photos())
    monkeypatch.setattr(np, "savez", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(InputError, match="decoding task 'x' into .* disk full; MEDYATE_CACHE"):
        load(path)
    assert nothing_is_left(cache_folder)
    monkeypatch.undo()
    monkeypatch.setenv("MEDYATE_CACHE", str(cache_folder))
    assert len(load(path).train) == 4


def test_two_processes_at_once(tmp_path, monkeypatch, cache_folder):
    # Another process finishes while this one still writes.
    path = as_folder(tmp_path / "x", split_photos())
    write, inside = cache._write, []

    def slow(*arguments):
        write(*arguments)
        if not inside:
            inside.append(None)
            inside[0] = load(path)

    monkeypatch.setattr(cache, "_write", slow)
    assert grey(load(path), "train") == grey(inside[0], "train")
    assert len([p for p in cache_folder.iterdir() if p.name != "digests"]) == 1


def test_a_damaged_cache_is_told(tmp_path, cache_folder):
    path = as_folder(tmp_path / "x", split_photos())
    load(path)
    (file,) = cache_folder.glob("*/train.u8")
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(InputError, match="train.u8' is damaged; delete its folder"):
        load(path)


def test_the_cache_cannot_be_written_through(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    load(path).decoded.train.zero_()
    assert grey(load(path), "train")[0] == [0, 10, 20, 30]


def test_large_images_are_kept_smaller(tmp_path):
    photos = split_photos() | {"train/cat/big.png": png(77, (40, 100))}
    data = load(as_folder(tmp_path / "x", photos), resolution=8)
    sizes = list(zip(data.decoded.heights.tolist(), data.decoded.widths.tolist(), strict=True))
    assert sizes == [(9, 12)] * 2 + [(12, 30)] + [(9, 12)] * 2


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_every_mode_of_colours_becomes_rgb(mode, tmp_path):
    photos = split_photos()
    path = as_folder(tmp_path / "x", photos)
    image = Image.new("I;16" if mode == "I;16" else mode, (9, 9))
    image.save(path / "train/cat" / ("odd.tif" if mode in ("CMYK", "I;16") else "odd.png"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        data = load(path)
    assert len(data.train) == 5
    assert torch.isfinite(next(data.batches("train", 5, augment=False))[0]).all()


def test_digest_sees_names_and_contents_only(tmp_path):
    a = as_folder(tmp_path / "a", split_photos())
    b = as_folder(tmp_path / "b", split_photos())
    assert archives.content_digest(a) == archives.content_digest(b)
    (b / ".hidden").write_text("x")
    assert archives.content_digest(a) == archives.content_digest(b)
    (b / "train/cat/0.png").write_bytes(png(99))
    assert archives.content_digest(a) != archives.content_digest(b)
    assert FolderSource("a", a).digest() == archives.content_digest(a)


PACKS = {
    "cifar10": (10, 3660, 860),
    "cifar10_jpeg": (10, 10_000, 2_000),
    "cub50": (50, 1400, 550),
    "food10": (10, 1500, 500),
    "flowers12": (12, 504, 228),
}
REAL = os.environ.get("MEDYATE_DATA", "")


@pytest.mark.parametrize("name", PACKS)
def test_real_packs(name, monkeypatch):
    monkeypatch.setenv("MEDYATE_DATA", REAL)
    if not REAL or files.find(f"{name}.tar") is None:
        pytest.skip(f"{name}.tar is in no folder that MEDYATE_DATA names")
    classes, train, test = PACKS[name]
    found = tasks.get(name).source.read()
    assert (len(found.classes), len(found.train), len(found.test)) == (classes, train, test)
    assert set(torch.tensor([s.label for s in found.train]).tolist()) == set(range(classes))


# --- splits under the names that people give them ---------------------------------------------


def renamed(**names):
    """A split data set with its folders called otherwise."""
    photos = split_photos()
    for split, name in names.items():
        photos = {path.replace(f"{split}/", f"{name}/", 1): content for path, content in photos.items()}
    return photos


@pytest.mark.parametrize(
    "train, test",
    [
        ("Train", "Test"),
        ("training", "testing"),
        ("TRAIN", "VAL"),
        ("train", "eval"),
        ("training_set", "test_set"),
        ("TrainSet", "TestSet"),
        ("trainset", "valset"),
        ("Training Data", "Validation Data"),
        ("train2017", "val2017"),
        ("train-images", "dev-images"),
        ("seg_train", "seg_test"),
        ("training", "Holdout"),
    ],
)
@pytest.mark.parametrize("root", ["", "archive/", "archive/v2/", "test/"])
def test_splits_by_other_names(train, test, root, tmp_path):
    photos = {root + name: content for name, content in renamed(train=train, test=test).items()}
    with pytest.warns(UserWarning, match=f"task 'x': trained on '{train}', tested on '{test}'$"):
        data = load(as_folder(tmp_path / "x", photos))
    assert data.classes == ["cat", "dog"]
    assert grey(data, "train")[0] == [0, 10, 20, 30] and grey(data, "test")[0] == [40, 50, 60, 70]


@pytest.mark.parametrize("test, other", [("test", "val"), ("Testing", "valid"), ("test", "eval")])
def test_validation_beside_test_is_told(test, other, tmp_path):
    photos = renamed(test=test) | {f"{other}/cat/0.png": png(200)}
    with pytest.warns(UserWarning, match=f"tested on '{test}'; '{other}' is not used .1 images"):
        data = load(as_folder(tmp_path / "x", photos))
    assert grey(data, "test")[0] == [40, 50, 60, 70]


def test_a_test_part_without_labels_gives_way_to_validation(tmp_path):
    photos = renamed(test="val") | {"test/1.png": png(200), "test/2.png": png(201), "sample.png": png(202)}
    words = "tested on 'val'; 'test' is not used .2 images.; 'images in no folder' is not used .1 images"
    with pytest.warns(UserWarning, match=words):
        assert grey(load(as_folder(tmp_path / "x", photos)), "test")[0] == [40, 50, 60, 70]


def test_a_training_part_alone_is_divided(tmp_path):
    photos = {f"Train/{group}/{n}.png": png(n + 10 * len(group)) for group in ("a", "bb") for n in range(5)}
    with pytest.warns(UserWarning, match="trained on 'Train', tested on every fifth image of each class"):
        data = load(as_folder(tmp_path / "x", photos))
    assert grey(data, "test") == ([10, 20], [0, 1])


def test_a_class_that_is_called_train(tmp_path):
    photos = {f"{group}/{n}.png": png(n + 10 * i) for i, group in enumerate(("bus", "car", "train")) for n in range(3)}
    with pytest.warns(UserWarning, match="the folders 'train' are taken as classes"):
        assert load(as_folder(tmp_path / "x", photos)).classes == ["bus", "car", "train"]


@pytest.mark.parametrize(
    "photos, words",
    [
        # a class of vehicles with folders in it, or a split beside two folders that are none?
        (["bus/a/1", "car/a/1", "train/steam/1", "train/diesel/1"], "'train' splits or classes, beside 'bus', 'car'"),
        (["cat/1", "cat/2", "dog/1", "dog/2", "test/1"], "'test' splits or classes, beside 'cat', 'dog'"),
        (["cat/1", "dog/1", "test/cat/1", "test/dog/1"], "'test' splits or classes"),
        (["train/cat/1", "train/dog/1", "test/cat/1", "cat/1"], "'test', 'train' splits or classes, beside 'cat'"),
        (["train/cat/1", "train/dog/1", "Training/cat/1"], "several train folders: 'Training', 'train'"),
        (["train/cat/1", "train/dog/1", "val/cat/1", "valid/dog/1"], "several validation folders: 'val', 'valid'"),
        (["test/cat/1", "test/dog/1"], "has 'test', but no train/CLASS"),
        (["test/cat/1", "val/dog/1"], "has 'test', 'val', but no train/CLASS"),
        (["cat_train/1", "cat_test/1", "dog_train/1", "dog_test/1"], "splits of several names"),
        (["cat/train/1", "cat/test/1", "dog/train/1", "dog/val/1"], "splits within its classes, such as 'cat/test'"),
    ],
)
def test_layouts_that_may_be_meant_in_two_ways_are_refused(photos, words, tmp_path):
    path = as_folder(tmp_path / "x", {f"{name}.png": png(n) for n, name in enumerate(photos)})
    with pytest.raises(InputError, match=words) as caught:
        load(path)
    assert "allowed" in str(caught.value) or "no train/CLASS" in str(caught.value)


def test_folders_within_classes_are_told(tmp_path):
    photos = {f"{name}/{n}.png": png(n + 10 * i) for i, name in enumerate(("pet/cat", "tree/oak")) for n in range(2)}
    with pytest.warns(UserWarning, match="the classes are 'pet', 'tree'; folders within them, such as 'pet/cat'"):
        assert load(as_folder(tmp_path / "x", photos)).classes == ["pet", "tree"]


@pytest.mark.parametrize("name", ["hold-out", "Hold_Out", "holdout set"])
def test_a_hold_out_is_a_part_for_validation(name, tmp_path):
    photos = {
        f"{part}/{group}/{n}.png": png(n + 10 * i + 100 * j)
        for j, part in enumerate(("train", name))
        for i, group in enumerate("ab")
        for n in range(2)
    }
    with pytest.warns(UserWarning, match="tested on"):
        assert len(load(as_folder(tmp_path / "x", photos)).test) == 4


def test_names_that_only_sound_like_splits_are_classes(tmp_path):
    groups = ("test tubes", "steam train", "validated")
    photos = {f"{group}/{n}.png": png(n + 10 * i) for i, group in enumerate(groups) for n in range(2)}
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert load(as_folder(tmp_path / "x", photos)).classes == sorted(groups)


def test_a_split_that_is_a_link(tmp_path):
    photos = {name: content for name, content in split_photos().items() if name.startswith("train")}
    path = as_folder(tmp_path / "x", photos)
    (path / "val").symlink_to(path / "train")
    with pytest.warns(UserWarning, match="4 images occur in both train and test"):
        data = load(path)
    assert grey(data, "test") == grey(data, "train") and len(data.test) == 4


def test_a_class_without_test_images_is_told(tmp_path):
    photos = split_photos() | {f"train/eel/{n}.png": png(100 + n) for n in range(2)}
    path = as_folder(tmp_path / "x", photos)
    (path / "test" / "eel").mkdir()
    with pytest.warns(UserWarning, match="no test images of class eel"):
        assert load(path).classes == ["cat", "dog", "eel"]


# --- names and links -----------------------------------------------------------------------------


NFC, NFD = "caf\u00e9", "cafe\u0301"


def finder_zip(path, photos):
    """As macOS writes them: UTF-8, decomposed, without the flag that says so."""
    as_zip(path, {unicodedata.normalize("NFD", name): content for name, content in photos.items()})
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = -1
        while (at := content.find(signature, at + 1)) >= 0:
            content[at + flags + 1] &= ~0x08
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("form", [*FORMS, "finder"])
def test_names_are_composed(form, tmp_path):
    photos = {name.replace("cat", NFC): content for name, content in split_photos().items()}
    mixed = {name.replace(NFC, NFD) if "test" in name else name: content for name, content in photos.items()}
    path = finder_zip(tmp_path / "x.zip", photos) if form == "finder" else FORMS[form](tmp_path, mixed)
    data = load(path)
    assert data.classes == [NFC, "dog"] and grey(data, "test")[1] == [0, 0, 1, 1]


def test_two_files_that_only_look_alike_are_refused(tmp_path):
    photos = split_photos() | {f"train/cat/{name}.png": png(90) for name in (NFC, NFD)}
    with pytest.raises(InputError, match="two files .* whose names differ in their Unicode form alone"):
        load(as_folder(tmp_path / "x", photos))


def test_a_name_that_is_no_utf_8(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    before = archives.content_digest(path)
    os.rename(path / "train/cat", os.fsencode(path / "train") + b"/caf\xe9")
    os.rename(path / "test/cat", os.fsencode(path / "test") + b"/caf\xe9")
    assert load(path).classes == ["caf\\xe9", "dog"] and archives.content_digest(path) != before


@pytest.mark.parametrize(
    "environment", [{"LC_ALL": "C"}, {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}]
)
def test_another_locale_has_the_same_classes_and_digest(environment, tmp_path):
    path = as_folder(tmp_path / "x", {n.replace("cat", "数据"): c for n, c in split_photos().items()})
    program = (
        "import sys; from pathlib import Path; from medyate import tasks; from medyate.files import archives;"
        "data = tasks.load('folder:' + sys.argv[1], resolution=8);"
        "print(ascii(data.classes), archives.content_digest(Path(sys.argv[1])))"
    )
    run = subprocess.run(
        [sys.executable, "-c", program, str(path)], env=os.environ | environment, capture_output=True, text=True
    )
    assert run.stdout.split() == [ascii(["dog", "数据"]).split()[0], ascii("数据") + "]", archives.content_digest(path)]


def test_a_link_to_nothing_is_told(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    (path / "train/cat/gone.png").symlink_to(tmp_path / "gone.png")
    with pytest.raises(InputError, match="'train/cat/gone.png' in .* is a link to nothing: .*gone.png"):
        load(path)


def test_pipes_are_not_waited_for(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    os.mkfifo(path / "train/cat/pipe.png")
    assert len(load(path).train) == 4


def test_what_a_file_manager_leaves_changes_no_digest(tmp_path):
    path = as_folder(tmp_path / "x", split_photos())
    before = archives.content_digest(path)
    (path / "train/cat/Thumbs.db").write_bytes(b"x")
    (path / "train/.DS_Store").write_bytes(b"x")
    assert archives.content_digest(path) == before


def test_an_encrypted_zip_is_called_so(tmp_path):
    path = as_zip(tmp_path / "x.zip", split_photos())
    content = bytearray(path.read_bytes())
    for signature, flags in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        content[content.find(signature) + flags] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="is encrypted .*; allowed: a zip without a password"):
        load(path)


def test_a_compression_that_is_not_read_is_called_so(tmp_path):
    path = as_zip(tmp_path / "x.zip", split_photos())
    content = bytearray(path.read_bytes())
    for signature, method in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        content[content.find(signature) + method] = 9  # Deflate64, as Windows packs large files
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be read: That compression method is not supported"):
        load(path)


@pytest.mark.parametrize("content", [b"Rar!\x1a\x07\x01\x00" + bytes(3000), b"7z\xbc\xaf'\x1c" + bytes(3000)])
def test_another_kind_of_archive_is_told_in_one_line(content, tmp_path):
    (tmp_path / "data" / "x.tar").write_bytes(content)
    for name in ("x", f"folder:{tmp_path}/data/x.tar"):
        with pytest.raises(InputError, match="is not a readable tar or zip") as caught:
            tasks.load(name)
        assert "\n" not in str(caught.value)


def test_a_damaged_stream_is_told(tmp_path):
    path = as_tar(tmp_path / "x.tar.gz", split_photos() | {"train/cat/n.jpg": NOISE}, "w:gz")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="x.tar.gz"):
        load(path)


def test_a_packed_tar_with_no_room_to_expand_it(tmp_path, monkeypatch):
    path = as_tar(tmp_path / "x.tar.gz", split_photos(), "w:gz")
    monkeypatch.setenv("MEDYATE_CACHE", str(path / "below a file"))
    with pytest.raises(InputError, match="cannot expand .* MEDYATE_CACHE can name another folder"):
        archives.tree(path)


def test_a_long_name(tmp_path):
    path = as_folder(tmp_path / ("x" * 250), split_photos())
    assert len(load(path).train) == 4
