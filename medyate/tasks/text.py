"""Text tasks: tables of sentences and labels as TSV, JSON lines or parquet.

A table has a column ``label`` and one or two columns of text, in the order in which they stand;
``index``, ``idx`` and ``id`` are ignored. TSV files have a header and no quoting, as GLUE's.
Evaluation is on the development set ("dev", "validation"): the labels of GLUE's test sets are not
public. Texts stay text: the networks' tokenizers cut them to 128 tokens (Sec. A.1).
"""

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from ..errors import InputError
from .official import OfficialSource, remote
from .sources import IMAGE_SUFFIXES, Files, content_digest, names, tree

#: Tokens per example in the paper.
LENGTH = 128

IGNORED = ("index", "idx", "id")
SUFFIXES = (".tsv", ".jsonl", ".parquet")
DEV_NAMES = ("dev", "validation", "valid", "val")


class Texts(NamedTuple):
    """classes; per split one (texts, label) an example, texts being one or two sentences."""

    classes: tuple[str, ...]
    train: list[tuple[tuple[str, ...], int]]
    test: list[tuple[tuple[str, ...], int]]


class Row(NamedTuple):
    texts: tuple[str, ...]
    label: str


@dataclass(frozen=True)
class TextSource:
    """A table, or a folder, tar or zip with ``train`` and ``dev`` tables.

    Of a single table every fifth row, from the first, is for the test. classes: the names of the
    labels 0, 1, ...; empty where only the data tell.
    """

    name: str
    path: Path
    classes: tuple[str, ...] = ()

    downloads = ()

    def places(self) -> dict[str, Path]:
        """Where the data lie."""
        return {self.name: self.path}

    def digest(self) -> str:
        return content_digest(self.path)

    def read(self) -> Texts:
        """Raises InputError where a table is not as described above."""
        if self.path.is_file() and self.path.name.endswith(SUFFIXES):
            rows = read_table(self.path.name, self.path.read_bytes())
            train = [row for index, row in enumerate(rows) if index % 5]
            return _labelled(self.classes, train, rows[::5])
        return splits(self.classes)(tree(self.path))


def is_text(path: Path) -> bool:
    """Whether a folder or archive holds tables: decided by the first table or image in it."""
    for name in names(path):
        if name.lower().endswith(IMAGE_SUFFIXES):
            return False
        if _split_of(name):
            return True
    return False


def _split_of(name: str) -> str | None:
    path = PurePosixPath(name)
    if path.suffix not in SUFFIXES:
        return None
    stem = path.stem.partition("-")[0]  # hubs write train-00000-of-00001.parquet
    return "train" if stem == "train" else "dev" if stem in DEV_NAMES else None


def splits(classes: tuple[str, ...]) -> Callable[[Files], Texts]:
    """Reads ``train`` and ``dev`` among files; several parts of one split are joined in order."""

    def parse(files: Files) -> Texts:
        rows: dict[str, list[Row]] = {"train": [], "dev": []}
        for name, read in files.items():
            if (split := _split_of(name)) is not None:
                rows[split] += read_table(name, read())
        for split, found in rows.items():
            if not found:
                raise InputError(f"no table {split!r}; allowed: {split} with {', '.join(SUFFIXES)}")
        return _labelled(classes, rows["train"], rows["dev"])

    return parse


def read_table(name: str, content: bytes) -> list[Row]:
    """The rows of one table; the suffix of ``name`` tells its format."""
    suffix = PurePosixPath(name).suffix
    if suffix == ".parquet":
        header, lines = _parquet(name, content)
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{name!r} is not UTF-8: {error}") from None
        header, lines = (_tsv if suffix == ".tsv" else _json_lines)(name, text)
    columns = [column for column in header if column not in (*IGNORED, "label")]
    if "label" not in header or len(columns) not in (1, 2):
        raise InputError(
            f"{name!r} has the columns {', '.join(header)}; allowed: label and one or two of text"
        )
    rows = []
    for number, line in lines:
        texts, label = tuple(line[column] for column in columns), line["label"]
        # In JSON and parquet a label may be a number; a text must be one.
        if not all(isinstance(text, str) for text in texts) or str(label).strip() == "":
            raise InputError(f"{name!r} row {number}: a text or the label is missing")
        rows.append(Row(texts, str(label)))
    return rows


def _tsv(name: str, text: str):
    # Only line feeds end a line here: sentences do hold other characters that Python counts.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    header = lines[0].split("\t")

    def rows():
        for number, line in enumerate(lines[1:], 2):
            if line:
                fields = line.split("\t")
                if len(fields) != len(header):
                    raise InputError(
                        f"{name!r} line {number} has {len(fields)} fields; allowed: {len(header)}"
                    )
                yield number, dict(zip(header, fields, strict=True))

    return header, rows()


def _json_lines(name: str, text: str):
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                row = json.loads(line)
            except ValueError as error:
                raise InputError(f"{name!r} line {number} is not JSON: {error}") from None
            if not isinstance(row, dict) or (rows and row.keys() != rows[0][1].keys()):
                raise InputError(f"{name!r} line {number} has other keys than line 1")
            rows.append((number, row))
    return list(rows[0][1]) if rows else [], rows


def _parquet(name: str, content: bytes):
    try:
        import pyarrow.parquet
    except ImportError:
        raise InputError(
            f"{name!r} needs pyarrow, which is not installed; allowed: pip install pyarrow, "
            f"or the same table as TSV or JSON lines"
        ) from None
    try:
        table = pyarrow.parquet.read_table(io.BytesIO(content))
    except Exception as error:  # pyarrow's own errors have no common base
        raise InputError(f"{name!r} is damaged: {error}") from None
    return table.column_names, list(enumerate(table.to_pylist(), 1))


def _labelled(classes: tuple[str, ...], train: list[Row], dev: list[Row]) -> Texts:
    """Labels are names of classes or their numbers; numbers keep their order."""
    found = {row.label for row in (*train, *dev)}
    if not classes:
        numbers = all(label.isdigit() for label in found)
        classes = tuple(sorted(found, key=int if numbers else str))
    index = {str(number): number for number in range(len(classes))}
    index |= {name: number for number, name in enumerate(classes)}
    if strange := sorted(found - set(index)):
        raise InputError(f"unknown label {strange[0]!r}; allowed: {', '.join(classes)}")
    if len(classes) < 2:
        raise InputError(f"there is one label only: {', '.join(classes)}")
    if len({len(row.texts) for row in (*train, *dev)}) > 1:
        raise InputError("some rows have one text, others two")
    return Texts(
        classes, *([(row.texts, index[row.label]) for row in rows] for rows in (train, dev))
    )


ENTAILMENT = ("entailment", "not_entailment")
SENTIMENT = ("negative", "positive")

QNLI = remote(
    "QNLIv2.zip",
    10_627_589,
    "e634e78627a29adaecd4f955359b22bf5e70f2cbd93b493f2d624138a0c0e5f5",
    "https://dl.fbaipublicfiles.com/glue/data/QNLIv2.zip",
)
RTE = remote(
    "RTE.zip",
    697_150,
    "6bf86de103ecd335f3441bd43574d23fef87ecc695977a63b82d5efb206556ee",
    "https://dl.fbaipublicfiles.com/glue/data/RTE.zip",
)
SST2 = remote(
    "SST-2.zip",
    7_439_277,
    "d67e16fb55739c1b32cdce9877596db1c127dc322d93c082281f64057c16deaa",
    "https://dl.fbaipublicfiles.com/glue/data/SST-2.zip",
)


def glue(name: str, archive, classes: tuple[str, ...]) -> OfficialSource:
    """A GLUE task from its official zip, or a folder NAME with the same tables in any format."""
    return OfficialSource(name, splits(classes), ((archive,),), folder=name)
