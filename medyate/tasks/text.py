"""Text tasks: tables of sentences and labels as TSV, CSV, JSON or parquet, compressed or not.

A table has a column ``label`` and one or two columns of text, in the order in which they stand;
``index``, ``idx``, ``id`` and a column without a name that counts the rows are ignored. TSV files
have a header; their quotes are letters, as in GLUE's, unless all of the file is quoted as Python's
``csv`` and pandas do it. CSV files are separated by commas, semicolons or tabs. JSON is a list of
objects, or one object a line. Evaluation is on the development set ("dev", "validation"): the
labels of GLUE's test sets are not public. Texts stay text: the networks' tokenizers cut them to
128 tokens (Sec. A.1).
"""

import bz2
import csv
import gzip
import io
import json
import lzma
import math
import re
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

from ..errors import InputError
from ..files.archives import Files, content_digest, names, tree
from .official import OfficialSource, remote
from .sources import IMAGE_SUFFIXES, role

#: Tokens per example in the paper.
LENGTH = 128

IGNORED = ("index", "idx", "id")
SUFFIXES = (".tsv", ".csv", ".jsonl", ".ndjson", ".json", ".parquet")
COMPRESSED: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.decompress,
    ".bz2": bz2.decompress,
    ".xz": lzma.decompress,
}
EXAMPLE = '{"text": "a sentence", "label": 1}'
#: What stands for a number that is missing, where the other labels are numbers.
MISSING = ("nan", "none", "null", "na", "n/a", "<na>")


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

    Of a single table a fifth of each label's rows, drawn with a fixed seed, is for the test.
    classes: the names of the labels 0, 1, ...; empty where only the data tell.
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
        if self.path.is_file() and _format(self.path.name):
            rows = read_table(self.path.name, self.path.read_bytes())
            return _labelled(self.path.name, self.classes, *_fifth(self.path.name, rows))
        return splits(self.classes)(tree(self.path))


def is_text(path: Path) -> bool:
    """Whether a folder or archive holds tables and no images (which may have a table of their labels beside them)."""
    is_named = False
    for name in names(path):
        if name.lower().endswith(IMAGE_SUFFIXES):
            return False
        is_named = is_named or _split_of(name) is not None
    return is_named


def _format(name: str) -> tuple[str, str] | None:
    """The suffixes of a table by its name, in lower case: of its format and its compression; None for no table."""
    path = PurePosixPath(name.lower())
    packed = path.suffix if path.suffix in COMPRESSED else ""
    suffix = PurePosixPath(path.stem).suffix if packed else path.suffix
    return (suffix, packed) if suffix in SUFFIXES else None


def _split_of(name: str) -> str | None:
    if _format(name) is None:
        return None
    stem = PurePosixPath(name).name.partition(".")[0].partition("-")[0]  # hubs write train-00000-of-00001.parquet
    return {"train": "train", "validation": "dev", "test": "test"}.get(role(stem))


def splits(classes: tuple[str, ...]) -> Callable[[Files], Texts]:
    """Reads ``train`` and ``dev`` among files; several parts of one split are joined in order."""

    def parse(files: Files) -> Texts:
        tables: dict[str, list[str]] = {"train": [], "dev": [], "test": []}
        for name in files:
            if (split := _split_of(name)) is not None:
                tables[split].append(name)
        if not tables["dev"] and tables["test"]:
            warnings.warn(f"there is no dev table; tested on {', '.join(tables['test'])}", stacklevel=2)
            tables["dev"] = tables["test"]
        rows: dict[str, list[Row]] = {}
        for split in ("train", "dev"):
            if not tables[split]:
                raise InputError(f"no table {split!r}; allowed: {split} with {', '.join(SUFFIXES)}")
            _one_table(tables[split])
            rows[split] = [row for name in tables[split] for row in read_table(name, files[name]())]
        return _labelled(tables["dev"][0], classes, rows["train"], rows["dev"])

    return parse


def _one_table(names: list[str]) -> None:
    """Refuse the same split twice, as train.tsv beside train.csv, or in two folders; parts have numbers."""
    kinds = {re.sub(r"\d+", "", name) for name in names}
    if len(kinds) > 1:
        raise InputError(f"several tables of one split: {', '.join(map(repr, names))}; allowed: one, or numbered parts")


def _fifth(name: str, rows: list[Row]) -> tuple[list[Row], list[Row]]:
    """Training and test rows, in the table's order: of each label a fifth, rounded up, is drawn for the test."""
    if not rows:
        raise InputError(f"{name!r} has no rows")
    places: dict[str, list[int]] = {}
    for index, row in enumerate(rows):
        places.setdefault(row.label, []).append(index)
    import torch

    generator = torch.Generator().manual_seed(0)
    drawn = set()
    for label, indices in sorted(places.items()):
        if len(indices) < 2:
            raise InputError(f"label {label!r} in {name!r} has one row; allowed: at least 2")
        order = torch.randperm(len(indices), generator=generator).tolist()
        drawn.update(indices[one] for one in order[: -(-len(indices) // 5)])
    return [row for index, row in enumerate(rows) if index not in drawn], [rows[index] for index in sorted(drawn)]


def read_table(name: str, content: bytes) -> list[Row]:
    """The rows of one table; the suffixes of ``name`` tell its format and compression."""
    suffix, packed = _format(name) or (PurePosixPath(name).suffix, "")
    if packed:
        try:
            content = COMPRESSED[packed](content)
        except (OSError, EOFError, zlib.error, lzma.LZMAError, ValueError) as error:
            raise InputError(f"{name!r} is damaged: {error}") from None
    if suffix == ".parquet":
        header, lines = _parquet(name, content)
    else:
        try:
            text = content.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise InputError(f"{name!r} is not UTF-8: {error}") from None
        read = {".tsv": _tsv, ".csv": _csv}.get(suffix, _json)
        header, lines = read(name, text)
    header = [str(column).strip() for column in header]
    plain = [column.casefold() for column in header]
    if twice := [column for column, one in zip(header, plain) if column and plain.count(one) > 1]:
        times = plain.count(twice[0].casefold())
        raise InputError(f"{name!r} has the column {twice[0]!r} {times} times; allowed: once, in capitals or not")
    lines = list(lines)
    places = [place for place, column in enumerate(header) if not _is_no_column(name, column, place, lines)]
    columns = [place for place in places if header[place].lower() not in (*IGNORED, "label")]
    if "label" not in header or len(columns) not in (1, 2):
        told = ", ".join(header[place] for place in places)
        raise InputError(f"{name!r} has the columns {told}; allowed: label and one or two of text")
    labels = header.index("label")
    rows = []
    for number, line in lines:
        texts, label = tuple(line[place] for place in columns), _label(line[labels])
        # In JSON and parquet a label may be a number; a text must be one.
        if not all(isinstance(text, str) and text for text in texts) or label is None:
            raise InputError(f"{name!r} row {number}: a text or the label is missing")
        rows.append(Row(texts, label))
    return rows


#: Numbers of lines and their values, in order of the columns.
Lines = Iterator[tuple[int, list[Any]]]


def _is_no_column(name: str, column: str, place: int, lines: list[tuple[int, list[Any]]]) -> bool:
    """Whether a column without a name is none: an index that pandas wrote, or what a trailing separator leaves."""
    if column and not re.fullmatch(r"Unnamed: \d+|__index_level_\d+__", column):
        return False
    values = [str(line[place] if line[place] is not None else "") for _, line in lines]
    if all(value == "" for value in values) or all(re.fullmatch(r"-?\d+(\.0)?", value) for value in values):
        return True
    raise InputError(f"{name!r}: column {place + 1} has no name; allowed: label and one or two of text, with names")


def _label(value: Any) -> str | None:
    """A label as text, None where it is missing: a whole number is the same one as a float."""
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return None
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bytes):
        value = value.decode("utf-8", "backslashreplace")
    if isinstance(value, (list, dict)):
        return None
    label = str(value).strip()
    return re.sub(r"^([+-]?\d+)\.0+$", r"\1", label, flags=re.ASCII) or None


def _tsv(name: str, text: str) -> tuple[list[str], Lines]:
    if _is_quoted(text):
        return _separated(name, text, "\t")
    # Only line feeds end a line here: sentences do hold other characters that Python counts.
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    header = lines[0].split("\t")

    def rows():
        for number, line in enumerate(lines[1:], 2):
            if line:
                yield number, _fields(name, number, line.split("\t"), header)

    return header, rows()


def _fields(name: str, number: int, fields: list[str], header: list[str]) -> list[str]:
    if len(fields) != len(header):
        raise InputError(f"{name!r} line {number} has {len(fields)} fields; allowed: {len(header)}")
    return fields


def _is_quoted(text: str) -> bool:
    """Whether a TSV's quotes are a writer's: its header is quoted, or writing it again quotes just the same."""
    if '"' not in text:
        return False
    first = text.split("\n", 1)[0].removesuffix("\r").split("\t")
    if all(re.fullmatch('".*"', field) for field in first):
        return True
    text = text.replace("\r\n", "\n").rstrip("\n")
    again = io.StringIO()
    try:
        rows = _parsed(text, "\t")
        csv.writer(again, delimiter="\t", lineterminator="\n").writerows(rows)
    except csv.Error:
        return False
    plain = [line.split("\t") for line in text.split("\n")]
    fits = all(len(row) == len(rows[0]) for row in plain) and len(plain) > len(rows)
    return not fits and all(len(row) == len(rows[0]) for row in rows) and again.getvalue().rstrip("\n") == text


def _parsed(text: str, separator: str) -> list[list[str]]:
    longest = csv.field_size_limit(sys.maxsize)
    try:
        return list(csv.reader(io.StringIO(text, newline=""), delimiter=separator, strict=True))
    finally:
        csv.field_size_limit(longest)


def _csv(name: str, text: str) -> tuple[list[str], Lines]:
    """Separated by what gives the header a column ``label``."""
    first = text.split("\n", 1)[0].removesuffix("\r")
    for separator in (",", ";", "\t", "|"):
        if "label" in [field.strip().strip('"') for field in first.split(separator)] and separator in first:
            return _separated(name, text, separator)
    return _separated(name, text, ",")


def _separated(name: str, text: str, separator: str) -> tuple[list[str], Lines]:
    try:
        header, *lines = _parsed(text, separator) or [[]]
    except csv.Error as error:
        raise InputError(f"{name!r} is damaged: {error}") from None
    return header, ((number, _fields(name, number, line, header)) for number, line in enumerate(lines, 2) if line)


def _json(name: str, text: str) -> tuple[list[str], Lines]:
    """A list of objects, or an object a line."""

    def once(pairs):
        if len(dict(pairs)) < len(pairs):
            raise ValueError("a key stands twice")
        return dict(pairs)

    if text.lstrip().startswith("["):
        try:
            rows = json.loads(text, object_pairs_hook=once)
        except ValueError as error:
            raise InputError(f"{name!r} is not JSON: {error}") from None
        numbered, what = list(enumerate(rows, 1)), "row"
    else:
        numbered, what = [], "line"
        for number, line in enumerate(text.split("\n"), 1):
            if line.strip():
                try:
                    numbered.append((number, json.loads(line, object_pairs_hook=once)))
                except ValueError as error:
                    raise InputError(f"{name!r} line {number} is not JSON: {error}") from None
    for number, row in numbered:
        if not isinstance(row, dict):
            raise InputError(f"{name!r} {what} {number} is no object; allowed: one such as {EXAMPLE}")
        if row.keys() != numbered[0][1].keys():
            raise InputError(f"{name!r} {what} {number} has other keys than the first")
    header = list(numbered[0][1]) if numbered else []
    return header, ((number, [row[column] for column in header]) for number, row in numbered)


def _parquet(name: str, content: bytes) -> tuple[list[str], Lines]:
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
    columns = [column.to_pylist() for column in table.columns]
    return table.column_names, ((number, list(row)) for number, row in enumerate(zip(*columns, strict=True), 1))


def _labelled(name: str, classes: tuple[str, ...], train: list[Row], dev: list[Row]) -> Texts:
    """Labels are names of classes or their numbers; numbers keep their order."""
    for split, rows in (("train", train), ("dev", dev)):
        if not rows:
            raise InputError(f"the {split!r} table has no rows")
    labels = {row.label for row in train}
    truths = sorted(label for label in labels if label.casefold() in ("true", "false"))
    if truths and (numbers := sorted(labels & {"0", "1"})):
        raise InputError(
            f"labels {', '.join(truths)} beside {', '.join(numbers)} may be the same; allowed: one way of writing it"
        )
    if not classes:
        numbers = {label for label in labels if re.fullmatch(r"[+-]?[0-9]+", label)}
        if numbers and (missing := {label for label in labels - numbers if label.lower() in MISSING}):
            if labels - numbers == missing:
                raise InputError(f"label {missing.pop()!r} beside numbers: the label is missing; leave its rows out")
        if numbers == labels:
            if len(set(map(int, labels))) < len(labels):
                raise InputError(f"labels that are one number: {', '.join(sorted(labels, key=int))}; write it one way")
            classes = tuple(sorted(labels, key=int))
        else:
            classes = tuple(sorted(labels))
        index = {name: number for number, name in enumerate(classes)}
    else:
        index = {str(number): number for number in range(len(classes))}
        index |= {name: number for number, name in enumerate(classes)}
    strange = {row.label for row in (*train, *dev)} - set(index)
    if strange:
        raise InputError(f"unknown label {min(strange)!r}; allowed: {', '.join(classes)}")
    trained, tested = ({index[row.label] for row in rows} for rows in (train, dev))
    for label in sorted(tested - trained):
        raise InputError(
            f"label {classes[label]!r} of {name!r} has no training rows; allowed: those of the train table"
        )
    if len(classes) < 2:
        raise InputError(f"there is one label only: {', '.join(classes)}")
    if len({len(row.texts) for row in (*train, *dev)}) > 1:
        raise InputError("some rows have one text, others two")
    if lacking := [classes[label] for label in sorted(trained - tested)]:
        warnings.warn(f"no rows of label {', '.join(lacking)} in {name!r}", stacklevel=2)
    return Texts(classes, *([(row.texts, index[row.label]) for row in rows] for rows in (train, dev)))


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
