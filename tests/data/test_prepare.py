"Each prepare.py, from an empty folder to a complete dataset: drawn editions, packed like the published files."

import hashlib
import importlib.util
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from loopback import Loopback, picture, reply

from fashionern.data.datasets.editions import draw_dataset
from fashionern.data.download.fetch import FetchPolicy
from fashionern.data.download.prepare import KNOWN, Annotation, Source, count_entries, prepare_dataset
from fashionern.data.registry import DATASETS, DRAWN_NOTE

SCRIPTS = Path(__file__).resolve().parents[2] / "data_scripts"
QUICK = FetchPolicy(tries=2, backoff=0.01, timeout=3)
NAMES = ("fashioniq", "shoes", "fashion200k", "cirr")
IMAGES = {"fashioniq": ".png", "shoes": ".jpg", "fashion200k": ".jpeg", "cirr": ".png"}


def source_of(name: str) -> Source:
    "The source that a script defines."
    spec = importlib.util.spec_from_file_location(f"prepare_{name}", SCRIPTS / name / "prepare.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.SOURCE


@dataclass
class Small:
    "A drawn edition of a published dataset: a source like the script's, and a server with the files."

    name: str
    drawn: Path
    source: Source
    server: Loopback

    @property
    def photos(self) -> list[Path]:
        return sorted(p for p in self.drawn.rglob(f"*{IMAGES[self.name]}") if p.name != "garments.png")

    def root(self, folder: Path) -> Path:
        "A new folder, marked as drawn, so that published counts do not apply."
        (folder / "data").mkdir()
        shutil.copy(self.drawn / DRAWN_NOTE, folder / "data" / DRAWN_NOTE)
        return folder / "data"

    def pack(self, folder: Path, photos: list[Path] | None = None) -> Path:
        "The photos as an archive: TAR for Shoes and Fashion200k, as published, ZIP for the others."
        photos = self.photos if photos is None else photos
        if self.name in ("shoes", "fashion200k"):
            with tarfile.open(folder / "photos.tar.gz", "w:gz", compresslevel=1) as t:
                for photo in photos:
                    t.add(photo, photo.relative_to(self.drawn).as_posix())
            return folder / "photos.tar.gz"
        with zipfile.ZipFile(folder / "photos.zip", "w") as z:
            for photo in photos:
                z.write(photo, f"some/where/{photo.relative_to(self.drawn).as_posix()}")
            z.writestr("some/readme.txt", "more files")
        return folder / "photos.zip"

    def prepare(self, root: Path, *argv, source: Source | None = None) -> int:
        argv = ["--root", str(root), "--workers", "1", *map(str, argv)]
        return prepare_dataset(source or self.source, "", argv, QUICK)


@pytest.fixture(scope="module", params=NAMES)
def small(request, tmp_path_factory) -> Small:
    return make_small(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def fashioniq(tmp_path_factory) -> Small:
    return make_small("fashioniq", tmp_path_factory.mktemp("fashioniq"))


def make_small(name: str, drawn: Path) -> Small:
    draw_dataset(name, drawn, images=60, size=24, workers=1)
    source = source_of(name)
    server = Loopback()
    annotations = []
    for a in source.annotations:
        file = drawn / a.path
        if file.is_file():  # drawn garments have fewer categories than Fashion200k
            content = file.read_bytes()
            server[f"/{a.path}"] = reply(content, Content_Type="text/plain; charset=utf-8")
            entries = count_entries(content, file.suffix)
            sha256 = hashlib.sha256(content).hexdigest()
            annotations.append(Annotation(a.path, f"{server.url}/{a.path}", entries, sha256))
    return Small(name, drawn, replace(source, annotations=tuple(annotations)), server)


def report(root: Path) -> dict:
    return json.loads((root / "prepare.json").read_text())


def verdicts(root: Path, *annotations: Annotation) -> list[str]:
    "The reported verdicts on some annotation files."
    found = report(root)["annotations"]
    return [found[a.path]["verdict"] for a in annotations]


def snapshot(root: Path) -> dict[Path, tuple]:
    return {p: (p.stat().st_mtime_ns, p.stat().st_ino) for p in root.rglob("*")}


def test_a_complete_dataset_and_a_second_call_that_changes_nothing(small, tmp_path, capsys):
    root = small.root(tmp_path)
    archive = small.pack(tmp_path)
    assert small.prepare(root, "--fetch", "--images", archive) == 0, capsys.readouterr()
    output = capsys.readouterr().out
    assert "Everything is there." in output and "is complete" in output
    assert f"{len(small.photos):,} images" in output
    found = report(root)
    assert found["complete"] and not found["missing"]
    assert {a["verdict"] for a in found["annotations"].values()} == {KNOWN}
    assert sorted(found["done"]["annotations fetched"]) == sorted(a.path for a in small.source.annotations)
    assert found["done"]["archives"][archive.name]["unpacked now"] == len(small.photos)
    kind = DATASETS.get(small.name)
    for split in kind.splits:
        assert not kind.load(root, split).images.missing(kind.load(root, split).all_images())
    before = snapshot(root)
    asked = len(small.server.asked)
    assert small.prepare(root, "--fetch", "--images", archive) == 0
    assert snapshot(root) == before and len(small.server.asked) == asked
    assert small.prepare(root) == 0 and snapshot(root) == before


def test_missing_images_are_reported_with_their_cost(small, tmp_path, capsys):
    kind = DATASETS.get(small.name)
    data = kind.load(small.drawn, kind.splits[-1])
    absent = data.triplets[0].reference
    path = data.images(absent)
    root = small.root(tmp_path)
    archive = small.pack(tmp_path, [p for p in small.photos if p != path])
    assert small.prepare(root, "--annotations", small.drawn, "--images", archive) == 1
    output = capsys.readouterr().out
    found = report(root)
    category = data.triplets[0].category
    lost = sum(absent == t.reference or t.targets == (absent,) for t in data.triplets)
    expected = {"images": [absent], "triplets": data.counts()[category][1], "triplets lost": lost}
    assert found["missing"][kind.splits[-1]][category] == expected
    assert found["check"]["missing"] == [absent]
    assert "1 missing image costs" in output and "not complete" in output


def test_annotations_from_a_zip_of_the_repository(small, tmp_path):
    root = small.root(tmp_path)
    with zipfile.ZipFile(tmp_path / "repository.zip", "w") as z:
        for a in small.source.annotations:
            z.write(small.drawn / a.path, f"repository-master/files/{a.path}")
        z.writestr("repository-master/README.md", "read me")
        z.writestr("repository-master/requirements.txt", "torch")
        z.writestr("repository-master/other/requirements.txt", "torch")
    assert small.prepare(root, "--annotations", tmp_path / "repository.zip", "--no-read") == 1
    assert len(report(root)["done"]["annotations taken"]) == len(small.source.annotations)
    assert sorted(p.name for p in root.rglob("requirements.txt")) == []


def test_dead_addresses_and_wrong_contents(small, tmp_path, capsys):
    "The first file is gone, the second is a page, the third has other entries, the others differ only in form."
    root = small.root(tmp_path)
    server = Loopback()
    first, second, third, *rest = small.source.annotations
    contents = {a.path: (small.drawn / a.path).read_bytes() for a in small.source.annotations}
    server[f"/{second.path}"] = reply(b"<html>Sign in", Content_Type="text/html")
    server[f"/{third.path}"] = reply(b'["a"]' if third.path.endswith("json") else b"a\n")
    for a in rest:
        server[f"/{a.path}"] = reply(contents[a.path] + b"\n")
    annotations = tuple(replace(a, url=f"{server.url}/{a.path}") for a in small.source.annotations)
    source = replace(small.source, annotations=annotations)
    assert small.prepare(root, "--fetch", "--no-read", source=source) == 1
    output = capsys.readouterr().out
    found = report(root)
    server.close()
    failed = found["not fetched"]["annotations"]
    assert "status 404" in failed[first.path]
    assert "content type text/html" in failed[second.path]
    assert "broken: 1 entry" in failed[third.path]
    assert all(reason in output for reason in failed.values())
    assert verdicts(root, first, second, third) == ["missing"] * 3
    assert set(verdicts(root, *rest)) <= {"differs from the known copy but has the published number of entries"}
    assert small.prepare(root, "--fetch", "--no-read") == 1  # the addresses work again
    assert verdicts(root, first, second, third) == [KNOWN] * 3


def test_a_broken_file_in_the_folder_is_reported_and_kept(small, tmp_path, capsys):
    root = small.root(tmp_path)
    a = small.source.annotations[0]
    (root / a.path).parent.mkdir(exist_ok=True, parents=True)
    (root / a.path).write_bytes(b"[1")
    assert small.prepare(root, "--annotations", small.drawn, "--fetch", "--images", small.pack(tmp_path)) == 1
    output = capsys.readouterr().out
    assert (root / a.path).read_bytes() == b"[1" and f"{a.path}: broken" in output and "delete it" in output
    (tmp_path / "given").mkdir()
    (root / a.path).rename(tmp_path / "given" / Path(a.path).name)
    assert small.prepare(root, "--annotations", tmp_path / "given", "--no-read") == 1
    assert f"{a.path}: not copied from" in capsys.readouterr().out and not (root / a.path).exists()
    assert small.prepare(root, "--fetch") == 0


# FashionIQ's images, one by one


def lists(small: Small, folder: Path, without: str = "") -> Source:
    "The source with lists of addresses on the server, which also serves the images."
    urls = []
    for a in small.source.url_lists:
        category = a.path.split(".")[-2]
        names = set()
        for split in ("train", "val", "test"):
            file = small.drawn / f"image_splits/split.{category}.{split}.json"
            names.update(json.loads(file.read_text()))
        text = "".join(f"{n} \t {small.server.url}/I/{n}.jpg\n" for n in sorted(names) if n != without)
        small.server[f"/{a.path}"] = reply(text.encode(), Content_Type="text/plain")
        urls.append(replace(a, url=f"{small.server.url}/{a.path}"))
    for number, photo in enumerate(small.photos):
        small.server[f"/I/{photo.stem}.jpg"] = reply(picture(number), Content_Type="image/jpeg")
    return replace(small.source, url_lists=tuple(urls))


def unreported(root: Path) -> dict[Path, tuple]:
    "The snapshot without the report."
    return {path: state for path, state in snapshot(root).items() if path.name != "prepare.json"}


def test_fashioniq_image_by_image(fashioniq, tmp_path, capsys):
    names = [p.stem for p in fashioniq.photos]
    source = lists(fashioniq, tmp_path, without=names[3])
    root = fashioniq.root(tmp_path)
    fashioniq.server[f"/I/{names[0]}.jpg"] = reply(status=404)
    fashioniq.server[f"/I/{names[1]}.jpg"] = reply(picture()[:200], Content_Type="image/jpeg")
    fashioniq.server[f"/I/{names[2]}.jpg"] = [reply(status=500), reply(picture(), Content_Type="image/jpeg")]
    (root / "resized_image").mkdir()
    shutil.copy(fashioniq.photos[4], root / "resized_image")
    assert fashioniq.prepare(root, "--fetch", "--fetch-images", source=source) == 1
    found = report(root)
    output = capsys.readouterr().out
    assert found["not fetched"]["images"] == {
        "gone": [names[0]],
        "no address": [names[3]],
        "picture cut off or damaged": [names[1]],
    }
    assert found["done"]["images fetched"] == len(names) - 4
    assert sorted(found["check"]["missing"]) == [names[0], names[1], names[3]]
    assert f"{len(names) - 4} images fetched" in output
    assert f"/I/{names[4]}.jpg" not in fashioniq.server.count()
    before = unreported(root)
    asked = len(fashioniq.server.asked)
    assert fashioniq.prepare(root, "--fetch", "--fetch-images", source=source) == 1
    assert {r.path for r in fashioniq.server.asked[asked:]} == {f"/I/{names[1]}.jpg"}  # not the one that is gone
    assert unreported(root) == before
    assert report(root)["done"] == found["done"]
    for number in range(2):
        fashioniq.server[f"/I/{names[number]}.jpg"] = reply(picture(number), Content_Type="image/jpeg")
    assert fashioniq.prepare(root, "--fetch-images", "--retry-gone", source=source) == 1
    shutil.copy(fashioniq.photos[3], root / "images")
    assert fashioniq.prepare(root, "--fetch-images", source=source) == 0


def test_fashioniq_wrong_or_missing_lists(fashioniq, tmp_path, capsys):
    root = fashioniq.root(tmp_path)
    first = fashioniq.source.url_lists[0]
    dead = replace(fashioniq.source, url_lists=(replace(first, url=f"{fashioniq.server.url}/none"),))
    assert fashioniq.prepare(root, "--fetch-images", source=dead) == 1
    assert "there is no annotation file" in capsys.readouterr().out
    assert fashioniq.prepare(root, "--fetch", "--fetch-images", source=dead) == 1
    assert "there is no list of addresses" in capsys.readouterr().out
    (root / first.path).parent.mkdir()
    (root / first.path).write_text("B01 http://a.example/1.jpg\nB02 nowhere\n")
    with pytest.raises(SystemExit) as stopped:
        fashioniq.prepare(root, "--fetch-images", source=dead)
    error = capsys.readouterr().err
    assert stopped.value.code == 2 and error.count("\n") == 1 and f"{first.path}, line 2" in error


def test_fashioniq_archive_with_a_folder_per_category(fashioniq, tmp_path):
    root = fashioniq.root(tmp_path)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as z:
        for photo in fashioniq.photos:
            for category in ("shirt", "toptee"):
                z.write(photo, f"{category}/{photo.name}")
    assert fashioniq.prepare(root, "--fetch", "--images", tmp_path / "a.zip") == 0
    assert len(list((root / "images").iterdir())) == len(fashioniq.photos)


# a product table


def test_a_catalogue_from_a_tar_file(tmp_path, capsys):
    colours = ("Red", "Blue", "Green")
    kinds = ("Shirts", "Dresses")
    rows = [f"{i},{colours[i % 3]},{kinds[i // 3 % 2]}" for i in range(60)]
    (tmp_path / "shop.csv").write_text("\n".join(["id,colour,kind", *rows]) + "\n")
    with tarfile.open(tmp_path / "photos.tgz", "w:gz") as t:
        for i in range(60):
            (tmp_path / f"{i}.jpg").write_bytes(picture(i))
            t.add(tmp_path / f"{i}.jpg", f"photos/{i}.jpg")
    argv = ["--table", tmp_path / "shop.csv", "--images", tmp_path / "photos.tgz", "--root", tmp_path / "data"]
    argv += ["--name-column", "", "--attributes", "colour", "kind", "--where", "--train", "rest", "--val", "0.3"]
    first = script("catalogue", *argv)
    assert first.returncode == 0, first.stderr
    for words in ("Everything is there.", "60 images, 60 unpacked now", "create_dataset('folder'"):
        assert words in first.stdout
    found = report(tmp_path / "data")
    before = snapshot(tmp_path / "data")
    assert found["complete"] and found["dataset"] == "folder"
    assert {r["split"] for r in found["check"]["rows"]} == {"train", "val"}
    assert script("catalogue", *argv).returncode == 0 and snapshot(tmp_path / "data") == before


# wrong input, hostile archives, and the scripts themselves


def script(name: str, *argv) -> subprocess.CompletedProcess:
    command = [sys.executable, str(SCRIPTS / name / "prepare.py"), *map(str, argv)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_wrong_input_gives_one_line_and_status_2(small, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    evil = tmp_path / "evil.zip"
    with zipfile.ZipFile(evil, "w") as z:
        z.writestr("../evil.png", "x")
    for argv, word in (
        (("--annotations", tmp_path / "none"), "Check --annotations"),
        (("--annotations", tmp_path / "file"), "cannot be unpacked"),
        (("--images", tmp_path / "none.zip"), "No such file"),
        (("--images", evil), "outside its folder"),
        (("--images", small.pack(tmp_path), "--max-gb", "1e-6"), "Allow more with --max-gb"),
        (("--workers", "0"), "--workers 0 must be greater than 0"),
        (("--max-gb", "nan"), "--max-gb nan must be greater than 0"),
        (("--root", tmp_path / "file"), "cannot be created"),
    ):
        with pytest.raises(SystemExit) as stopped:
            small.prepare(tmp_path / "root", *argv)
        lines = capsys.readouterr().err.strip().splitlines()
        assert stopped.value.code == 2 and word in lines[-1] and lines[-1].startswith("error: "), lines
    assert not [p for p in (tmp_path / "root").rglob("*") if p.is_file()] and not (tmp_path / "evil.png").exists()


@pytest.mark.parametrize(
    "name, wrong, right", [("shoes", "--no-raed", "--no-read"), ("catalogue", "--tabel", "--table")]
)
def test_a_misspelt_flag_gets_near_names(name, wrong, right):
    said = script(name, wrong, "x")
    assert said.returncode == 2 and f"There is no flag named '{wrong}'. Did you mean '{right}'" in said.stderr


def test_two_different_copies_are_an_error(fashioniq, tmp_path, capsys):
    a = fashioniq.source.annotations[0]
    for folder in ("one", "two"):
        (tmp_path / "given" / folder).mkdir(parents=True)
        (tmp_path / "given" / folder / Path(a.path).name).write_text(f'["{folder}"]')
    with pytest.raises(SystemExit):
        fashioniq.prepare(tmp_path / "root", "--annotations", tmp_path / "given")
    assert "two different files" in capsys.readouterr().err


@pytest.mark.parametrize("name", NAMES)
def test_the_script_itself(name, tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped:
        prepare_dataset(source_of(name), "about", ["--help"])
    shown = capsys.readouterr().out
    assert stopped.value.code == 0
    for words in ("about", "--annotations", "--fetch", "--images", "--max-gb", "--no-read"):
        assert words in shown
    assert ("--fetch-images" in shown) == (name == "fashioniq")
    wrong = script(name, "--root", tmp_path, "--annotations", tmp_path / "none")
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    assert "Traceback" not in wrong.stderr and not wrong.stdout
    empty = script(name, "--root", tmp_path / "empty")
    assert empty.returncode == 1 and "cannot be loaded" in empty.stdout
    assert report(tmp_path / "empty")["complete"] is False


@pytest.mark.parametrize("name", NAMES)
def test_the_sources_and_their_readme(name):
    source = source_of(name)
    readme = (SCRIPTS / name / "README.md").read_text()
    files = source.annotations + source.url_lists
    assert source.name == name and len({a.path for a in source.annotations}) == len(source.annotations)
    assert all(a.url.startswith("https://") or name == "fashion200k" and not a.url for a in files)
    assert all(len(a.sha256) in (0, 64) for a in source.annotations)
    assert len(readme.splitlines()) < 80 and "--annotations" in readme and "licen" in readme.lower()
    assert all(Path(a.path).parent.as_posix() in readme for a in files)


def test_all_readmes_have_one_shape():
    shape = ["Where it comes from", "Licence", "Layout", "Commands", "Checks"]
    readmes = sorted(script.with_name("README.md") for script in SCRIPTS.glob("*/prepare.py"))
    assert len(readmes) == 5
    for readme in readmes:
        headings = [line.removeprefix("## ") for line in readme.read_text().splitlines() if line.startswith("## ")]
        assert headings == shape, readme


@pytest.mark.parametrize("name, known", [("fashioniq", 18), ("shoes", 3), ("cirr", 5)])
def test_real_annotation_files_are_known(name, known, shared, tmp_path, capsys):
    assert script(name, "--root", tmp_path, "--annotations", shared / "annotations" / name).returncode == 1
    found = report(tmp_path)
    results = [a["verdict"] for a in found["annotations"].values()]
    assert results.count(KNOWN) == known == len(results) - results.count("missing")
    for row in found["check"]["rows"]:
        assert row["expected"] == {"images": row["images"], "triplets": row["triplets"]}
    total = {"fashioniq": 74_381, "shoes": 14_658, "cirr": 4_612}[name]
    assert len(found["check"]["missing"]) == total
