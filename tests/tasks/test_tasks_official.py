"""The official formats, written small, read by us and by torchvision's own readers."""

import hashlib
import io
import json
import pickle
import tarfile
import zipfile
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from medyate import tasks
from medyate.errors import InputError
from medyate.files import fetch as files
from medyate.networks._torchvision import torchvision
from medyate.tasks import official
from medyate.tasks.official import OfficialSource

RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    """The only data folder, empty."""
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MEDYATE_DATA", str(folder))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "downloads")
    return folder


def datasets():
    torchvision()
    from torchvision import datasets

    return datasets


def jpeg(value):
    stream = io.BytesIO()
    Image.fromarray(np.full((10, 12, 3), value, np.uint8)).save(stream, "jpeg")
    return stream.getvalue()


def tgz(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return path


def unpack(folder, members):
    for name, content in members.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def here(source, *paths):
    """``source`` with the checksums and sizes of these files of the test instead of its own."""
    archives = tuple(
        files.RemoteFile(p.name, hashlib.sha256(p.read_bytes()).hexdigest(), size_bytes=p.stat().st_size) for p in paths
    )
    return replace(source, archives=(archives,))


def source(name):
    return tasks.TASKS[name].source


def listed(samples):
    return [(s.name, s.label) for s in samples]


# CIFAR


def cifar_rows(count, classes):
    pixels = RNG.integers(0, 256, (count, 3072), np.uint8)
    return pixels, [int(label) for label in RNG.integers(0, classes, count)]


def python2_pickle(batch):
    """As Python 2 wrote it: protocol 2, every string as bytes without a type of its own."""
    out = io.BytesIO()
    out.write(b"\x80\x02}(")
    for key, value in batch.items():
        out.write(b"U" + bytes([len(key)]) + key)
        if isinstance(value, np.ndarray):
            out.write(b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\nK\x00\x85U\x01bt")
            out.write(b"R(K\x01M" + value.shape[0].to_bytes(2, "little"))
            out.write(b"M" + value.shape[1].to_bytes(2, "little") + b"\x86")
            out.write(b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xff")
            out.write(b"J\xff\xff\xff\xffK\x00tb\x89")
            content = value.tobytes()
            out.write(b"T" + len(content).to_bytes(4, "little") + content + b"tb")
        else:
            out.write(b"](")
            for item in value:
                if isinstance(item, bytes):
                    out.write(b"U" + bytes([len(item)]) + item)
                else:
                    out.write(b"K" + bytes([item]))
            out.write(b"e")
    out.write(b"u.")
    return out.getvalue()


def cifar10_python(batches, names):
    members = {
        f"cifar-10-batches-py/{name}": python2_pickle({b"data": pixels, b"labels": labels})
        for name, (pixels, labels) in batches.items()
    }
    meta = python2_pickle({b"label_names": names})
    return members | {"cifar-10-batches-py/batches.meta": meta}


def cifar10_binary(batches, names):
    members = {
        f"cifar-10-batches-bin/{name}.bin": b"".join(
            bytes([label]) + row.tobytes() for row, label in zip(pixels, labels, strict=True)
        )
        for name, (pixels, labels) in batches.items()
    }
    return members | {"cifar-10-batches-bin/batches.meta.txt": b"\n".join([*names, b"", b""])}


NAMES10 = [f"kind{n}".encode() for n in range(10)]
BATCHES10 = {f"data_batch_{n}": cifar_rows(3, 10) for n in range(1, 6)}
BATCHES10 |= {"test_batch": cifar_rows(4, 10)}


@pytest.mark.parametrize("write", [cifar10_python, cifar10_binary])
def test_cifar10(write, data, monkeypatch):
    path = tgz(data / "cifar.tar.gz", write(BATCHES10, NAMES10))
    found = here(source("cifar-10"), path).read()
    assert found.classes == tuple(name.decode() for name in NAMES10)
    # torchvision reads the Python version.
    unpack(data, cifar10_python(BATCHES10, NAMES10))
    reader = datasets().CIFAR10
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    monkeypatch.setattr(datasets().cifar, "check_integrity", lambda *_: True)
    for ours, train in ((found.train, True), (found.test, False)):
        theirs = reader(data, train=train)
        assert [s.label for s in ours] == theirs.targets
        for sample, image in zip(ours, theirs.data, strict=True):
            assert (sample.read() == image).all()


@pytest.mark.parametrize("version", ["python", "binary"])
def test_cifar100_takes_the_fine_labels(version, data):
    names = [f"fine{n}".encode() for n in range(100)]
    batches = {"train": cifar_rows(6, 100), "test": cifar_rows(4, 100)}
    if version == "python":
        members = {
            f"cifar-100-python/{name}": python2_pickle(
                {b"data": x, b"fine_labels": y, b"coarse_labels": [n % 20 for n in y]}
            )
            for name, (x, y) in batches.items()
        }
        members["cifar-100-python/meta"] = python2_pickle(
            {b"fine_label_names": names, b"coarse_label_names": [b"x"] * 20}
        )
    else:
        members = {
            f"cifar-100-binary/{name}.bin": b"".join(
                bytes([label % 20, label]) + row.tobytes() for row, label in zip(x, y, strict=True)
            )
            for name, (x, y) in batches.items()
        }
        members["cifar-100-binary/fine_label_names.txt"] = b"\n".join(names) + b"\n"
    found = here(source("cifar-100"), tgz(data / "cifar.tar.gz", members)).read()
    assert found.classes == tuple(name.decode() for name in names)
    for samples, (pixels, labels) in zip((found.train, found.test), batches.values(), strict=True):
        assert [s.label for s in samples] == labels
        for sample, row in zip(samples, pixels, strict=True):
            assert (sample.read() == row.reshape(3, 32, 32).transpose(1, 2, 0)).all()


class Evil:
    def __reduce__(self):
        return exec, ("raise SystemExit('unpickled')",)


def test_a_cifar_pickle_is_read_only_after_its_checksum(data, monkeypatch):
    path = tgz(data / "cifar-10-python.tar.gz", cifar10_python(BATCHES10, NAMES10))

    def never(*_, **__):
        raise AssertionError("unpickled")

    monkeypatch.setattr(official, "_cifar_pickle", never)
    for call in (source("cifar-10").read, source("cifar-10").digest):
        with pytest.raises(InputError, match="is damaged: SHA-256"):
            call()
    with pytest.raises(AssertionError):
        here(source("cifar-10"), path).read()


def test_a_cifar_pickle_calls_nothing_but_numpy(data):
    members = cifar10_python(BATCHES10, NAMES10)
    members["cifar-10-batches-py/data_batch_3"] = pickle.dumps(Evil())
    with pytest.raises(InputError, match="exec is not allowed"):
        here(source("cifar-10"), tgz(data / "c.tar.gz", members)).read()


@pytest.mark.parametrize("write", [cifar10_python, cifar10_binary])
@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda content: content[:-7], "truncated|damaged"),
        (lambda content: b"", "empty|damaged"),
        (None, "lack the file"),
    ],
)
def test_damaged_cifar_batches(write, spoil, words, data):
    members = write(BATCHES10, NAMES10)
    name = next(name for name in members if "data_batch_2" in name)
    if spoil is None:
        del members[name]
    else:
        members[name] = spoil(members[name])
    with pytest.raises(InputError, match=words):
        here(source("cifar-10"), tgz(data / "c.tar.gz", members)).read()


@pytest.mark.parametrize("write", [cifar10_python, cifar10_binary])
def test_mislabelled_cifar(write, data):
    pixels, _ = cifar_rows(3, 10)
    members = write(BATCHES10 | {"data_batch_4": (pixels, [0, 10, 1])}, NAMES10)
    with pytest.raises(InputError, match="labels beyond 10"):
        here(source("cifar-10"), tgz(data / "a.tar.gz", members)).read()
    with pytest.raises(InputError, match="names 9 classes"):
        members = write(BATCHES10, NAMES10[:9])
        here(source("cifar-10"), tgz(data / "b.tar.gz", members)).read()


def test_sizes_are_asserted(data):
    path = tgz(data / "c.tar.gz", cifar10_binary(BATCHES10, NAMES10))
    task = replace(tasks.TASKS["cifar-10"], source=here(source("cifar-10"), path))
    with pytest.raises(InputError, match="'cifar-10' has 15 training examples; allowed: 50,000"):
        tasks.load(task, resolution=8)
    loaded = tasks.load(replace(task, train_size=15, test_size=4), resolution=32)
    assert len(loaded.train) == 15 and loaded.decoded.heights.tolist() == [32] * 15


# CUB-200-2011


def cub_files():
    images = [f"{c:03d}.Bird_{c}/Bird_{c}_{n}.jpg" for c in (1, 2, 3) for n in range(4)]
    tables = {
        "classes": "".join(f"{c} {c:03d}.Bird_{c}\n" for c in (1, 2, 3)),
        "images": "".join(f"{n} {path}\n" for n, path in enumerate(images, 1)),
        "image_class_labels": "".join(f"{n} {1 + (n - 1) // 4}\n" for n in range(1, 13)),
        "train_test_split": "".join(f"{n} {n % 3 % 2}\n" for n in range(1, 13)),
    }
    members = {f"CUB_200_2011/{name}.txt": text.encode() for name, text in tables.items()}
    members |= {f"CUB_200_2011/images/{p}": jpeg(10 * n) for n, p in enumerate(images, 1)}
    return members | {"attributes.txt": b"1 has_bill_shape", "CUB_200_2011/README": b"x"}


@pytest.mark.parametrize("unpacked", [False, True])
def test_cub(unpacked, data):
    if unpacked:
        unpack(data, cub_files())
        found = source("cub").read()
    else:
        found = here(source("cub"), tgz(data / "c.tgz", cub_files())).read()
    assert found.classes == ("001.Bird_1", "002.Bird_2", "003.Bird_3")
    numbers = {f"{c:03d}.Bird_{c}/Bird_{c}_{n}.jpg": 4 * c - 3 + n for c in (1, 2, 3) for n in range(4)}
    train = [(p, (n - 1) // 4) for p, n in numbers.items() if n % 3 == 1]
    test = [(p, (n - 1) // 4) for p, n in numbers.items() if n % 3 != 1]
    assert listed(found.train) == train and listed(found.test) == test
    assert found.test[0].read() == jpeg(20)


@pytest.mark.parametrize(
    "name, change, words",
    [
        ("image_class_labels.txt", lambda t: t.replace("3 1\n", "3 4\n", 1), "'4'; allowed: 1 to 3"),
        ("image_class_labels.txt", lambda t: t.replace("3 1\n", "3 0\n", 1), "'0'; allowed: 1 to 3"),
        ("image_class_labels.txt", lambda t: t.replace("3 1\n", "3 x\n", 1), "'x'"),
        ("image_class_labels.txt", lambda t: t[:-5], "has no label|has no value"),
        ("train_test_split.txt", lambda t: t.replace("5 0\n", "5 2\n"), "image 5 .* no split"),
        ("train_test_split.txt", lambda t: "", "no split"),
        ("images.txt", lambda t: t.replace("2 001", "1 001", 1), "'1' occurs twice"),
        ("images.txt", lambda t: t.replace("Bird_1_1.jpg", "Bird_1_0.jpg"), "twice"),
        ("images.txt", lambda t: t.replace("Bird_1_1.jpg", "Bird_1_9.jpg"), "lack the file"),
        ("classes.txt", lambda t: t.replace("2 ", "7 ", 1), "number its classes"),
        ("classes.txt", None, "lack the file 'classes.txt'"),
    ],
)
def test_inconsistent_cub(name, change, words, data):
    members = cub_files()
    text = members.pop(f"CUB_200_2011/{name}").decode()
    if change:
        members[f"CUB_200_2011/{name}"] = change(text).encode()
    with pytest.raises(InputError, match=words):
        here(source("cub"), tgz(data / "c.tgz", members)).read()


# Flowers-102


def flowers_files(folder, train=(3, 1), valid=(5, 7), test=(2, 4, 6), labels=(1, 2, 1, 3, 2, 3, 1)):
    from scipy.io import savemat

    savemat(folder / "imagelabels.mat", {"labels": np.array([labels], np.uint8)})
    ids = {"trnid": train, "valid": valid, "tstid": test}
    savemat(folder / "setid.mat", {k: np.array([v], np.uint16) for k, v in ids.items()})
    images = {f"jpg/image_{n:05d}.jpg": jpeg(10 * n) for n in range(1, 8)}
    archive = tgz(folder / "102flowers.tgz", images)
    return archive, folder / "imagelabels.mat", folder / "setid.mat"


def test_flowers(data, monkeypatch):
    found = here(source("flowers"), *flowers_files(data)).read()
    assert found.classes == ("001", "002", "003")
    place = data / "flowers-102"
    place.mkdir()
    (data / "102flowers.tgz").unlink()
    unpack(place, {f"jpg/image_{n:05d}.jpg": jpeg(10 * n) for n in range(1, 8)})
    for name in ("imagelabels.mat", "setid.mat"):
        (data / name).rename(place / name)
    reader = datasets().Flowers102
    monkeypatch.setattr(reader, "_check_integrity", lambda self: True)
    splits = {split: reader(data, split) for split in ("train", "val", "test")}
    expected = [
        (f"jpg/{path.name}", label)
        for split in ("train", "val", "test")
        for path, label in zip(splits[split]._image_files, splits[split]._labels, strict=True)
    ]
    assert listed(found.train) == expected[:4] and listed(found.test) == expected[4:]
    # The unpacked folder, as torchvision leaves it, does as well.
    assert listed(source("flowers").read().train) == expected[:4]


@pytest.mark.parametrize(
    "options, words",
    [
        ({"train": (3, 8)}, "names image 8; allowed: 1 to 7"),
        ({"train": (3, 0)}, "names image 0"),
        ({"train": (3, 2)}, "'jpg/image_00002.jpg' twice"),
        ({"labels": (1, 2, 0, 3, 2, 3, 1)}, "allowed: 1 to 3"),
        ({"labels": (1, 2)}, "allowed: 1 to 2"),
    ],
)
def test_inconsistent_flowers(options, words, data):
    with pytest.raises(InputError, match=words):
        here(source("flowers"), *flowers_files(data, **options)).read()


@pytest.mark.parametrize("content", [b"", b"MATLAB 5.0 MAT-file", b"\0" * 200])
def test_damaged_mat_files(content, data):
    paths = flowers_files(data)
    paths[2].write_bytes(content)
    with pytest.raises(InputError, match="'setid.mat' is damaged"):
        here(source("flowers"), *paths).read()


# Food-101


def food_files():
    split = {"train": {"apple_pie": [3, 1], "sushi": [5]}, "test": {"apple_pie": [2], "sushi": [4, 6]}}
    members = {"food-101/meta/classes.txt": b"apple_pie\nsushi\n"}
    for name, groups in split.items():
        paths = {group: [f"{group}/{n}" for n in numbers] for group, numbers in groups.items()}
        members[f"food-101/meta/{name}.json"] = json.dumps(paths).encode()
        lines = [path for group in paths.values() for path in group]
        members[f"food-101/meta/{name}.txt"] = "\n".join(lines).encode()
        members |= {f"food-101/images/{p}.jpg": jpeg(int(p[-1])) for p in lines}
    return members


@pytest.mark.parametrize("unpacked", [False, True])
def test_food(unpacked, data):
    if not unpacked:
        found = here(source("food"), tgz(data / "f.tar.gz", food_files())).read()
    unpack(data, food_files())
    if unpacked:
        found = source("food").read()
    for ours, split in ((found.train, "train"), (found.test, "test")):
        theirs = datasets().Food101(data, split)
        assert found.classes == tuple(theirs.classes)
        names = [path.relative_to(theirs._images_folder).as_posix() for path in theirs._image_files]
        assert [(f"{s.name}.jpg", s.label) for s in ours] == list(zip(names, theirs._labels, strict=True))
        image, _ = theirs[1]
        assert (np.asarray(Image.open(io.BytesIO(ours[1].read()))) == np.asarray(image)).all()


@pytest.mark.parametrize(
    "name, content, words",
    [
        ("meta/train.txt", b"apple_pie/3\napple_pie/3", "'apple_pie/3' twice"),
        ("meta/train.txt", b"apple_pie/2", "'apple_pie/2' twice"),
        ("meta/train.txt", b"pizza/1", "'pizza/1', of no class"),
        ("meta/train.txt", b"sushi/9", "lack the file 'images/sushi/9.jpg'"),
        ("meta/classes.txt", b"", "of no class"),
    ],
)
def test_inconsistent_food(name, content, words, data):
    members = food_files() | {f"food-101/{name}": content}
    with pytest.raises(InputError, match=words):
        here(source("food"), tgz(data / "f.tar.gz", members)).read()


# Oxford-IIIT Pets


def pet_files(train=None, test=None):
    train = train or "Abyssinian_1 1 1 1\nbeagle_10 3 2 2\ngreat_pyrenees_2 2 2 1\n"
    test = test or "Abyssinian_3 1 1 1\nbeagle_5 3 2 2\ngreat_pyrenees_7 2 2 1\nbeagle_6 3 2 2\n"
    names = [line.split()[0] for line in (train + test).splitlines() if line.strip()]
    images = {f"images/{name}.jpg": jpeg(n) for n, name in enumerate(names)}
    annotations = {
        "annotations/trainval.txt": train.encode(),
        "annotations/test.txt": test.encode(),
        "annotations/._test.txt": b"\0\5\x16\7",
        "annotations/trimaps/beagle_5.png": b"x",
    }
    return images, annotations


def pet_archives(folder, *texts):
    images, annotations = pet_files(*texts)
    return tgz(folder / "i.tar.gz", images), tgz(folder / "a.tar.gz", annotations)


def test_pets(data):
    found = here(source("pets"), *pet_archives(data)).read()
    for part in pet_files():
        unpack(data / "oxford-iiit-pet", part)
    for ours, split in ((found.train, "trainval"), (found.test, "test")):
        theirs = datasets().OxfordIIITPet(data, split)
        assert [name.lower().replace("_", " ") for name in found.classes] == [name.lower() for name in theirs.classes]
        assert listed(ours) == [(path.stem, label) for path, label in zip(theirs._images, theirs._labels, strict=True)]
    assert listed(source("pets").read().test) == listed(found.test)


@pytest.mark.parametrize(
    "train, words",
    [
        ("Abyssinian_1 1 1\n", "has no three numbers"),
        ("Abyssinian_1 38 1 1\n", "'38'; allowed: 1 to 37"),
        ("Abyssinian_1 2 1 1\n", "stands for"),
        ("Abyssinian_1 1 1 1\nAbyssinian_1 1 1 1\n", "'Abyssinian_1' twice"),
        ("Abyssinian_3 1 1 1\n", "'Abyssinian_3' twice"),
        ("Bengal_1 9 1 1\n", "not numbered from 1"),
    ],
)
def test_inconsistent_pets(train, words, data):
    with pytest.raises(InputError, match=words):
        here(source("pets"), *pet_archives(data, train)).read()


# Visual Wake Words


def coco(split, images, boxes, people=(1,)):
    """images: {id: (height, width)}; boxes: (image, category, width, height, area of the mask)."""
    return {
        "images": [
            {"id": n, "file_name": f"COCO_{split}_{n:012d}.jpg", "height": h, "width": w}
            for n, (h, w) in images.items()
        ],
        "annotations": [
            {"image_id": n, "category_id": c, "bbox": [1.5, 2.5, w, h], "area": area, "iscrowd": 0}
            for n, c, w, h, area in boxes
        ],
        "categories": [{"id": n, "name": "person"} for n in people] + [{"id": 7, "name": "dog"}],
    }


TRAIN = coco(
    "train2014",
    {9: (100, 200), 5: (100, 200), 6: (100, 200), 7: (100, 200)},
    [
        (9, 1, 10, 10.0, 60),  # exactly 0.5 % is not above
        (5, 1, 10, 10.1, 60),  # the box is above, the mask below
        (6, 7, 90, 90, 5000),  # a dog
        (7, 1, 5, 5, 20),
        (7, 1, 40, 40, 900),  # the second person counts
    ],
)
VAL = coco("val2014", {3: (50, 50), 4: (50, 50), 8: (50, 50)}, [(3, 1, 9, 9, 60), (8, 1, 1, 1, 1)])


def coco_files(folder, train=TRAIN, val=VAL, minival="8\n3\n"):
    for split, content in (("train2014", train), ("val2014", val)):
        with zipfile.ZipFile(folder / f"{split}.zip", "w") as archive:
            for image in (content if isinstance(content, dict) else VAL)["images"]:
                archive.writestr(f"{split}/{image['file_name']}", jpeg(image["id"]))
    with zipfile.ZipFile(folder / "annotations_trainval2014.zip", "w") as archive:
        for split, content in (("train2014", train), ("val2014", val)):
            text = json.dumps(content) if isinstance(content, dict) else content
            archive.writestr(f"annotations/instances_{split}.json", text)
        archive.writestr("annotations/captions_train2014.json", "{}")
    (folder / "mscoco_minival_ids.txt").write_text(minival)
    names = ("train2014.zip", "val2014.zip", "annotations_trainval2014.zip")
    return [folder / name for name in (*names, "mscoco_minival_ids.txt")]


@pytest.mark.parametrize("name, labels", [("vww", [1, 0, 1, 0]), ("vww-mask", [0, 0, 1, 0])])
def test_visual_wake_words(name, labels, data):
    found = here(source(name), *coco_files(data)).read()
    assert found.classes == ("no person", "person")
    names = [f"train2014/COCO_train2014_{n:012d}.jpg" for n in (5, 6, 7, 9)]
    assert listed(found.train) == [*zip(names, labels, strict=True), ("val2014/COCO_val2014_000000000004.jpg", 0)]
    assert [(s.name[-5], s.label) for s in found.test] == [("3", 1), ("8", 0)]
    assert found.test[0].read() == jpeg(3)


@pytest.mark.parametrize(
    "options, words",
    [
        ({"minival": "8\n8\n"}, "distinct image numbers"),
        ({"minival": "8\nx\n"}, "distinct image numbers"),
        ({"minival": "8\n9\n"}, "not in val2014"),
        ({"train": '{"images": ['}, "instances_train2014.json' is damaged"),
        ({"train": "{}"}, "damaged: KeyError 'categories'"),
        ({"val": "[]"}, "damaged: TypeError"),
        ({"train": coco("train2014", {1: (9, 9)}, [(2, 1, 3, 3, 9)])}, "damaged: KeyError 2"),
    ],
)
def test_inconsistent_coco(options, words, data):
    with pytest.raises(InputError, match=words):
        here(source("vww"), *coco_files(data, **options)).read()


def test_the_list_without_a_checksum_must_have_its_size(data):
    paths = coco_files(data)
    small = files.RemoteFile(paths[3].name, "", size_bytes=4)
    official.verify(small, paths[3])
    with pytest.raises(InputError, match="is damaged: 4 bytes; allowed: 54,864"):
        official.verify(official.MINIVAL, paths[3])


# All of them


def test_missing_data_say_what_to_put_where(tmp_path):
    for name, task in tasks.TASKS.items():
        if task.source.downloads:
            with pytest.raises(InputError) as told:
                tasks.load(name)
            for file in task.source.downloads:
                assert file.name in str(told.value) and file.urls[0] in str(told.value)
                assert file.sha256 in str(told.value)
            assert str(tmp_path / "downloads") in str(told.value)
            assert "\n" not in str(told.value)


def test_a_wrong_checksum_never_loads(data):
    (data / "CUB_200_2011.tgz").write_bytes(b"something else")
    for call in (source("cub").digest, source("cub").read, lambda: tasks.load("cub")):
        with pytest.raises(InputError, match="CUB_200_2011.tgz' is damaged: SHA-256 "):
            call()


def test_every_official_file_has_a_checksum_a_size_and_an_address():
    for task in tasks.TASKS.values():
        if isinstance(task.source, OfficialSource):
            for file in (file for archives in task.source.archives for file in archives):
                assert file.size_bytes and file.urls
                assert len(file.sha256) == 64 or file == official.MINIVAL
