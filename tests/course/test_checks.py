"""The book's self-checks: right answers pass, typical wrong ones are named, no reply gives the answer away."""

import math
import re

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from medyate.course import checks, questions, sealing
from medyate.course.checks import OPEN, RIGHT, WRONG, Question, Slip
from medyate.errors import InputError

QUESTIONS = [(label, question) for label in checks.exercises() for question in checks.questions(label)]
EACH = pytest.mark.parametrize(("label", "question"), QUESTIONS, ids=lambda value: getattr(value, "name", value))

# Counted by hand, without the library.
BY_HAND = {
    "ex-depthwise": {"weights": 48 * 9, "inputs": 48 * 4096},
    "ex-batch": {"single": 65_536 / 963_456, "eight_bit": 262_144 / 963_456},
    "ex-checkpoint": {"m": 10, "held": 20},
    "ex-resolution": {"weights": 1, "activations": 0.25},
    "ex-flops": {"macs": 16 * 8 * 9 * 16 * 16},
    "ex-fraction": {"fraction": lambda norms: math.hypot(*norms) / sum(norms)},
    "ex-average": {"plus_minus": lambda values: math.hypot(*values)},
    "ex-momentum": {"state": 4 * 288_864},
    "ex-tokens": {"tokens": 85_524_480 / 82_944, "ratio": 32 * 10_617_600 / 85_524_480},
    "ex-features": {"cheapest": 31, "costliest": 8},
    "ex-dearest": {"price": 16 * 9 + 128 * 128, "share": (16 * 9 + 128 * 128) / 15_936},
    "ex-kilobytes": {"kilobytes": lambda elements: -(-elements // 256)},
    "ex-hand": {"rgn": 0.19, "lara": 13 / 300},
    "ex-step": {"probability": 1 / 100},
    "ex-datasheet": {"budget": 16_384, "channels": 25},
    "ex-shared": {"activations": 100 * 12 * 2 * 128 * 768 / 10_617_600, "total": 100 * 12 * 2 * 128 * 768 / 96_225_792},
    "ex-axis": {"percent": 100 * 27_946 / 1_252_320},
    "ex-copies": {"copies": 5556, "together": 11_112},
    "ex-expanded": {"whole": 786_432, "group": 131_072},
    "ex-linker": {"overflow": 4_673_744},  # what arm-none-eabi-ld says
    # 4, 3 and 3 layers of 1,500, 1,350 and 1,350 elements; ln 0.1 / ln(1 - share) is 23.5, 21.03 and 9.2
    "ex-cut": {"epochs": lambda prices, budget, alpha: {(140, 0.1): 24, (140, 0.2): 22, (300, 0.4): 10}[budget, alpha]},
    "ex-contradicted": {"excluded": lambda differences, printed: not 0.0 < printed < 1.8},
    "lab-budget": {"budget": 59 * 1024},
    "ex-grid": {"runs": 7 * 3 * 3 * (8 * 3 + 2)},
}


@pytest.mark.parametrize("label", BY_HAND)
def test_what_is_counted_by_hand_is_right(label):
    assert checks.check(label, **BY_HAND[label]).right


def test_masks_counted_from_the_architecture():
    """One bit for each rectified output, from the blocks of the network and not from running it."""
    from medyate import networks

    architecture = networks.NETWORKS["mbv2-w0.35"].architecture
    side, channels = 64, architecture.stem
    outputs = channels * side**2
    for block in architecture.blocks:
        if block.mid != channels:  # the first block has no pw1
            outputs += block.mid * side**2
        side //= block.stride
        outputs += block.mid * side**2
        channels = block.out
    outputs += architecture.mix * side**2
    assert checks.check("ex-bits", masks=outputs / 8).right


def test_no_choice_of_channels_trains_more_weights_than_the_greedy_one():
    """The bounded knapsack by dynamic programming, from the network's modules: weights of one channel and its price."""
    from medyate import networks

    budget = 27_946
    best = np.zeros(budget + 1, dtype=int)
    model = networks.build("mbv2-w0.35", weights="random")
    pixels = {}

    def look(layer, inputs):
        pixels[layer] = inputs[0].shape[2:].numel()

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d):
            module.register_forward_pre_hook(look)
    with torch.no_grad():
        model.eval()(torch.zeros(1, 3, 128, 128))
    for layer in pixels:
        weights, left, count = layer.weight.numel() // layer.in_channels, layer.in_channels, 1
        while left:  # channels by powers of two, which make up every number of them
            taken = min(count, left)
            price = taken * (weights + pixels[layer])
            if price <= budget:
                best[price:] = np.maximum(best[price:], best[: budget + 1 - price] + taken * weights)
            left, count = left - taken, 2 * count
    assert checks.check("ex-knapsack", weights=best[-1]).right


def test_holms_correction_by_its_definition():
    def holm(p):
        found = []
        for value in p:  # the largest of the steps up to the value's own place
            steps = [(len(p) - place) * other for place, other in enumerate(sorted(p)) if other <= value]
            found.append(min(1, max(steps)))
        return found

    assert checks.check("ex-holm", holm=holm).right


@EACH
def test_right_answers_pass_and_open_ones_are_open(label, question):
    assert question.judge(question.right).state == RIGHT
    assert question.judge(None).state == OPEN
    if not question.cases:
        assert question.judge(np.float64(question.right)).state == RIGHT
        assert question.judge(torch.tensor(float(question.right), dtype=torch.float64)).state == RIGHT
    else:
        assert question.judge(lambda *_: None).state == OPEN


@EACH
def test_each_slip_is_named_by_its_own_words(label, question):
    """So no two slips of a question have the same answer, and none is within the tolerance of the right one."""
    assert len(question.slips) >= 2
    for slip in question.slips:
        verdict = question.judge(slip.answer)
        assert (verdict.state, verdict.says) == (WRONG, slip.says)


@EACH
def test_slips_of_the_unit_are_named(label, question):
    for factor, says in questions.UNITS[question.unit]:
        verdict = question.judge(factor * question.right)
        own = [slip.says for slip in question.slips]
        assert verdict.state == WRONG and verdict.says in (says, *own)


@EACH
def test_no_reply_gives_the_right_number_away(label, question):
    if question.cases:
        return
    shown = {f"{question.right:,.6g}", f"{question.right:.6g}", str(question.right)}
    texts = [
        question.hint,
        *(slip.says for slip in question.slips),
        *(says for _, says in questions.UNITS[question.unit]),
    ]
    for text in texts:
        numbers = set(re.findall(r"\d[\d,.]*\d|\d", text))
        assert not numbers & shown, text


@EACH
@given(value=st.floats(-1e7, 1e7))
def test_any_other_number_is_wrong_with_a_hint(label, question, value):
    if question.cases:
        return
    verdict = question.judge(value)
    if not math.isclose(value, question.right, rel_tol=question.tolerance):
        assert verdict.state == WRONG and verdict.says
    assert "nan" not in verdict.says


@EACH
@pytest.mark.parametrize("answer", ["12", True, float("nan"), float("inf"), [1, 2], torch.ones(2), 1j])
def test_what_is_no_answer_is_said_so(label, question, answer):
    verdict = question.judge(answer)
    assert verdict.state == WRONG
    assert verdict.says == f"{answer!r} is not a {'function' if question.cases else 'number'}"


def test_functions_that_fail_are_told_their_own_error():
    assert checks.check("ex-kilobytes", kilobytes=lambda n: n / 0).verdicts[0].says == (
        "for 27946 it raises ZeroDivisionError: division by zero"
    )
    assert "returns 'x', which is not a number" in repr(checks.check("ex-kilobytes", kilobytes=lambda n: "x"))
    # right in the first case, wrong in the second: the second is told
    sly = checks.check("ex-kilobytes", kilobytes=lambda n: 110 if n == 27_946 else 7)
    assert "for 66592 it returns 7.0, which is not right" in repr(sly)
    assert checks.check("ex-holm", holm=lambda p: [1.0]).verdicts[0].state == WRONG  # another length


def test_an_outcome_shows_itself():
    outcome = checks.check("ex-hand", rgn=0.19, lara=None)
    assert repr(outcome) == "rgn: right.\nlara: not answered yet."
    assert outcome._repr_markdown_() == "* ✔ **rgn**: right.\n* ◻ **lara**: not answered yet."
    assert not outcome.right and checks.check("ex-hand", rgn=0.19, lara=13 / 300).right


def test_wrong_use_is_one_line():
    with pytest.raises(InputError, match=r"unknown exercise 'ex-none'; allowed: ex-depthwise, "):
        checks.check("ex-none")
    with pytest.raises(InputError, match=r"answers \['rng'\] do not fit exercise 'ex-hand'; allowed: rgn, lara"):
        checks.check("ex-hand", rng=1)
    with pytest.raises(InputError, match="unknown unit 'metres'"):
        Question("x", 1, "metres", (Slip(2, "two"),), "one")


def test_an_answer_that_sorts_what_it_is_given_spoils_no_question():
    """Sorting in place is the slip itself: found as such, and the question is as before."""
    before = repr(checks.questions("ex-holm")[0].cases)

    def holm(p):
        p.sort()
        return [min(1.0, (len(p) - rank) * value) for rank, value in enumerate(p)]

    assert checks.check("ex-holm", holm=holm).verdicts[0].state == WRONG
    assert repr(checks.questions("ex-holm")[0].cases) == before


# --- sealed ---


def test_sealed_answers_come_back_whole_and_a_damaged_file_is_named(tmp_path, monkeypatch):
    text = sealing.READABLE.read_text("utf-8")
    sealed = sealing.seal(text)
    assert sealing.unseal(sealed) == text and sealed.isascii() and "Slip" not in sealed
    assert max(map(len, sealed.splitlines())) <= 120
    for damaged in (sealed[:400], sealed.replace(sealed[3], "~", 1)):
        with pytest.raises(InputError, match=r"answers\.sealed is damaged"):
            sealing.unseal(damaged)


def test_without_any_answers_it_says_so(tmp_path, monkeypatch):
    monkeypatch.setattr(sealing, "READABLE", tmp_path / "answers.py")
    monkeypatch.setattr(sealing, "SEALED", tmp_path / "answers.sealed")
    sealing.makers.cache_clear()
    try:
        with pytest.raises(InputError, match=r"answers are not here; allowed: answers\.py or answers\.sealed"):
            checks.exercises()
    finally:
        sealing.makers.cache_clear()
