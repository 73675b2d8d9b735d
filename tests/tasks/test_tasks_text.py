"""Tables of text in every format, good and bad."""

import bz2
import gzip
import json
import lzma
import os
import tarfile
import zipfile
from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from medyate import tasks
from medyate.errors import InputError
from medyate.files import fetch as files
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
    with pytest.raises(InputError, match="needs pyarrow, which is not installed; allowed: pip install"):
        read_table("train.parquet", b"PAR1")


def test_a_table_of_ones_own(tmp_path):
    path = tmp_path / "mails.tsv"
    path.write_text("text\tlabel\n" + "".join(f"mail {n}\t{n % 3}\n" for n in range(12)))
    task = tasks.get(f"tsv:{path}")
    loaded = tasks.load(task)
    assert task.kind == "text" and loaded.classes == ["0", "1", "2"]
    assert len(loaded.train) == 9 and loaded.test.labels.bincount().tolist() == [1, 1, 1]
    assert sorted(loaded.train.texts + loaded.test.texts) == sorted((f"mail {n}",) for n in range(12))
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
        ("a.jsonl", '{"text": "x", "label": 1}\n[1]', "line 2 is no object"),
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
        ("text\tlabel\n", "text\tlabel\nx\t1\n", "'train' table has no rows"),
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
    assume('""' not in tsv)  # doubled quotes may be a writer's, see below
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


# --- tables as people's programs write them ----------------------------------------------------

CELLS = [("it 's fun", "pos"), ('he said "no", twice', "neg"), ("a;b, c|d", "pos"), ("\u00e9t\u00e9", "neg")]
ROWS = [((text,), label) for text, label in CELLS]


def frame(**columns):
    pandas = pytest.importorskip("pandas")
    return pandas.DataFrame({"text": [text for text, _ in CELLS], "label": [label for _, label in CELLS], **columns})


def rows_of(name, content):
    return [tuple(row) for row in read_table(name, content if isinstance(content, bytes) else content.encode())]


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
@pytest.mark.parametrize("index", [True, False])
@pytest.mark.parametrize("quoting", [0, 1, 2])  # csv's QUOTE_MINIMAL, _ALL and _NONNUMERIC
@pytest.mark.parametrize("ending", ["\n", "\r\n"])
@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
def test_what_pandas_writes(separator, index, quoting, ending, mark):
    text = frame().to_csv(sep=separator, index=index, quoting=quoting, lineterminator=ending)
    assert rows_of("t.csv", mark + text.encode()) == ROWS
    if separator == "\t":
        assert rows_of("t.tsv", mark + text.encode()) == ROWS


@pytest.mark.parametrize("separator", [",", "\t"])
def test_cells_with_separators_and_ends_of_lines(separator):
    cells = ["a\tb, c", "two\nlines", 'with "quotes"', "plain"]
    text = frame().assign(text=cells).to_csv(sep=separator, index=False)
    assert [text for (text,), _ in rows_of("t.csv" if separator == "," else "t.tsv", text)] == cells


def test_quotes_of_an_unquoted_tsv_are_letters():
    for text in ('"Great" film', '"a whole sentence in quotes"', '"', 'an inch is 2.54 cm, 1"', '"one", "two"'):
        assert rows_of("t.tsv", f"text\tlabel\n{text}\t1\nx\t0\n")[0] == ((text,), "1")


PACKED = {"": bytes, ".gz": gzip.compress, ".bz2": bz2.compress, ".xz": lzma.compress}


@pytest.mark.parametrize("packed", PACKED)
@pytest.mark.parametrize("upper", [False, True])
@pytest.mark.parametrize("suffix", [".tsv", ".csv", ".jsonl", ".ndjson", ".json"])
def test_suffixes(packed, upper, suffix, tmp_path):
    many = frame()
    many = many.loc[many.index.repeat(5)]
    text = {
        ".tsv": lambda: many.to_csv(sep="\t", index=False),
        ".csv": lambda: many.to_csv(index=False),
        ".json": lambda: many.to_json(orient="records", indent=1),
    }.get(suffix, lambda: many.to_json(orient="records", lines=True))()
    name = f"t{suffix}{packed}"
    path = tmp_path / (name.upper() if upper else name)
    path.write_bytes(PACKED[packed](text.encode()))
    loaded = tasks.load(f"tsv:{path}")
    assert loaded.classes == ["neg", "pos"]
    assert sorted(loaded.train.texts + loaded.test.texts) == sorted((text,) for text, _ in CELLS for _ in range(5))


@pytest.mark.parametrize(
    "name, text",
    [
        ("t.tsv", "\ttext\tlabel\n0\tx\t1\n1\ty\t0\n"),
        ("t.tsv", "Unnamed: 0\ttext\tlabel\n0\tx\t1\n1\ty\t0\n"),
        ("t.tsv", "text\tlabel\t\nx\t1\t\ny\t0\t\n"),
        ("t.csv", "text,label,,\nx,1,,\ny,0,,\n"),
        ("t.csv", "text, label\nx, 1\ny,0 \n"),
        ("t.csv", '"","text","label"\n"1","x","1"\n"2","y","0"\n'),  # R's write.csv
        ("t.tsv", "idx\ttext\tlabel\n0\tx\t1 \n1\ty\t 0\n"),
        ("t.tsv", "text\tlabel\nx\t1.0\ny\t0.0\n"),
        ("t.json", '[{"text": "x", "label": 1},\n {"text": "y", "label": 0}]'),
        ("t.jsonl", '[{"text": "x", "label": 1.0}, {"text": "y", "label": 0}]'),
        ("t.jsonl", '{"text": "x", "label": "1"}\r\n{"label": 0.0, "text": "y"}\r\n'),
    ],
)
def test_the_same_two_rows(name, text):
    assert rows_of(name, text) == [(("x",), "1"), (("y",), "0")]


@pytest.mark.parametrize(
    "name, text, words",
    [
        ("t.tsv", "text\ttext\tlabel\nx\ty\t1\n", "has the column 'text' 2 times; allowed: once"),
        ("t.tsv", "text\tlabel\tlabel\nx\t1\t0\n", "has the column 'label' 2 times"),
        ("t.csv", "text,label,\nx,1,note\n", "column 3 has no name"),
        ("t.json", '[{"text": "x", "label": null}]', "row 1: a text or the label is missing"),
        ("t.json", '[{"text": "x", "label": NaN}]', "row 1: a text or the label is missing"),
        ("t.jsonl", '{"text": "x", "label": [1]}', "row 1: a text or the label is missing"),
        ("t.jsonl", '{"text": "x", "text": "y", "label": 1}', "line 1 is not JSON: a key stands twice"),
        ("t.jsonl", '"text"\n', "line 1 is no object; allowed"),
        ("t.json", '["text"]', "row 1 is no object; allowed"),
        ("t.json", '[{"text": "x", "label": 1}, {"text": "y"}]', "row 2 has other keys than the first"),
        ("t.json", '[{"text": "x"', "is not JSON"),
        ("t.tsv", "text\tlabel\n\t1\n", "row 2: a text or the label is missing"),
        ("t.csv", "text,label\nx,\n", "row 2: a text or the label is missing"),
        ("t.csv", 'text,label\n"x,1\n', "'t.csv' is damaged: unexpected end of data"),
        ("t.csv", "text,label\nx,1,2\n", "line 2 has 3 fields; allowed: 2"),
        ("t.tsv", "text,label\nx,1\n", "has the columns text,label; allowed: label"),
    ],
)
def test_tables_that_say_too_little(name, text, words):
    with pytest.raises(InputError, match=words) as caught:
        read_table(name, text.encode())
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("packed", [".gz", ".bz2", ".xz"])
def test_a_damaged_compressed_table(packed):
    content = PACKED[packed](b"text\tlabel\nx\t1\n" * 1000)
    for damaged in (b"not compressed", content[: len(content) // 2]):
        with pytest.raises(InputError, match=f"'t.tsv{packed}' is damaged"):
            read_table(f"t.tsv{packed}", damaged)


def table(tmp_path, labels, name="t.tsv"):
    path = tmp_path / name
    path.write_text("text\tlabel\n" + "".join(f"t{n}\t{label}\n" for n, label in enumerate(labels)))
    return path


@pytest.mark.parametrize("period", range(2, 8))
def test_each_label_is_divided_alike(period, tmp_path):
    loaded = tasks.load(f"tsv:{table(tmp_path, [n % period for n in range(period * 10)])}")
    assert loaded.test.labels.bincount().tolist() == [2] * period
    assert loaded.train.labels.bincount().tolist() == [8] * period
    again = tasks.load(f"tsv:{table(tmp_path, [n % period for n in range(period * 10)], 'u.tsv')}")
    assert again.test.texts == loaded.test.texts  # the seed is fixed


def test_the_rows_for_the_test_do_not_go_round(tmp_path):
    loaded = tasks.load(f"tsv:{table(tmp_path, [n % 2 for n in range(1000)])}")
    places = [int(text[1:]) // 2 % 5 for (text,) in loaded.test.texts]  # a source that comes back each fifth time
    assert all(20 < places.count(place) < 60 for place in range(5))


@pytest.mark.parametrize(
    "labels, words",
    [
        ([], "'t.tsv' has no rows"),
        ([1, 1, 1], "one label only: 1"),
        ([1, 1, 2], "label '2' in 't.tsv' has one row; allowed: at least 2"),
        ([1, 1, 0, 0, "nan", "nan"], "label 'nan' beside numbers"),
        (["True", 1, "False", 0] * 2, "labels False, True beside 0, 1 may be the same"),
        ([1, 1, "01", "01"], "labels that are one number: 1, 01|labels that are one number: 01, 1"),
    ],
)
def test_labels_that_make_no_task(labels, words, tmp_path):
    with pytest.raises(InputError, match=words):
        tasks.load(f"tsv:{table(tmp_path, labels)}")


def test_columns_that_differ_by_capitals_alone_are_refused(tmp_path):
    path = tmp_path / "t.tsv"
    path.write_text("text\tText\tlabel\na\tb\t0\nc\td\t1\n")
    with pytest.raises(InputError, match="the column 'text' 2 times; allowed: once, in capitals or not"):
        tasks.load(f"tsv:{path}")


@pytest.mark.parametrize(
    "labels", [["\u00b2", "\u00b3"], ["None", "some"], ["1", "\u0661"], ["-1", "1"], ["1.5", "2.5"]]
)
def test_labels_that_are_names(labels, tmp_path):
    assert tasks.load(f"tsv:{table(tmp_path, labels * 3)}").classes == labels


def splits_of(folder, **tables):
    for name, labels in tables.items():
        table(folder, labels, f"{name}.tsv")
    return f"tsv:{folder}"


def test_labels_that_only_the_dev_table_has_are_refused(tmp_path):
    with pytest.raises(InputError, match="unknown label '2'; allowed: 0, 1"):
        tasks.load(splits_of(tmp_path, train=[0, 1], dev=[0, 2]))


def test_a_known_class_that_only_the_dev_table_has_is_refused(data):
    (data / "rte").mkdir()
    for split, text in (("train", RTE.replace("\tnot_entailment", "\tentailment")), ("dev", RTE)):
        (data / "rte" / f"{split}.tsv").write_text(text)
    with pytest.raises(InputError, match="label 'not_entailment' of 'dev.tsv' has no training rows"):
        tasks.load(small("rte"))


def test_labels_that_the_dev_table_lacks_are_told(tmp_path):
    with pytest.warns(UserWarning, match="no rows of label 2 in 'dev.tsv'"):
        assert tasks.load(splits_of(tmp_path, train=[0, 1, 2], dev=[0, 1])).classes == ["0", "1", "2"]


def test_a_test_table_serves_where_there_is_no_other(tmp_path):
    with pytest.warns(UserWarning, match="no dev table; tested on Test.tsv"):
        assert len(tasks.load(splits_of(tmp_path, Training=[0, 1], Test=[0, 1, 1])).test) == 3


def test_a_split_that_is_there_twice_is_refused(tmp_path):
    with pytest.raises(InputError, match="several tables of one split: 'Train.tsv', 'training.tsv'"):
        tasks.load(splits_of(tmp_path, Train=[0, 1], training=[0, 1], dev=[0, 1]))


def test_a_table_beside_images_makes_no_text_task(data):
    table(data, [0, 1])
    (data / "birds" / "train" / "tit").mkdir(parents=True)
    table(data / "birds", [0, 1], "train.csv")
    (data / "birds" / "train" / "tit" / "1.jpg").write_bytes(b"")
    assert tasks.get("birds").kind == "image"
