"""The front page: its example runs as written, and what is generated in it is up to date."""

import importlib.util
import re
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


@pytest.fixture
def photos(tmp_path):
    """Two classes of a few photographs in torchvision's folder layout."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for name, brightness in (("day", 200), ("night", 40)):
        folder = tmp_path / "photos" / name
        folder.mkdir(parents=True)
        for number in range(4):
            pixels = generator.integers(brightness - 40, brightness + 40, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.png")
    return tmp_path


def test_own_model_example_runs_as_written(photos, monkeypatch):
    """Only the download of the pretrained weights is replaced: the tests use no network."""
    import torch

    from medyate.networks._torchvision import torchvision

    models = torchvision().models
    random_weights = models.mobilenet_v2(weights=None).state_dict()
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", lambda *_, **__: random_weights)
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("torchvision.models") and hasattr(
            module, "load_state_dict_from_url"
        ):
            monkeypatch.setattr(module, "load_state_dict_from_url", lambda *_, **__: random_weights)
    monkeypatch.chdir(photos)
    (example,) = re.findall(r"```python\n(.*?)```", README, flags=re.S)
    namespace = {"__name__": "__main__"}
    exec(compile(example, "README.md", "exec"), namespace)
    saved = torch.load(photos / "fine-tuned.pt", weights_only=True)
    assert saved.keys() == random_weights.keys()
    selection = namespace["subnet"].selection
    assert 0.99 * 200_000 <= selection.used_elements(namespace["subnet"].layers) <= 200_000
    changed = [name for name, value in saved.items() if not torch.equal(value, random_weights[name])]
    assert {"classifier.1.weight"} < set(changed) < set(random_weights)


def test_commands_of_the_front_page_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make (\w+)", README, flags=re.M):
        assert re.search(rf"^{target}:", makefile, flags=re.M), target
    for link in re.findall(r"\]\((?!http)([^)#]+)\)", README):
        assert (ROOT / link).exists(), link


@pytest.fixture
def front_page():
    spec = importlib.util.spec_from_file_location("front_page", ROOT / "book" / "front_page.py")
    front_page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(front_page)
    return front_page


def test_links_into_the_ledger_lead_to_its_headings():
    """GitHub names a heading by its words; the book's labels mean nothing there."""
    headings = re.findall(r"^## (.+)$", (ROOT / "book" / "ledger.md").read_text(), flags=re.M)
    named = {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
    linked = re.findall(r"\(book/ledger\.md#([^)]+)\)", README)
    assert len(linked) >= 3 and set(linked) <= named
    labels = set(re.findall(r"^\((\S+)\)=$", (ROOT / "book" / "ledger.md").read_text(), flags=re.M))
    assert set(re.findall(r"\]\(#([^)]+)\)", (ROOT / "book" / "index.md").read_text())) <= labels


def test_every_verdict_has_an_answer(front_page):
    from medyate.paper import verdicts

    assert set(front_page.ANSWERS) == set(verdicts.VERDICTS)


def test_generated_parts_are_up_to_date(front_page, monkeypatch):
    """After new recorded runs: `make pages`."""
    monkeypatch.delenv("MEDYATE_RESULTS", raising=False)
    for path, page in front_page.PAGES.items():
        content = path.read_text()
        assert "<!-- generated: answers -->" in content and "<!-- generated: algorithm -->" in content
        assert front_page.text(content, page) == content
