"""Tables of text in every format, good and bad."""

import json
import os
import tarfile
import zipfile
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medyate import files, tasks
from medyate.errors import InputError
from medyate.tasks.text import read_table

REAL = os.environ.get("MEDYATE_DATA", "")


@pytest.fixture(autouse=True)
def data(tmp_path, monkeypatch):
    folder = tmp_path / "data"
    folder.mkdir()
    monkeypatch.setenv("MEDYATE_DATA", str(folder))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(files, "cache_folder", lambda: tmp_path / "downloads")
    return folder


# As GLUE writes them, with quotes that are no quoting and a character that ends lines elsewhere.
RTE = (
    "index\tsentence1\tsentence2\tlabel\n"
    '0\tHe said "no.\tHe said no.\tentailment\n'
    "1\tA cat\u2028sat.\tA dog sat.\tnot_entailment\r\n"
    "2\t 3 % rise\tIt fell.\tnot_entailment\n"
)
EXAMPLES = [
    (('He said "no.', "He said no."), 0),
    (("A cat\u2028sat.", "A dog sat."), 1),
    ((" 3 % rise", "It fell."), 1),
]


def small(task, **sizes):
    return replace(tasks.get(task), train_size=None, test_size=None, **sizes)


def zipped(data, name, members, monkeypatch):
    """A zip in the data folder, taken for the official one."""
    with zipfile.ZipFile(data / name, "w") as archive:
        for member, text in members.items():
            archive.writestr(member, text)
    monkeypatch.setattr("medyate.tasks.official.verify", lambda *_: None)


def examples(split):
    return list(zip(split.texts, split.labels.tolist(), strict=True))


def test_glue_zip(data, monkeypatch):
    members = {"RTE/train.tsv": RTE, "RTE/dev.tsv": RTE.rpartition("2\t")[0]}
    # The public test set has no labels, and is not read.
    members["RTE/test.tsv"] = "index\tsentence1\tsentence2\n0\ta\tb\n"
    zipped(data, "RTE.zip", members, monkeypatch)
    loaded = tasks.load(small("rte"))
    assert loaded.classes == ["entailment", "not_entailment"] and loaded.length == 128
    assert examples(loaded.train) == EXAMPLES and examples(loaded.test) == EXAMPLES[:2]
    with pytest.raises(InputError, match="'rte' has 3 training examples; allowed: 2,490"):
        tasks.load("rte")


def test_qnli_and_sst2(data, monkeypatch):
    qnli = "index\tquestion\tsentence\tlabel\n7\tWho?\tMe.\tentailment\n8\tWhy?\tRed.\tnot_entailment\n"
    zipped(data, "QNLIv2.zip", {"QNLI/train.tsv": qnli, "QNLI/dev.tsv": qnli}, monkeypatch)
    loaded = tasks.load(small("qnli"))
    assert examples(loaded.test) == [(("Who?", "Me."), 0), (("Why?", "Red."), 1)]
    sst = "sentence\tlabel\nit 's fun \t1\ndull\t0\n"
    members = {"SST-2/train.tsv": sst, "SST-2/dev.tsv": sst, "SST-2/original/README.txt": "x"}
    zipped(data, "SST-2.zip", members, monkeypatch)
    loaded = tasks.load(small("sst-2"))
    assert loaded.classes == ["negative", "positive"]
    assert examples(loaded.train) == [(("it 's fun ",), 1), (("dull",), 0)]


def json_lines(label):
    return "".join(
        json.dumps({"sentence1": a, "sentence2": b, "label": label(y), "idx": n}) + "\n"
        for n, ((a, b), y) in enumerate(EXAMPLES)
    )


@pytest.mark.parametrize("label", [int, lambda y: ("entailment", "not_entailment")[y]])
def test_json_lines_hold_the_same(label, data):
    (data / "rte").mkdir()
    for split in ("train", "validation"):
        (data / "rte" / f"{split}.jsonl").write_text(json_lines(label), "utf-8")
    loaded = tasks.load(small("rte"))
    assert examples(loaded.train) == examples(loaded.test) == EXAMPLES


def parquet(path, rows):
    pytest.importorskip("pyarrow")
    import pyarrow.parquet

    columns = {
        "sentence1": [a for (a, _), _ in rows],
        "sentence2": [b for (_, b), _ in rows],
        "label": [y for _, y in rows],
        "idx": list(range(len(rows))),
    }
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


def test_parquet_as_hubs_ship_it(data):
    folder = data / "rte"
    folder.mkdir()
    parquet(folder / "train-00000-of-00002.parquet", EXAMPLES[:2])
    parquet(folder / "train-00001-of-00002.parquet", EXAMPLES[2:])
    parquet(folder / "validation-00000-of-00001.parquet", EXAMPLES)
    parquet(folder / "test-00000-of-00001.parquet", [(x, -1) for x, _ in EXAMPLES])
    loaded = tasks.load(small("rte"))
    assert examples(loaded.train) == examples(loaded.test) == EXAMPLES


def test_damaged_parquet(tmp_path):
    pytest.importorskip("pyarrow")
    with pytest.raises(InputError, match="'train.parquet' is damaged"):
        read_table("train.parquet", b"PAR1 no")


def test_parquet_without_pyarrow(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(
        InputError, match="needs pyarrow, which is not installed; allowed: pip install"
    ):
        read_table("train.parquet", b"PAR1")


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mails.tsv"
    path.write_text("text\tlabel\n" + "".join(f"mail {n}\t{n % 3}\n" for n in range(12)))
    task = tasks.get(f"tsv:{path}")
    loaded = tasks.load(task)
    assert task.kind == "text" and loaded.classes == ["0", "1", "2"]
    assert [n for (n,) in loaded.test.texts] == ["mail 0", "mail 5", "mail 10"]
    assert len(loaded.train) == 9 and loaded.train.labels[0] == 1
    assert loaded.name == f"tsv:{path}"


def test_numbers_as_labels_keep_their_order(tmp_path):
    path = tmp_path / "stars.tsv"
    path.write_text("text\tlabel\n" + "".join(f"t{n}\t{n}\n" for n in (10, 2, 1, 2, 10, 1)))
    assert tasks.load(f"tsv:{path}").classes == ["1", "2", "10"]


@pytest.mark.parametrize("form", ["folder", "tar", "zip"])
def test_a_pack_of_text_is_found_by_its_name(form, data):
    text = "sentence1\tlabel\nnice\t1\nbad\t0\n"
    place = data / "reviews"
    place.mkdir()
    for name in ("train.tsv", "dev.tsv"):
        (place / name).write_text(text)
    (place / "README.txt").write_text("about")
    if form != "folder":
        if form == "tar":
            with tarfile.open(data / "mine.tar", "w") as archive:
                archive.add(place, "mine")
        else:
            with zipfile.ZipFile(data / "mine.zip", "w") as archive:
                for path in place.iterdir():
                    archive.write(path, f"mine/{path.name}")
    loaded = tasks.load("reviews" if form == "folder" else "mine")
    assert examples(loaded.test) == [(("nice",), 1), (("bad",), 0)]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("a.tsv", "", "has the columns ; allowed"),
        ("a.tsv", "text\tlabel\nx\ty\tz\n", "line 2 has 3 fields; allowed: 2"),
        ("a.tsv", "text\tlabel\nx\t1\nx\n", "line 3 has 1 fields"),
        ("a.tsv", "text\tlabel\nx\t\n", "row 2: a text or the label is missing"),
        ("a.tsv", "text\tlab\nx\t1\n", "has the columns text, lab"),
        ("a.tsv", "label\n1\n", "has the columns label"),
        ("a.tsv", "a\tb\tc\tlabel\n1\t2\t3\t1\n", "one or two of text"),
        ("a.jsonl", "{}\n", "has the columns ;"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text"', "line 2 is not JSON"),
        ("a.jsonl", '{"text": "x", "label": 1}\n[1]', "line 2 has other keys"),
        ("a.jsonl", '{"text": "x", "label": 1}\n{"text": "x"}', "line 2 has other keys"),
        ("a.jsonl", '{"text": 5, "label": 1}\n', "row 1: a text"),
        ("a.jsonl", '{"text": null, "label": 1}\n', "row 1: a text"),
    ],
)
def test_bad_tables(name, text, words):
    with pytest.raises(InputError, match=words):
        read_table(name, text.encode())


def test_bytes_that_are_no_text():
    with pytest.raises(InputError, match="'a.tsv' is not UTF-8"):
        read_table("a.tsv", b"text\tlabel\n\xff\xfe\t1\n")


@pytest.mark.parametrize(
    "train, dev, words",
    [
        ("text\tlabel\nx\t1\n", None, "no table 'dev'"),
        ("text\tlabel\n", "text\tlabel\nx\t1\n", "no table 'train'"),
        ("text\tlabel\nx\t1\n", "text\tlabel\nx\t1\n", "one label only: 1"),
        ("text\tlabel\nx\t1\ny\t0\n", "a\tb\tlabel\nx\ty\t1\n", "some rows have one text"),
    ],
)
def test_bad_splits(train, dev, words, tmp_path):
    for name, text in (("train", train), ("dev", dev)):
        if text is not None:
            (tmp_path / f"{name}.tsv").write_text(text)
    with pytest.raises(InputError, match=words):
        tasks.load(f"tsv:{tmp_path}")


def test_mislabelled(data):
    (data / "rte").mkdir()
    for split in ("train", "dev"):
        (data / "rte" / f"{split}.tsv").write_text(RTE.replace("\tentailment", "\tentails"))
    with pytest.raises(InputError, match="unknown label 'entails'; allowed: entailment, not_"):
        tasks.load(small("rte"))
    for split in ("train", "dev"):
        (data / "rte" / f"{split}.tsv").write_text(RTE.replace("\tentailment", "\t2"))
    with pytest.raises(InputError, match="unknown label '2'"):
        tasks.load(small("rte"))


cells = st.text(st.characters(blacklist_characters="\t\n\r", codec="utf-8"), min_size=1)


@settings(max_examples=50, deadline=None)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=8))
def test_whatever_a_cell_holds_comes_back(rows):
    tsv = "a\tb\tlabel\n" + "".join(f"{a}\t{b}\t1\n" for a, b in rows)
    lines = "".join(json.dumps({"a": a, "b": b, "label": 1}) + "\n" for a, b in rows)
    for name, text in (("x.tsv", tsv), ("x.jsonl", lines)):
        assert [row.texts for row in read_table(name, text.encode())] == rows


@pytest.mark.parametrize("name, train, dev", [("rte", 2490, 277), ("sst2", 20_000, 872)])
def test_real_packs(name, train, dev, monkeypatch):
    monkeypatch.setenv("MEDYATE_DATA", REAL)
    if not REAL or files.find(f"{name}.tar") is None:
        pytest.skip(f"{name}.tar is in no folder that MEDYATE_DATA names")
    loaded = tasks.load(name)
    assert (len(loaded.train), len(loaded.test)) == (train, dev)
