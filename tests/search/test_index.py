"""`ern_index` and `ern_search` over a FAISS folder and over Milvus Lite, with killed processes and two ranks."""

import importlib.util
import json
import os
import random
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from forked import forked
from PIL import Image

from fashionern.data.drawn.garments import draw_pictures, sample_designs
from fashionern.distributed import set_seed
from fashionern.encoders.clip import TINY, create_clip
from fashionern.encoders.feature_store import photo_mark
from fashionern.encoders.tme import Encoders
from fashionern.errors import ErnError
from fashionern.files import locked
from fashionern.models.hub import Retriever
from fashionern.models.registry import create_model
from fashionern.search.config import index_location, parse_index, parse_search
from fashionern.search.index import plan_update
from fashionern.search.indexing import run_index
from fashionern.search.inventory import open_store, store_class
from fashionern.search.results import run_search
from fashionern.search.searcher import Searcher

STORES = [
    "folder",
    pytest.param(
        "milvus",
        marks=pytest.mark.skipif(not importlib.util.find_spec("milvus_lite"), reason="Milvus Lite is not installed"),
    ),
]
COUNT = 40


@pytest.fixture(scope="module")
def shop(tmp_path_factory) -> Path:
    "photos/, t.csv and two models with random weights."
    root = tmp_path_factory.mktemp("shop")
    (root / "photos" / "new").mkdir(parents=True)
    designs = sample_designs("dress", COUNT, np.random.default_rng(0), set())
    paths = {f"{i}": root / "photos" / ("new" if i % 4 == 0 else "") / f"{i}.png" for i in range(COUNT)}
    draw_pictures(dict(zip(paths, designs)), paths, size=64, workers=1)
    rows = [f"{i},{d.colour},{i / 2}" for i, d in enumerate(designs)]
    (root / "t.csv").write_text("\n".join(["id,colour,price", *rows]))
    for seed in (0, 1):
        set_seed(seed)
        Retriever(Encoders(create_clip(TINY)), create_model("dvr@mask_padding", 128, ffn=64)).save_pretrained(
            root / f"model{seed}"
        )
    return root


@pytest.fixture
def photos(shop: Path, tmp_path: Path) -> Path:
    shutil.copytree(shop / "photos", tmp_path / "photos")
    return tmp_path / "photos"


def where(kind: str, folder: Path, flag: str) -> list[str]:
    return ["--store", str(folder / "index.db")] if kind == "milvus" else [flag, str(folder / "index")]


def index(command: str, kind: str, folder: Path, *flags: str) -> int:
    given = (
        ["--images", str(folder / "photos"), "--num-workers", "0", "--device", "cpu"]
        if command in ("build", "add", "update")
        else []
    )
    return run_index(
        parse_index([command, *flags, *given, *where(kind, folder, "--out" if command == "build" else "--index")])
    )


def search(kind: str, folder: Path, *flags: str) -> list:
    return run_search(parse_search([*flags, "--device", "cpu", *where(kind, folder, "--index")]))


def names_in(kind: str, folder: Path) -> set[str]:
    store = open_store(where(kind, folder, "")[1])
    found = set(store.marks())
    store.close()
    return found


def files_in(folder: Path) -> set[str]:
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*.png")}


@pytest.mark.parametrize("kind", STORES)
def test_from_a_folder_to_results(kind, shop, photos, tmp_path, capsys):
    assert index("build", kind, tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv")) == 0
    assert names_in(kind, tmp_path) == files_in(photos)
    retriever = Retriever.from_pretrained(shop / "model0")
    others = sorted(files_in(photos) - {"new/0.png"})
    expected = retriever.score(
        retriever.encode_queries([photos / "new/0.png"], ["is red"]),
        retriever.encode_targets([photos / n for n in others]),
    )[0]
    capsys.readouterr()
    hits = search(kind, tmp_path, "--image", str(photos / "new/0.png"), "--text", "is red", "-k", "5", "--json")[0]
    assert np.allclose([h.score for h in hits], expected.sort(descending=True).values[:5], atol=1e-4)
    assert json.loads(capsys.readouterr().out)["hits"][0]["name"] == hits[0].name
    cheap = search(
        kind,
        tmp_path,
        "--name",
        "new/0.png",
        "-k",
        "50",
        "--where",
        "price < 5 and not colour = 'red'",
        "--grid",
        str(tmp_path / "g.png"),
        "--explain",
        str(tmp_path / "w.png"),
    )[0]
    assert cheap and all(h.columns["price"] < 5 and h.columns["colour"] != "red" for h in cheap)
    assert all(Image.open(tmp_path / f).size[0] > 300 for f in ("g.png", "w.png"))
    own = search(kind, tmp_path, "--name", "new/0.png", "--keep-reference", "-k", "1")[0]
    assert own[0].name == "new/0.png" and own[0].score == pytest.approx(1, abs=1e-4)
    (tmp_path / "q.jsonl").write_text(
        '{"image": "photos/new/0.png", "text": "is red"}\n{"text": "a blue dress", "k": 2}\n'
    )
    many = search(kind, tmp_path, "--queries", str(tmp_path / "q.jsonl"), "-k", "5", "--json")
    assert np.allclose([h.score for h in many[0]], [h.score for h in hits], atol=1e-4) and len(many[1]) == 2


@pytest.mark.parametrize("kind", STORES)
def test_update_follows_the_folder(kind, shop, photos, tmp_path, capsys):
    index("build", kind, tmp_path, "--model", str(shop / "model0"))
    shutil.copy(photos / "1.png", photos / "2.png")
    (photos / "3.png").unlink()
    shutil.copy(photos / "5.png", photos / "late.png")
    os.utime(photos / "6.png")  # touched, with the same bytes
    (photos / "broken.png").write_bytes(b"no image")
    capsys.readouterr()
    assert index("add", kind, tmp_path) == 1
    output = capsys.readouterr().out
    assert "2 new photos, 1 changed" in output and "broken.png" in output
    assert names_in(kind, tmp_path) == files_in(photos) - {"broken.png"} | {"3.png"}
    (photos / "broken.png").unlink()
    assert index("update", kind, tmp_path) == 0 and names_in(kind, tmp_path) == files_in(photos)
    twins = search(kind, tmp_path, "--name", "1.png", "--keep-reference", "-k", "2")[0]
    assert {h.name for h in twins} == {"1.png", "2.png"}
    index("remove", kind, tmp_path, "1.png", "nowhere.png")
    assert names_in(kind, tmp_path) == files_in(photos) - {"1.png"}
    capsys.readouterr()
    index("info", kind, tmp_path, "--json")
    assert json.loads(capsys.readouterr().out)["photos"] == len(files_in(photos)) - 1


@pytest.mark.parametrize("with_table", [False, True])
def test_an_update_encodes_photos_whose_vectors_are_damaged(shop, photos, tmp_path, capsys, with_table):
    table = ["--table", str(shop / "t.csv")]  # its ids are without folder and suffix
    index("build", "folder", tmp_path, "--model", str(shop / "model0"), *table)
    before = {h.name: h for h in search("folder", tmp_path, "--name", "1.png", "-k", "50")[0]}
    path = tmp_path / "index" / "vectors.f32"
    path.write_bytes(bytes(1_000) + path.read_bytes()[1_000:])
    with pytest.raises(ErnError, match="Run ern_index update"):
        search("folder", tmp_path, "--name", "1.png", "-k", "5")
    capsys.readouterr()
    assert index("update", "folder", tmp_path, *(table if with_table else [])) == 0
    assert " whose vectors were damaged on disk, " in capsys.readouterr().out
    after = {h.name: h for h in search("folder", tmp_path, "--name", "1.png", "-k", "50")[0]}
    assert len(after) == COUNT - 1 and after.keys() == before.keys()  # photos that look alike may change places
    for name, hit in after.items():
        assert hit.columns == before[name].columns
        assert hit.score == pytest.approx(before[name].score, abs=1e-4)
    assert rows_in(tmp_path) == COUNT


@pytest.mark.parametrize("kind", STORES)
def test_a_new_price_list_encodes_nothing(kind, shop, photos, tmp_path, capsys, monkeypatch):
    index("build", kind, tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv"))
    before = search(kind, tmp_path, "--name", "1.png", "-k", "5")[0]
    lines = (shop / "t.csv").read_text().splitlines()
    (tmp_path / "new.csv").write_text(
        "\n".join(["id,colour,price_eur", *(f"{i},red,{i}" for i in range(len(lines) - 2))])
    )  # without the last product
    monkeypatch.setattr(
        "fashionern.search.index._ReadableViews.__getitem__", lambda *_: pytest.fail("a photo was read")
    )
    capsys.readouterr()
    assert index("update", kind, tmp_path, "--table", str(tmp_path / "new.csv")) == 0
    output = capsys.readouterr().out
    assert f"0 new photos, 0 changed, {COUNT} with a changed table row, 0 unchanged" in output
    assert "1 photo without a row: " in output
    assert f"(in {tmp_path / 'new.csv'}, column id) is in the index. It is shown by file name, without title" in output
    after = search(kind, tmp_path, "--name", "1.png", "-k", "5")[0]
    assert [(h.name, h.score) for h in after] == [(h.name, h.score) for h in before]
    assert {h.columns["price_eur"] for h in search(kind, tmp_path, "--text", "red", "--where", "price_eur < 3")[0]} == {
        0.0,
        1.0,
        2.0,
    }
    with pytest.raises(ErnError, match="Did you mean 'price_eur'"):
        search(kind, tmp_path, "--text", "red", "--where", "price < 3")
    capsys.readouterr()
    search(kind, tmp_path, "--text", "red", "--labels", "price_eur")
    shown = capsys.readouterr().out
    assert "price_eur" in shown and "colour" not in shown
    with pytest.raises(ErnError, match="no column of the index named 'price'. Did you mean 'price_eur'"):
        search(kind, tmp_path, "--text", "red", "--labels", "price")
    with pytest.raises(ErnError, match="must end in a kind of picture"):
        search(kind, tmp_path, "--text", "red", "--grid", str(tmp_path / "grid.xyz"))


@pytest.mark.parametrize("kind", STORES)
def test_an_update_with_a_wrong_folder_removes_nothing(kind, shop, photos, tmp_path, capsys, monkeypatch):
    index("build", kind, tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv"))
    at = ["update", "--device", "cpu", "--num-workers", "0", *where(kind, tmp_path, "--index")]
    missing = f"is missing {{}} of the {COUNT} photos that were indexed from {photos}, "
    missing += "and the update would remove them.*--most-gone"
    with pytest.raises(ErnError, match=missing.format(COUNT)):
        run_index(parse_index([*at, "--images", str(tmp_path)]))
    away = tmp_path / "not mounted"
    away.mkdir()
    many = sorted(photos.glob("*.png"))[: COUNT // 2 + 1]
    for file in many:
        shutil.move(file, away)
    with pytest.raises(ErnError, match=missing.format(len(many))):
        run_index(parse_index([*at, "--images", str(photos)]))
    for file in many:
        shutil.move(away / file.name, photos)
    (photos / "3.png").unlink()
    shutil.copy(photos / "5.png", photos / "added.png")
    with monkeypatch.context() as m:
        m.setattr(
            "fashionern.search.indexing.encode_into",
            lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt),
        )
        with pytest.raises(KeyboardInterrupt):
            run_index(parse_index([*at, "--images", str(photos)]))
    capsys.readouterr()
    index("info", kind, tmp_path)
    assert f" {COUNT} " in capsys.readouterr().out, "an interrupt before the new photos are encoded removes nothing"
    run_index(parse_index([*at, "--images", str(photos)]))
    output = capsys.readouterr().out
    assert "1 photo without a row: added.png (other photos of this index have one: give --table)" in output
    assert "removed 1 photo no longer in the folder" in output
    run_index(parse_index([*at, "--images", str(photos), "--table", str(shop / "t.csv")]))
    assert f"left out:\n  1  {shop / 't.csv'}  no photo in {photos}: 3" in capsys.readouterr().out
    for file in (left := sorted(photos.glob("*.png"))[1:]):
        file.unlink()
    run_index(parse_index([*at, "--images", str(photos), "--most-gone"]))
    assert f"removed {len(left)} photos no longer in the folder" in capsys.readouterr().out and names_in(
        kind, tmp_path
    ) == files_in(photos)


@pytest.mark.parametrize("kind", STORES)
def test_a_moved_folder_is_recognised(kind, shop, photos, tmp_path, capsys, monkeypatch):
    index("build", kind, tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv"))
    photos.rename(tmp_path / "pictures")
    (tmp_path / "pictures" / "3.png").unlink()
    monkeypatch.setattr(
        "fashionern.search.index._ReadableViews.__getitem__", lambda *_: pytest.fail("a photo was read")
    )
    capsys.readouterr()
    flags = [
        "update",
        "--images",
        str(tmp_path / "pictures"),
        "--device",
        "cpu",
        "--num-workers",
        "0",
        *where(kind, tmp_path, "--index"),
    ]
    assert run_index(parse_index(flags)) == 0
    output = capsys.readouterr().out
    assert (
        f"0 new photos, 0 changed, {COUNT - 1} moved" in output and "removed 1 photo no longer in the folder" in output
    )
    hits = search(kind, tmp_path, "--name", "1.png", "-k", "5")[0]
    assert all(Path(h.path).is_file() and h.columns for h in hits), "hits have their new paths and their rows"
    (tmp_path / "pictures").rename(tmp_path / "away")
    (tmp_path / "others").mkdir()
    shutil.copy(tmp_path / "away" / "2.png", tmp_path / "others" / "1.png")
    with pytest.raises(ErnError, match="name of another photo"):  # not mistaken for the absent photo
        run_index(parse_index([*flags[:2], str(tmp_path / "others"), *flags[3:]]))


def test_a_table_that_does_not_fit_gets_a_warning(shop, photos, tmp_path, capsys):
    index("build", "folder", tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv"))
    with pytest.raises(ErnError, match="No photo of .* has a row in the table.*--id-column"):
        index("update", "folder", tmp_path, "--table", str(shop / "t.csv"), "--id-column", "colour")
    for cells, odd in ((["1"] * 9 + ["on request"], "on request"), (["1,250"] * 10, "1,250")):
        lines = ["id,price,size", *(f'{i},"{cell}",{"S" if i % 2 else "M"}' for i, cell in enumerate(cells))]
        (tmp_path / "odd.csv").write_text("\n".join(lines))
        capsys.readouterr()
        index("update", "folder", tmp_path, "--table", str(tmp_path / "odd.csv"), "--most-gone")
        output = capsys.readouterr().out
        assert f"column price holds texts, such as '{odd}'" in output and output.count(" holds texts") == 1
    index("info", "folder", tmp_path)
    assert "price (1 text)" in capsys.readouterr().out
    assert search("folder", tmp_path, "--text", "red", "--where", "price < 20") == [[]]
    assert "'20' in quotes is a text, not a number" in capsys.readouterr().out


EMPTY_TABLES = {
    "a header alone": "id,colour,price\n",
    "empty cells": "id,colour,price\n" + "".join(f"{i},,\n" for i in range(COUNT)),
    "most rows gone": "id,colour,price\n" + "".join(f"{i},red,1\n" for i in range(COUNT // 4)),
}


def rows_in(folder: Path) -> int:
    "How many photos of the index have a row."
    store = open_store(folder / "index")
    found = sum(bool(photo.columns) for photo in store.get(sorted(store.marks())))
    store.close()
    return found


def test_a_table_that_would_empty_most_rows_is_refused(shop, photos, tmp_path):
    index("build", "folder", tmp_path, "--model", str(shop / "model0"), "--table", str(shop / "t.csv"))
    table = tmp_path / "less.csv"
    for content, (command, *flags) in zip(
        EMPTY_TABLES.values(), (["update"], ["build", "--model", str(shop / "model0")], ["add"])
    ):
        table.write_text(content)
        with pytest.raises(ErnError, match="less.csv, .* of the 40 photos of .* would lose it.*--most-gone"):
            index(command, "folder", tmp_path, *flags, "--table", str(table))
    assert rows_in(tmp_path) == COUNT
    index("update", "folder", tmp_path, "--table", str(table), "--most-gone")
    assert rows_in(tmp_path) == COUNT // 4


def test_what_is_left_out_is_reported_by_reason(shop, photos, tmp_path, capsys):
    for i in range(7):
        (photos / f"cut{i}.png").write_bytes((photos / "1.png").read_bytes()[:100])
        (photos / f"empty{i}.jpg").touch()
        (photos / f"iphone{i}.psd").touch()
    (tmp_path / "none.csv").write_text("id,colour\n")
    with pytest.raises(ErnError, match="none.csv has no row with a value in column id"):
        index("build", "folder", tmp_path, "--model", str(shop / "model0"), "--table", str(tmp_path / "none.csv"))
    assert index("build", "folder", tmp_path, "--model", str(shop / "model0")) == 1
    output = capsys.readouterr().out
    assert f"left out:\n  7  {photos}  .psd image (save them as JPEG or PNG)" in output
    assert "left out: 7 photos, such as cut0.png. Image" in output
    assert "left out: 7 photos, such as empty0.jpg. Image" in output
    assert "14 files could not be read and are not in the index" in output


@pytest.mark.parametrize("kind", STORES)
def test_a_build_that_failed_before_its_first_photo_prescribes_no_flags(kind, shop, photos, tmp_path):
    (tmp_path / "none.csv").write_text("id,colour\n")
    with pytest.raises(ErnError, match="none.csv has no row"):
        index("build", kind, tmp_path, "--model", str(shop / "model0"), "--table", str(tmp_path / "none.csv"))
    assert index("build", kind, tmp_path, "--model", str(shop / "model1"), "--kind", "hnsw") == 0
    assert names_in(kind, tmp_path) == files_in(photos)


@pytest.mark.parametrize("kind", STORES)
def test_another_model_is_refused(kind, shop, photos, tmp_path):
    index("build", kind, tmp_path, "--model", str(shop / "model0"))
    with pytest.raises(ErnError, match="other weights"):
        search(kind, tmp_path, "--text", "red", "--model", str(shop / "model1"))
    with pytest.raises(ErnError, match="other weights"):
        index("build", kind, tmp_path, "--model", str(shop / "model1"))
    for wrong, sentence in (
        (["--where", "size = 1", "--text", "x"], "size"),
        (["--where", "price <", "--text", "x"], "character 8"),
        (["--name", "x.png"], "x.png"),
        (["--image", "x.png"], "x.png"),
        ([], "reference"),
    ):
        with pytest.raises(ErnError, match=sentence):
            search(kind, tmp_path, *wrong)


def _command(kind: str, folder: Path, model: Path, command: str = "build") -> list[str]:
    made = ["--model", str(model)] if command == "build" else []
    given = ["--images", str(folder / "photos"), "--num-workers", "0", "--device", "cpu", "--batch-size", "2"]
    return [
        "-m",
        "fashionern.cli.index",
        command,
        *given,
        *made,
        *where(kind, folder, "--out" if command == "build" else "--index"),
    ]


@pytest.mark.parametrize("kind", STORES[1:])
def test_killed_in_build_and_add(kind, shop, photos, tmp_path):
    "After a kill at any moment the index is intact and the command resumes. test_faults.py kills a folder's index."
    late = [p for p in sorted(photos.rglob("*.png")) if p.stem in ("7", "9", "11", "13", "15", "17")]
    rng = random.Random(0)
    interrupted = 0
    for command in ("build", "add"):
        if command == "build":
            for path in late:
                path.rename(tmp_path / path.name)
        else:
            for path in late:
                (tmp_path / path.name).rename(path)
        for _ in range(2):
            before = names_in(kind, tmp_path) if (tmp_path / "index.db").exists() else set()
            child = subprocess.Popen(
                [sys.executable, *_command(kind, tmp_path, shop / "model0", command)],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            for line in child.stdout:
                if "indexing" in line or "new photos" in line:
                    break
            time.sleep(rng.uniform(0.0, 0.3))
            child.kill()
            child.wait()
            if (tmp_path / "index.db").exists():
                after = names_in(kind, tmp_path)
                assert before <= after <= files_in(photos)
                interrupted += len(after) < len(files_in(photos))
        assert index(command, kind, tmp_path, *(["--model", str(shop / "model0")] if command == "build" else [])) == 0
        assert names_in(kind, tmp_path) == files_in(photos)
    assert interrupted  # at least one kill came before the end
    searcher, retriever = (
        Searcher.load(where(kind, tmp_path, "")[1]),
        Retriever.from_pretrained(shop / "model0"),
    )
    found = {h.name: h.score for h in searcher.search(photos / "1.png", "is red", k=COUNT)}
    names = sorted(found)
    expected = retriever.score(
        retriever.encode_queries([photos / "1.png"], ["is red"]),
        retriever.encode_targets([photos / n for n in names]),
    )[0]
    assert len(found) == COUNT - 1 and np.allclose([found[n] for n in names], expected, atol=1e-4)


def test_two_ranks_build_the_same_index(shop, photos, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    done = subprocess.run([*torchrun, *_command("folder", tmp_path, shop / "model0")], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    shutil.move(tmp_path / "index", tmp_path / "by_two")
    index("build", "folder", tmp_path, "--model", str(shop / "model0"))
    one, two = open_store(tmp_path / "index"), open_store(tmp_path / "by_two")
    assert one.marks() == two.marks() and len(one) == COUNT
    queries = np.random.default_rng(0).standard_normal((3, 128)).astype(np.float32)
    assert np.allclose(
        [[s for _, s in q] for q in one.find(queries, 9)],
        [[s for _, s in q] for q in two.find(queries, 9)],
        atol=1e-5,
    )


@pytest.mark.parametrize("kind", STORES)
def test_a_folder_of_linked_photos(kind, tmp_path):
    stock = tmp_path / "stock"
    folder = tmp_path / "shop"
    for path in (stock, folder):
        path.mkdir()
    for i in range(3):
        Image.new("RGB", (8, 8 + i)).save(stock / f"{i}.png")
        (folder / f"photo{i}.png").symlink_to(stock / f"{i}.png")
    place = tmp_path / ("index.db" if kind == "milvus" else "index")
    store = store_class(place).create(place, {"dim": 3, "kind": "exact"})
    plan = plan_update(store, folder)
    assert plan.new == 3
    marked = [replace(p, mark=tuple(photo_mark(Path(p.path)).tolist())) for p in plan.to_encode]
    store.put(marked[:2], np.eye(3, dtype=np.float32)[:2])
    plan = plan_update(store, folder)  # resumes a build that was cut off
    assert (plan.new, plan.unchanged, plan.changed) == (1, 2, 0)
    earlier = [replace(p, path=str(Path(p.path).resolve())) for p in marked[:2]]  # as earlier versions recorded them
    store.set_columns(earlier)
    plan = plan_update(store, folder)
    assert (plan.new, plan.unchanged, plan.moved) == (1, 0, marked[:2])
    store.set_columns(plan.moved)
    (folder / "photo1.png").unlink()
    assert plan_update(store, folder).deleted == ["photo1.png"]
    store.close()


def test_a_store_address_without_a_scheme_is_refused():
    for command in ("info", "build --images . --encoder x", "remove a.jpg", "update --images ."):
        with pytest.raises(ErnError, match="http://HOST:19530"):
            parse_index([*command.split(), "--store", "127.0.0.1:19530"])
    with pytest.raises(ErnError, match="MILVUS_TOKEN"):
        parse_search(["--text", "red", "--store", "https://root:secret@localhost:19530"])
    cfg = parse_search(["--text", "red", "--store", "https://localhost:19530", "--store-token", "root:secret"])
    where = index_location(cfg.index, cfg.store, token=cfg.store_token)
    assert where == "https://localhost:19530" and where.token == "root:secret"
    assert store_class(where).__name__ == "MilvusStore"
    for place in (["--store", "shop.db"], ["--index", "shop"]):
        with pytest.raises(ErnError, match="--store-token is for a server"):
            parse_search(["--text", "red", *place, "--store-token", "root:secret"])


def test_one_process_writes_to_an_index(shop, photos, tmp_path):
    model = str(shop / "model0")
    assert index("build", "folder", tmp_path, "--model", model) == 0
    code = "from fashionern.cli.index import main; main()"
    remove = ("remove", "--index", tmp_path / "index", "1.png")
    with locked(tmp_path / "index", ""):
        build, add = (_command("folder", tmp_path, Path(model), command)[2:] for command in ("build", "add"))
        for command in (build, add, remove):
            refused = forked(tmp_path, code, *command)
            assert refused.returncode == 2, (command, refused.stdout, refused.stderr[-900:])
            assert f"{tmp_path / 'index'} is in use by process {os.getpid()} on " in refused.stderr
        assert "1.png" in names_in("folder", tmp_path), "reading needs no lock"
    assert forked(tmp_path, code, *remove).returncode == 0
    with pytest.raises(ErnError, match="There is no index"):
        index("add", "folder", tmp_path / "wrong")
    assert not (tmp_path / "wrong" / "index").exists()


def test_an_error_is_printed_without_a_traceback(tmp_path):
    done = forked(tmp_path, "from fashionern.cli.index import main; main()", "info", "--index", tmp_path)
    assert done.returncode == 2 and "There is no index" in done.stderr and "Traceback" not in done.stderr
