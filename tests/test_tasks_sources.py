"""Image folders and archives, good and bad, and the cache of decoded images."""

import io
import os
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from medyate import files, tasks
from medyate.errors import InputError
from medyate.tasks import cache, sources
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
        f"{root}{split}/{group}/{n}.png"
        for split in ("train", "test")
        for group in ("cat", "dog")
        for n in range(2)
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
    from medyate._torchvision import torchvision

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
@pytest.mark.parametrize(
    "name", ["../evil.png", "/evil.png", "train/../../evil.png", "..\\evil.png", "C:\\evil.png"]
)
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
    "content",
    [b"", b"not an image", NOISE[: len(NOISE) // 2], b"GIF89a"],
    ids=["empty", "text", "cut", "gif"],
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
    with pytest.raises(
        InputError, match="class 'eel' .* has no images, but 'train/eel/IMG_1.HEIC'"
    ):
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
    assert sources.content_digest(a) == sources.content_digest(b)
    (b / ".hidden").write_text("x")
    assert sources.content_digest(a) == sources.content_digest(b)
    (b / "train/cat/0.png").write_bytes(png(99))
    assert sources.content_digest(a) != sources.content_digest(b)
    assert FolderSource("a", a).digest() == sources.content_digest(a)


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
