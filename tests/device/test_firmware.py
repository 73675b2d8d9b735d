"""Linked for boards, where the linker proves the plan; run on the emulated Cortex-M7, to the native bits."""

import re
import shutil
from pathlib import Path

import pytest
from own_models import made, make, needs_compiler, needs_cross, needs_emulator
from test_engine import _write_images

from medyate.device import exporting, planning, reading
from medyate.errors import InputError

pytestmark = needs_cross
RAM = (".arena", ".passing", ".state", ".stack")


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """MbV2 with random weights, exported once for each (strategy, mode, budget, board) that is asked for."""
    folders = {}

    def export(strategy="LaRa MeDyate", mode="accumulate", budget=27_946, board="stm32h743"):
        key = (strategy, mode, budget, board)
        if key not in folders:
            folder = tmp_path_factory.mktemp("firmware")
            plan = exporting.export_network(
                "mbv2", folder, strategy=strategy, mode=mode, budget=budget, board=board, weights="random"
            )
            folders[key] = folder, plan
        return folders[key]

    return export


def test_the_link_proves_the_plan_to_the_byte(network):
    """It succeeds where the RAM is as long as planned, and fails 8 bytes below."""
    folder, plan = network()
    made(folder, "firmware", LINK_FLAGS=f"-Wl,--defsym=md_length_AXI={plan.ram_bytes}")
    found = reading.sizes(folder / "build/stm32h743.elf")
    assert sum(found["sections"].get(section, 0) for section in RAM) == plan.ram_bytes
    assert found["symbols"]["md_arena"] == plan.arena_bytes
    assert found["symbols"]["md_state"] == plan.state_bytes
    (folder / "build/stm32h743.elf").unlink()
    refused = make(folder, "firmware", LINK_FLAGS=f"-Wl,--defsym=md_length_AXI={plan.ram_bytes - 8}")
    assert refused.returncode != 0
    assert reading.refusal(refused.stdout + refused.stderr) == {"AXI": 8}


def test_flash_is_within_the_plan_and_the_engine_within_16_kib(network):
    folder, plan = network()
    made(folder, "firmware")
    found = reading.sizes(folder / "build/stm32h743.elf")
    sections, symbols = found["sections"], found["symbols"]
    tables = sum(
        symbols.get(name, 0) for name in ("md_layers", "md_stages", "md_searched", "md_search_start", "md_fixed")
    )
    assert sections[".text"] - tables <= planning.TEXT_BYTES
    assert sum(sections.get(name, 0) for name in (".text", ".ARM.exidx", ".weights", ".store")) <= plan.flash_bytes


def test_there_is_no_heap_and_nothing_unplanned_in_ram(network):
    folder, _ = network()
    made(folder, "firmware")
    found = reading.sizes(folder / "build/stm32h743.elf")
    heap = {"malloc", "_malloc_r", "calloc", "realloc", "free", "_free_r", "sbrk", "_sbrk", "_sbrk_r"}
    assert not heap & set(found["symbols"])
    assert set(found["sections"]) <= {".text", ".ARM.exidx", ".weights", ".store", *RAM}


def _calls(folder: Path) -> tuple[dict[str, int], dict[str, set[str]]]:
    """Each function's own stack in bytes, and whom it calls, by gcc's -fcallgraph-info=su."""
    stack, calls = {}, {}
    for file in folder.glob("*.ci"):
        text = file.read_text()
        for title, label in re.findall(r'node: \{ title: "([^"]+)" label: "([^"]*)"', text):
            size = re.search(r"(\d+) bytes \((static|dynamic,bounded|dynamic)\)", label)
            if size:
                assert size[2] == "static", f"{title} takes a stack that is not fixed"
                stack[title] = int(size[1])
        for source, target in re.findall(r'edge: \{ sourcename: "([^"]+)" targetname: "([^"]+)"', text):
            calls.setdefault(source, set()).add(target)
    return stack, calls


def test_the_stack_that_the_compiler_measures_is_within_the_plan(network):
    """The deepest path of calls from the start; no function calls itself; an interrupt's frame is left room."""
    folder, _ = network()
    made(folder, "firmware")
    stack, calls = _calls(folder / "build/stm32h743")

    def deepest(name: str, above: tuple[str, ...] = ()) -> int:
        assert name not in above, f"{name} calls itself"
        own = stack.get(name, 32)  # of the C library: memcpy, memset, strlen save a few registers
        return own + max((deepest(other, (*above, name)) for other in calls.get(name, ())), default=0)

    start = next(name for name in stack if name.endswith("md_reset"))
    depth = deepest(start)
    assert 500 < depth and depth + 104 <= planning.STACK_BYTES, depth


@pytest.mark.parametrize("board", list(planning.boards()))
def test_full_fine_tuning_is_refused_by_the_linker_of_every_board(network, board):
    folder, plan = network("Baseline", "in-place", None, board)
    refused = make(folder, "firmware")
    assert refused.returncode != 0
    overflow = reading.refusal(refused.stdout + refused.stderr)
    largest = max(region.length_bytes for region in planning.board(board).of_kind("ram"))
    assert overflow and max(overflow.values()) >= plan.ram_bytes - largest


@pytest.mark.parametrize(
    "board, mode, budget",
    [("stm32f746", "in-place", 27_946), ("rp2350", "accumulate", 27_946), ("stm32h743", "in-place", 93_696)],
)
def test_the_boards_of_the_plan_link(network, board, mode, budget):
    folder, plan = network(mode=mode, budget=budget, board=board)
    assert planning.place(plan, planning.board(board)) is not None
    made(folder, "firmware")
    assert "md_arena" in made(folder, "size")


def test_reading_refuses_what_is_no_image(tmp_path):
    with pytest.raises(InputError, match="no 32-bit ELF image"):
        reading.sizes(tmp_path / "absent.elf")


@needs_compiler
@needs_emulator
@pytest.mark.parametrize("mode", planning.MODES)
def test_the_emulated_training_has_the_native_ones_bits(tiny, mode):
    folder, _, plan = tiny("LaRa MeDyate", mode=mode, epochs=3)
    _write_images(folder, (3, 16, 16))
    arguments = "epochs=3 batch=4 seed=5"
    native, emulated = (made(folder, goal, ARGS=arguments) for goal in ("train", "qemu"))
    lines = [re.findall(r"^(?:epoch|checksum).*$", output, re.M) for output in (native, emulated)]
    assert lines[0] == lines[1] and len(lines[0]) == 4, (native, emulated)
    used = int(re.search(r"most stack in use: (\d+) bytes", emulated).group(1))
    assert 200 < used <= planning.STACK_BYTES


@needs_emulator
@needs_compiler
def test_the_emulator_runs_a_split_arena(tmp_path):
    """A plan whose arena lies in two blocks trains to the same bits."""
    budget = planning.schemes.PRINTED_BUDGETS["mbv2-w0.35"][5]
    plan = exporting.export_network("mbv2", tmp_path, budget=budget, mode="in-place", weights="random", resolution=64)
    _write_images(tmp_path, (3, 64, 64), count=2)
    arguments = "epochs=2 warmup=0"
    native, emulated = (made(tmp_path, goal, ARGS=arguments) for goal in ("train", "qemu"))
    assert re.findall(r"checksum \w+", native) == re.findall(r"checksum \w+", emulated) != []
    assert shutil.which("qemu-system-arm") and plan.program.mode == "in-place"
