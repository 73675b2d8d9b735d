"""Images as folders hold them: which folders are the splits, which the classes.

An image folder has torchvision's ImageFolder layout, ``train/CLASS/*.jpg`` beside
``test/CLASS/*.jpg``, or simply ``CLASS/*.jpg``: then every fifth image of each class, in order of
the names and from the first, is a test image. Splits may have the other names that people give
them, such as ``Training``, ``test_set``, ``val`` or ``eval`` (:func:`role`).
"""

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ..errors import InputError
from ..files import archives
from ..files.archives import Files

IMAGE_SUFFIXES = (".jpg", ".jpeg", ".png", ".ppm", ".pgm", ".bmp", ".tif", ".tiff", ".webp", ".gif")

#: What a split is called, by its role; a validation part is the test part where there is no other.
ROLES = {
    "train": ("train", "training", "trn"),
    "test": ("test", "testing", "tst"),
    "validation": ("val", "valid", "validation", "validating", "dev", "development", "eval", "evaluation", "holdout"),
}
#: What may stand beside it: ``test_set``, ``Training Images``, ``val2017``.
_FILLERS = ("set", "sets", "data", "dataset", "split", "images", "image", "imgs", "img", "pictures", "photos")


class Sample(NamedTuple):
    """One image: a name for messages, its class, and a call for its bytes or pixels [H, W, 3]."""

    name: str
    label: int
    read: Callable


class Samples(NamedTuple):
    """The names of the classes and the two splits."""

    classes: tuple[str, ...]
    train: list[Sample]
    test: list[Sample]


def _roles(name: str) -> tuple[set[str], tuple[str, ...]]:
    """The roles that the words of a folder's name speak of, and the words that say something else."""
    named_roles, others = set(), []
    name = re.sub(r"hold[-_ ]?out", "holdout", name, flags=re.IGNORECASE)
    words = re.findall(r"[^\W\d_]+", re.sub(r"([a-z])([A-Z])", r"\1 \2", name))
    for word in map(str.casefold, words):
        short = re.sub(r"(.)(sets?|data|images|imgs)$", r"\1", word)
        named = {role for role, words in ROLES.items() if word in words or short in words}
        named_roles |= named
        if not named and word not in _FILLERS:
            others.append(word)
    return named_roles, tuple(others)


def role(name: str) -> str | None:
    """Which of :data:`ROLES` a folder has by its name, as ``Training`` or ``test_set``; else None."""
    own, others = _roles(name)
    return own.pop() if len(own) == 1 and not others else None


def _only_split(names: list[str]) -> Callable[[str], bool]:
    """Whether a folder that holds everything is a split itself, rather than a folder around the splits."""
    second = set().union(*(_roles(name.split("/")[1])[0] for name in names if name.count("/") > 1))
    return lambda top: role(top) is not None and not ("train" in second and len(second) > 1)


class _Layout(NamedTuple):
    """Prefixes of the paths of both splits, "" where the classes lie at the top; test None where there is none."""

    train: str
    test: str | None


@dataclass(frozen=True)
class FolderSource:
    """An image folder, or a tar or zip of one."""

    name: str
    path: Path

    #: What ``fetch`` would download: nothing.
    downloads = ()

    def places(self) -> dict[str, Path]:
        """Where the data lie."""
        return {self.name: self.path}

    def digest(self) -> str:
        """Changes whenever a file in the folder does."""
        return archives.content_digest(self.path)

    def read(self) -> Samples:
        """List the images. Raises InputError where the layout is none of the two above, or may be both."""
        every = archives.tree(self.path)
        images = {name: read for name, read in every.items() if _is_image(name)}
        if not images:
            raise InputError(
                f"{str(self.path)!r} holds no images; allowed: train/CLASS/*.jpg and "
                f"test/CLASS/*.jpg, or CLASS/*.jpg; suffixes: {' '.join(IMAGE_SUFFIXES)}"
            )
        top = ""
        while step := archives.top_folder(below := [name.removeprefix(top) for name in images], _only_split(below)):
            top += step
        images = {name.removeprefix(top): read for name, read in images.items()}
        every = [name.removeprefix(top) for name in every if name.startswith(top)]
        layout = self._layout(images)
        groups = self._by_class(images, layout.train)
        self._tell_of_others(every, top, layout.train, groups)
        if layout.test is not None:
            train, test = groups, self._by_class(images, layout.test)
            self._tell_of_others(every, top, layout.test, test, known=train)
        else:
            train, test = self._every_fifth(groups)
        classes = tuple(sorted(train))
        if len(classes) < 2:
            raise InputError(f"{str(self.path)!r} has one class only: {', '.join(classes)}")
        if strange := sorted(set(test) - set(train)):
            raise InputError(
                f"{str(self.path)!r} has test images of a class without training images: "
                f"{', '.join(strange)}; allowed: {', '.join(classes)}"
            )
        if lacking := sorted(set(train) - set(test)):
            warnings.warn(f"task {self.name!r}: no test images of class {', '.join(lacking)}", stacklevel=2)

        def listed(split: dict[str, list]) -> list[Sample]:
            return [
                Sample(f"{self.path.name}/{name}", label, read)
                for label, group in enumerate(classes)
                for name, read in split.get(group, ())
            ]

        return Samples(classes, listed(train), listed(test))

    def _layout(self, images: Files) -> _Layout:
        """Which folders are the splits; refuses what may be meant in two ways, tells of what is unusual."""
        inside: dict[str, list[str]] = {}
        for name in images:
            top, slash, rest = name.partition("/")
            if slash:
                inside.setdefault(top, []).append(rest)
        roles, others = self._splits(list(inside))
        split_names = [name for names in roles.values() for name in names]
        if not split_names:
            self._check_classes(inside)
            return _Layout("", None)
        flat = {name for name, rests in inside.items() if not any("/" in rest for rest in rests)}
        if others:
            # Without folders inside it is no split for training, but a class that is called like one.
            if split_names == roles["train"] and flat.issuperset(split_names):
                warnings.warn(
                    f"task {self.name!r}: the folders {_list(split_names)} are taken as classes", stacklevel=3
                )
                return _Layout("", None)
            raise InputError(
                f"{str(self.path)!r}: are {_list(split_names)} splits or classes, beside {_list(others)}? "
                f"allowed: train/CLASS and test/CLASS alone, or classes alone; rename or move the others"
            )
        for name, folders in roles.items():
            if len(folders) > 1:
                raise InputError(f"{str(self.path)!r} has several {name} folders: {_list(folders)}; allowed: one")
        if not roles["train"]:
            raise InputError(f"{str(self.path)!r} has {_list(split_names)}, but no train/CLASS")
        (train,) = roles["train"]
        # A test part without labels is of no use; it is often published beside one for validation.
        usable = [name for name in (*roles["test"], *roles["validation"]) if name not in flat] or roles["test"]
        test = next(iter([*usable, *roles["validation"]]), None)
        left_out = {name: len(inside[name]) for name in split_names if name not in (train, test)}
        if stray := sum("/" not in name for name in images):
            left_out["images in no folder"] = stray
        if left_out or train != "train" or test not in ("test", *ROLES["validation"][:3]):
            used = "every fifth image of each class" if test is None else f"{test!r}"
            ignored = "".join(f"; {name!r} is not used ({count:,} images)" for name, count in left_out.items())
            warnings.warn(f"task {self.name!r}: trained on {train!r}, tested on {used}{ignored}", stacklevel=3)
        return _Layout(f"{train}/", None if test is None else f"{test}/")

    def _check_classes(self, inside: dict[str, list[str]]) -> None:
        """Refuse splits within the classes, CLASS/train beside CLASS/test; tell of other folders within them."""
        deeper = sorted(
            {f"{name}/{rest.rpartition('/')[0]}" for name, rests in inside.items() for rest in rests if "/" in rest}
        )
        if not deeper:
            return
        if {"train"} < {role(folder.split("/")[1]) for folder in deeper} - {None}:
            raise InputError(
                f"{str(self.path)!r} has splits within its classes, such as {_list(deeper[:2])}; allowed: "
                "train/CLASS and test/CLASS, or CLASS alone"
            )
        warnings.warn(
            f"task {self.name!r}: the classes are {_list(sorted(inside))}; folders within them, such as "
            f"{deeper[0]!r}, count as theirs",
            stacklevel=4,
        )

    def _splits(self, folders: list[str]) -> tuple[dict[str, list[str]], list[str]]:
        """The folders that are splits, by role, and the others."""
        rests = {name: _roles(name) for name in folders}
        plain = {name: rest for name, rest in rests.items() if len(rest[0]) == 1}
        trained = {rest for named, rest in plain.values() if named == {"train"}}
        tested = {rest for named, rest in plain.values() if named != {"train"}}
        paired = trained & tested
        if len(paired) > 1:  # cats_train, cats_test, dogs_train, dogs_test
            raise InputError(
                f"{str(self.path)!r} has splits of several names: {_list(plain)}; allowed: train/CLASS and test/CLASS"
            )
        roles: dict[str, list[str]] = {name: [] for name in ROLES}
        others = []
        for name, (named, rest) in rests.items():
            if len(named) == 1 and (rest in paired or not rest):  # seg_train beside seg_test, or train
                roles[next(iter(named))].append(name)
            else:
                others.append(name)
        return roles, others

    def _by_class(self, files: Files, prefix: str) -> dict[str, list]:
        groups: dict[str, list] = {}
        for name, read in files.items():
            if name.startswith(prefix):
                group, slash, _ = name[len(prefix) :].partition("/")
                if not slash:
                    raise InputError(
                        f"{name!r} in {str(self.path)!r} lies in no folder of a class; allowed: {prefix}CLASS/{group}"
                    )
                groups.setdefault(group, []).append((name, read))
        return groups

    def _tell_of_others(self, names: list[str], top: str, prefix: str, groups: dict, known: dict | None = None) -> None:
        """Refuse a folder of a class that has no images; warn of other files beside images.

        ``known``: classes that may have an empty folder here, since they have images elsewhere.
        """
        others: dict[str, list[str]] = {}
        for name in names:
            group, slash, _ = name.removeprefix(prefix).partition("/")
            if name.startswith(prefix) and slash and not _is_image(name):
                others.setdefault(group, []).append(name)
        if self.path.is_dir():
            for group in set(archives.folders(self.path, top + prefix)) - set(groups) - set(known or ()):
                others.setdefault(group, [])
        for group, file_names in sorted(others.items()):
            if group not in groups:
                example = f", but {file_names[0]!r}" if file_names else ""
                raise InputError(
                    f"class {group!r} in {str(self.path)!r} has no images{example}; allowed: {' '.join(IMAGE_SUFFIXES)}"
                )
        if count := sum(map(len, others.values())):
            example = next(iter(others.values()))[0]
            warnings.warn(
                f"task {self.name!r}: {count:,} files are no images by their suffix and are left "
                f"out, for instance {example!r}; allowed: {' '.join(IMAGE_SUFFIXES)}",
                stacklevel=3,
            )

    def _every_fifth(self, groups: dict[str, list]) -> tuple[dict, dict]:
        for group, images in groups.items():
            if len(images) < 2:
                raise InputError(f"class {group!r} in {str(self.path)!r} has one image; allowed: at least 2")
        train = {group: [image for index, image in enumerate(images) if index % 5] for group, images in groups.items()}
        return train, {group: images[::5] for group, images in groups.items()}


def _list(names) -> str:
    return ", ".join(map(repr, sorted(names)))


def _is_image(name: str) -> bool:
    return name.lower().endswith(IMAGE_SUFFIXES)
