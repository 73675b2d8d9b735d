"""Runs on one's own data: what is the same run, what is another one, whatever the path is called."""

import json
import os
import shutil

import numpy as np
import pandas
import pytest
from PIL import Image
from small_task import SMALL, one_thread  # noqa: F401 (fixture)

from medyate import tasks
from medyate.errors import InputError
from medyate.paper import recorded
from medyate.runs import finetune, rankings, records
from medyate.runs.config import READABLE, RankConfig, RunConfig
from medyate.sweeps import worker
from medyate.tasks.sources import FolderSource

pytestmark = pytest.mark.usefixtures("one_thread", "places")
QUICK = {**SMALL, "epochs": 1, "warmup_epochs": 0, "batch_size": 8, "batch_norm": "frozen"}


@pytest.fixture
def places(tmp_path, monkeypatch):
    monkeypatch.setenv("MEDYATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MEDYATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    monkeypatch.chdir(tmp_path)


def photos(path, seed=0, classes=("cat", "dog"), count=8):
    pixels = np.random.default_rng(seed)
    for group in classes:
        (path / group).mkdir(parents=True, exist_ok=True)
        for number in range(count):
            image = Image.fromarray(pixels.integers(0, 256, (9, 9, 3), np.uint8))
            image.save(path / group / f"{seed}-{number}.png")
    return path


def config(task, **changes):
    return RunConfig.of({**QUICK, "task": task, **changes}).check()


def rank_config(task, **changes):
    plain = {name: value for name, value in QUICK.items() if name != "ranking"}
    return RankConfig.of({**plain, "task": task, **changes}).check()


def test_one_place_is_one_task_however_it_is_written(tmp_path, monkeypatch):
    photos(tmp_path / "photos")
    (tmp_path / "link").symlink_to(tmp_path / "photos")
    monkeypatch.setenv("HOME", str(tmp_path))
    ways = ("photos", "./photos", "photos/", "cache/../photos", str(tmp_path / "photos"), "~/photos", "link")
    (tmp_path / "cache").mkdir()
    made = {config(f"folder:{way}") for way in ways}
    assert [one.task for one in made] == [f"folder:{tmp_path}/photos"]
    assert len({rank_config(f"folder:{way}").name for way in ways}) == 1


def test_the_content_is_in_the_id_and_the_place_is_not(tmp_path, monkeypatch):
    photos(tmp_path / "here" / "photos")
    shutil.copytree(tmp_path / "here" / "photos", tmp_path / "there" / "photos")
    monkeypatch.chdir(tmp_path / "here")
    here = config("folder:photos")
    monkeypatch.chdir(tmp_path / "there")
    there = config("folder:photos")
    assert here.id == there.id and here.task != there.task and here.data == there.data and len(here.data) == 16
    assert here.id.startswith("mbv2-w0.35-folder-photos-lara-medyate-") and str(tmp_path) not in here.id
    photos(tmp_path / "there" / "photos", seed=1, classes=("eel",))
    assert config("folder:photos").id != here.id
    assert RunConfig.of(here.as_dict()).complete().id == here.id  # wherever the data are
    shutil.rmtree(tmp_path / "here")
    assert RunConfig.of(here.as_dict()).complete().id == here.id


def test_data_under_a_bare_name_count_by_their_content(tmp_path):
    photos(tmp_path / "data" / "mine")
    before = config("mine")
    assert before.task == "mine" and before.data
    photos(tmp_path / "data" / "mine", seed=1)
    assert config("mine").id != before.id


def test_a_folder_that_was_registered_counts_by_its_content_too(tmp_path, monkeypatch):
    source = FolderSource("mine", photos(tmp_path / "photos"))
    monkeypatch.setitem(tasks.TASKS, "mine", tasks.Task("mine", "a test", source))
    before = config("mine")
    photos(tmp_path / "photos", seed=1)
    assert before.data and config("mine").id != before.id


def test_registered_tasks_have_no_digest():
    assert config("digits").data is None and "data" not in config("digits").as_dict()


def test_a_pack_is_known_by_its_content(tmp_path, monkeypatch):
    photos(tmp_path / "data" / "food10")
    declared = RunConfig.of({**QUICK, "task": "food10"}).complete()
    other = config("food10")
    assert declared.data is None and other.data and other.id != declared.id
    monkeypatch.setitem(tasks.PACKS, "food10", tasks.get("food10").source.digest())
    assert config("food10").id == declared.id
    monkeypatch.undo()
    # a sweep's run on other data than it is declared on would be another run, for ever pending
    monkeypatch.setenv("MEDYATE_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("MEDYATE_RESULTS", str(tmp_path / "results"))
    told = worker.execute("run", declared.as_dict(), device="cpu")
    assert told["outcome"] == "failed" and "'food10' here are others than this run is declared on" in told["message"]


def test_more_pictures_are_another_run(tmp_path):
    path = photos(tmp_path / "photos")
    first, found = finetune.run(config("folder:photos"), device="cpu")
    assert not found and finetune.run(config("folder:./photos"), device="cpu") == (first, True)
    photos(path, seed=1, classes=("cat", "dog", "eel"))
    second, found = finetune.run(config("folder:photos"), device="cpu")
    assert not found and (second["classes"], first["classes"]) == (3, 2)
    assert second["train_images"] > first["train_images"] and second["id"] != first["id"]


def test_a_checkpoint_of_other_data_is_not_gone_on_with(tmp_path, monkeypatch):
    path = photos(tmp_path / "photos")
    settings = config("folder:photos", epochs=2)

    def stop(row):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        finetune.run(settings, device="cpu", progress=stop)
    photos(path, seed=1)
    with pytest.raises(InputError, match="the data of task .* have changed: their digest is .*; allowed: "):
        RunConfig.of(settings.as_dict()).check()
    epochs = []
    finetune.run(config("folder:photos", epochs=2), device="cpu", progress=epochs.append)
    assert [row["epoch"] for row in epochs] == [1, 2]
    # and one that moved is
    for file in path.rglob("1-*.png"):
        file.unlink()
    path.rename(tmp_path / "elsewhere")
    moved = shutil.copytree(tmp_path / "elsewhere", tmp_path / "sub" / "photos")
    epochs.clear()
    finetune.run(config(f"folder:{moved}", epochs=2), device="cpu", progress=epochs.append)
    assert [row["epoch"] for row in epochs] == [2]


def test_data_that_change_under_way_are_told(tmp_path, monkeypatch):
    path = photos(tmp_path / "photos")
    settings = config("folder:photos")
    photos(path, seed=1)
    with pytest.raises(InputError, match="the data of task .* have changed: "):
        finetune.run(settings, device="cpu")
    with pytest.raises(InputError, match="changed while they were read"):  # between that look and the last image
        finetune.Tuning(settings, "cpu")


@pytest.mark.parametrize("one, other", [("数据/猫狗", "数据/花草"), ("a/photos", "a-photos"), ("a/x", "b/x")])
def test_each_folder_has_its_own_ranking(one, other, tmp_path):
    made = [rank_config(f"folder:{photos(tmp_path / name, seed)}") for seed, name in enumerate((one, other))]
    assert made[0].name != made[1].name
    records_made = [finetune.rank(settings, device="cpu")[0] for settings in made]
    assert {record["ranking"] for record in records_made} <= set(rankings.names("mbv2-w0.35"))
    for record in records_made:
        assert list(rankings.load("mbv2-w0.35", record["ranking"]).lara) == record["lara"]


def test_a_ranking_with_other_options_replaces_none_unasked(tmp_path):
    photos(tmp_path / "photos")
    first, _ = finetune.rank(rank_config("folder:photos"), device="cpu")
    other = rank_config("folder:photos", learning_rate=0.1)
    assert other.name == first["ranking"]
    with pytest.raises(InputError, match="is there already, made with other options .*--force, which replaces it"):
        finetune.rank(other, device="cpu")
    assert list(rankings.load("mbv2-w0.35", first["ranking"]).lara) == first["lara"]
    second, _ = finetune.rank(other, device="cpu", force=True)
    assert list(rankings.load("mbv2-w0.35", first["ranking"]).lara) == second["lara"] != first["lara"]


@pytest.mark.parametrize("name", ["x" * 196, "x" * 255, "é" * 127, "数" * 85])
def test_long_names_reach_the_record(name, tmp_path):
    path = photos(tmp_path / ("deep" * 20) / name)
    record, _ = finetune.run(config(f"folder:{path}"), device="cpu")
    assert len(record["id"]) <= READABLE + 11
    file = records.path(record["id"])
    assert json.loads(file.read_text()) == record
    ranked, _ = finetune.rank(rank_config(f"folder:{path}"), device="cpu")
    assert max(len(os.fsencode(one.name)) for one in (tmp_path / "results").rglob("*")) <= 143
    assert ranked["ranking"] in rankings.names("mbv2-w0.35")


def test_a_path_that_is_no_utf_8(tmp_path):
    path = os.fsdecode(os.fsencode(photos(tmp_path / "photos")) + b"\xe9")
    os.rename(tmp_path / "photos", path)
    with pytest.raises(InputError, match="is not UTF-8; allowed: folder:PATH"):
        config(f"folder:{path}")


@pytest.mark.parametrize("make, do", [(config, finetune.run), (rank_config, finetune.rank)])
@pytest.mark.parametrize("size", [1, 4, 12])
def test_a_last_batch_of_one(make, do, size, tmp_path):
    photos(tmp_path / "photos", count=8)  # 6 + 6 for training, and 1 more
    Image.new("L", (9, 9)).save(tmp_path / "photos" / "cat" / "z.png")
    options = {"batch_size": size, "batch_norm": "train"}
    with pytest.raises(InputError, match=f"batch size {size} leaves a batch of one image of 13.* allowed: another"):
        do(make("folder:photos", **options), device="cpu")
    if size == 4:
        do(make("folder:photos", **options | {"resolution": 64}), device="cpu", force=True)
        do(make("folder:photos", **options | {"batch_norm": "frozen"}), device="cpu", force=True)
        do(make("folder:photos", **options | {"batch_size": 5}), device="cpu", force=True)


def test_pages_show_the_data_that_are_there_alone(tmp_path):
    """Runs on a folder's former content are left out; known tasks have no content to differ in."""
    path = photos(tmp_path / "photos")
    old = config("folder:photos")
    photos(path, seed=1)
    made = [old, config("folder:photos"), config("digits"), RunConfig.of({**QUICK, "task": "food10"}).complete()]
    for one in made:
        record = {"schema": 1, "kind": "run", "id": one.id, "status": "finished", "config": one.as_dict()}
        records.write({**record, "epochs": [], "test_top1_percent": 50.0})
    frame = recorded.table()
    assert set(frame.id) & {one.id for one in made} == {one.id for one in made[1:]}
    frame = frame[frame.id.isin([one.id for one in made])]
    assert len(recorded.of_protocol(frame.assign(warmup_epochs=1, batch_norm="train"), "short")) == 0  # batches of 8
    assert len(recorded.of_protocol(frame.assign(warmup_epochs=1, batch_norm="train", batch_size=32), "short")) == 3
    ranks = pandas.DataFrame([rank_config("folder:photos").as_dict(), rank_config("digits").as_dict()])
    assert len(recorded.of_one_way(ranks)) == 2
    shutil.rmtree(path)
    assert len(set(recorded.table().id) & {one.id for one in made[:2]}) == 1
