"What a user can get wrong: one sentence that names it, and a status that is not zero."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import fashionern
from fashionern.cli import ablate as ern_ablate
from fashionern.cli import compare as ern_compare
from fashionern.cli import data as ern_data
from fashionern.cli import evaluate as ern_evaluate
from fashionern.cli import methods as ern_methods
from fashionern.cli import models as ern_models
from fashionern.cli import train as ern_train
from fashionern.data.drawn.garments import draw_fashioniq


@pytest.fixture
def garments(tmp_path) -> Path:
    "A small drawn dataset that a test may damage."
    draw_fashioniq(tmp_path / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    "A folder with a finished run of the demo's preset on a small drawn dataset."
    folder = tmp_path_factory.mktemp("finished")
    draw_fashioniq(folder / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ern_train", *flags(folder / "data", folder / "run")])
        ern_train.main()
    return folder


def flags(root: Path, run: Path, *more: str) -> list[str]:
    short = ["--warmup-epochs", "1", "--tme-epochs", "1", "--num-epochs", "1", "--device", "cpu", "--num-workers", "0"]
    return ["--preset", "demo", "--root", str(root), "--run-dir", str(run), *short, *more]


def sentence(monkeypatch, capsys, command, *args) -> str:
    "What the command says on its way out, which must be one line and status 2."
    capsys.readouterr()
    monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, args)])
    with pytest.raises(SystemExit) as end:
        command()
    assert end.value.code == 2
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(said) == 1, said
    return said[0]


def test_no_such_dataset_folder(monkeypatch, capsys, tmp_path):
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(tmp_path / "nowhere", tmp_path / "run"))
    assert str(tmp_path / "nowhere") in said and "captions/" in said
    assert not (tmp_path / "run").exists(), "nothing is left behind"


def test_annotation_with_a_missing_key(monkeypatch, capsys, garments, tmp_path):
    file = garments / "captions" / "cap.shirt.train.json"
    entries = json.loads(file.read_text())
    del entries[4]["captions"]
    file.write_text(json.dumps(entries))
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(garments, tmp_path / "run"))
    assert "cap.shirt.train.json, entry 5" in said and "'captions'" in said


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_image(monkeypatch, capsys, garments, tmp_path, workers):
    victim = sorted((garments / "images").iterdir())[30]
    victim.write_bytes(victim.read_bytes()[:200])
    (garments / "descriptions.json").unlink()
    args = flags(garments, tmp_path / "run", "--stages", "tme", "dvr", "--num-workers", workers)
    assert str(victim) in (said := sentence(monkeypatch, capsys, ern_train.main, *args)) and "truncated" in said


def test_image_missing(monkeypatch, capsys, garments, tmp_path):
    gone = [n for c in ("dress", "shirt") for n in json.loads((garments / "image_splits" / f"split.{c}.val.json").read_text())[:2]]
    for name in gone:
        (garments / "images" / f"{name}.png").unlink()
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(garments, tmp_path / "run"))
    assert "4 of 36 images" in said and all(n in said for n in sorted(gone)[:3]) and "--missing drop" in said


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "fashionrn"], ["model", "'fashionern'"]),
        (["--compare", "combner"], ["model", "'combiner'"]),
        (["--clip-model-name", "RN50x5"], ["CLIP model", "'RN50x"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--protocol", "fashioniq-orginal"], ["protocol", "'fashioniq-original'"]),
        (["--dataset", "fashionqi"], ["dataset", "'fashioniq'"]),
        (["--stages", "dvr"], ["TME", "--clip-path"]),
        (["--device", "gpu"], ["--device gpu", "cpu"]),
        (["--amp", "fp16"], ["--amp fp16"]),
        (["--clip-path", "none.safetensors"], ["none.safetensors", "--clip-path"]),
    ],
)  # fmt: skip
def test_wrong_flags(monkeypatch, capsys, garments, tmp_path, more, words):
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(garments, tmp_path / "run", *more))
    assert all(w in said for w in words), said


def test_unknown_preset(monkeypatch, capsys):
    assert "'fashioniq-rn50x4'" in sentence(monkeypatch, capsys, ern_train.main, "--preset", "fashioniq-rn50")


def test_a_checkpoint_of_another_model(monkeypatch, capsys, finished, tmp_path):
    other = finished / "run" / "models" / "combiner" / "best.safetensors"
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(finished / "data", tmp_path / "run", "--fusion-model-path", str(other)))
    assert str(other) in said and "'combiner'" in said
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(finished / "data", tmp_path / "b", "--clip-path", str(other)))
    assert str(other) in said and "another model" in said
    clip = finished / "run" / "encoders.safetensors"
    said = sentence(monkeypatch, capsys, ern_evaluate.main, "--run-dir", finished / "run", "--models", "fashionern", "--fusion-model-path", clip)
    assert str(clip) in said and "another model" in said


def test_a_run_is_not_overwritten(monkeypatch, capsys, finished):
    before = (finished / "run" / "results.json").read_bytes()
    assert "--resume" in sentence(monkeypatch, capsys, ern_train.main, *flags(finished / "data", finished / "run"))
    said = sentence(monkeypatch, capsys, ern_train.main, *flags(finished / "data", finished / "run", "--resume", "--lr", "0.5"))
    assert "--lr" in said and (finished / "run" / "results.json").read_bytes() == before


def test_missing_images_are_told_in_the_result(monkeypatch, capsys, finished, tmp_path):
    names = json.loads((finished / "data" / "image_splits" / "split.dress.val.json").read_text())
    part = tmp_path / "part"
    (part / "images").mkdir(parents=True)
    for folder in ("captions", "image_splits"):
        (part / folder).symlink_to(finished / "data" / folder)
    for path in (finished / "data" / "images").iterdir():
        if path.stem not in names[:3]:
            (part / "images" / path.name).symlink_to(path)
    common = ["ern_eval", "--run-dir", str(finished / "run"), "--root", str(part), "--device", "cpu", "--out", str(tmp_path)]
    assert "3 of 36 images" in sentence(monkeypatch, capsys, ern_evaluate.main, *common[1:])
    monkeypatch.setattr(sys, "argv", [*common, "--missing", "drop"])
    ern_evaluate.main()
    result = json.loads((tmp_path / "results.val.json").read_text())[0]
    found, dress, said = result["found"], result["counts"]["dress"], " ".join(capsys.readouterr().out.split())
    assert found["images"] == 33 and found["images_expected"] == 36 and found["queries"] < found["queries_expected"] == 30
    assert dress["queries"] < dress["queries_expected"] == 10 and (dress["gallery"], dress["gallery_expected"]) == (9, 12)
    assert f"dress: queries {dress['queries']} of 10, gallery 9 of 12" in said and "IMAGES ARE MISSING: 33 of 36 are there" in said


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (["draw", "--dataset", "cirrr", "--root", "d"], ["'cirr'"]),
        (["draw", "--dataset", "cirr", "--root", "d", "--images", "0"], ["images = 0"]),
        (["draw", "--dataset", "shoes", "--root", "d", "--size", "4"], ["size = 4"]),
        (["draw", "--dataset", "cirr", "--root", "/proc/none"], ["/proc/none/", "cannot be written"]),
        (["check", "--dataset", "cir", "--root", "."], ["dataset", "'cirr'"]),
        (["check", "--dataset", "cirr", "--root", "nowhere"], ["nowhere", "--root"]),
    ],
)  # fmt: skip
def test_wrong_flags_of_ern_data(monkeypatch, capsys, tmp_path, args, words):
    monkeypatch.chdir(tmp_path)
    said = sentence(monkeypatch, capsys, ern_data.main, *args)
    assert all(w in said for w in words), said
    assert not list(tmp_path.iterdir())


def test_drawing_over_something_else(monkeypatch, capsys, garments):
    said = sentence(monkeypatch, capsys, ern_data.main, "draw", "--dataset", "cirr", "--root", garments)
    assert str(garments) in said and "other parameters" in said
    (garments / "garments.json").unlink()
    assert "not empty" in sentence(monkeypatch, capsys, ern_data.main, "draw", "--dataset", "cirr", "--root", garments)


def test_check_of_an_empty_folder_names_what_is_absent(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ern_data", "check", "--dataset", "cirr", "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        ern_data.main()
    said = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 1 and all(f"{s} cannot be loaded" in said for s in ("train", "val", "test1")) and "captions" in said


def test_rankings_that_cannot_be_compared(monkeypatch, capsys, finished, tmp_path):
    common = ["ern_eval", "--run-dir", str(finished / "run"), "--models", "sum", "--device", "cpu", "--out", str(tmp_path), "--save-rankings"]
    monkeypatch.setattr(sys, "argv", [*common, "--protocol", "fashioniq-val", "fashioniq-original"])
    ern_evaluate.main()
    one, other = (tmp_path / f"rankings.val.{p}.sum.jsonl" for p in ("fashioniq-val", "fashioniq-original"))
    assert "one protocol" in sentence(monkeypatch, capsys, ern_compare.main, one, other)
    assert "nothing.jsonl" in sentence(monkeypatch, capsys, ern_compare.main, one, tmp_path / "nothing.jsonl")
    assert "--k 0" in sentence(monkeypatch, capsys, ern_compare.main, one, one, "--k", "0")
    (tmp_path / "cut.jsonl").write_text(one.read_text()[:-40])
    assert "cut.jsonl, line 30" in sentence(monkeypatch, capsys, ern_compare.main, tmp_path / "cut.jsonl", one)


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--protocol", "cirr"], ["'cirr' is for cirr, not for fashioniq", "fashioniq-val-single"]),
        (["--protocol", "fashioniq-val-singel"], ["'fashioniq-val-single'"]),
        (["--split", "test", "--predictions", "--missing", "drop", "--protocol", "shoes"], ["'shoes' is for shoes"]),
        (["--split", "tset"], ["split", "'test'"]),
        (["--top-k", "0"], ["--top-k 0"]),
    ],
)  # fmt: skip
def test_wrong_flags_of_ern_eval(monkeypatch, capsys, finished, tmp_path, more, words):
    said = sentence(monkeypatch, capsys, ern_evaluate.main, "--run-dir", finished / "run", "--device", "cpu", "--out", tmp_path, *more)
    assert all(w in said for w in words), said
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", "{}", '{"compare": null}', "[" * 100_000])
def test_a_damaged_record_of_a_run(monkeypatch, capsys, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in sentence(monkeypatch, capsys, ern_evaluate.main, "--run-dir", tmp_path)


def test_where_nothing_can_be_written(monkeypatch, capsys, finished, tmp_path):
    (tmp_path / "file").write_text("")
    said = sentence(monkeypatch, capsys, ern_evaluate.main, "--run-dir", finished / "run", "--device", "cpu", "--out", tmp_path / "file")
    assert str(tmp_path / "file") in said and "another location" in said
    assert "is a folder" in sentence(monkeypatch, capsys, ern_data.main, "check", "--dataset", "fashioniq", "--root", finished / "data", "--out", tmp_path)


def test_names_with_brackets_are_not_taken_for_colours(monkeypatch, capsys, garments, tmp_path):
    odd = tmp_path / "a[red]b[/b]"
    odd.parent.mkdir()
    garments.rename(odd)
    monkeypatch.setattr(sys, "argv", ["ern_data", "check", "--dataset", "fashioniq", "--root", str(odd)])
    with pytest.raises(SystemExit) as end:
        ern_data.main()
    assert end.value.code == 0 and "a[red]b[/b]" in "".join(capsys.readouterr().out.split())


@pytest.mark.parametrize(
    "more, words",
    [
        (["--methods", "combinr"], "combiner"),
        (["--methods", "combiner@ffn=3"], "ffn"),
        (["--methods", "fashionern@ask=nobody"], "nobody"),
        (["--seeds", "1", "1"], "--seeds"),
        (["--seeds", "1,2"], "--seeds 1 2"),
        (["--loss", "triplets"], "triplet"),
        (["--loss-scale", "0"], "--loss-scale"),
        (["--stages", "warmup"], "--stages"),
        (["--tme-layers", "2"], "layer 2"),
        (["--tme-branches", "--methods", "fashionern"], "--tme-branches"),
    ],
)
def test_wrong_flags_of_ern_methods(monkeypatch, capsys, garments, tmp_path, more, words):
    assert words in sentence(monkeypatch, capsys, ern_methods.main, *flags(garments, tmp_path / "run"), "--warmup-batch-size", "20", "--tme-batch-size", "20", *more)


def test_wrong_row_of_ern_ablate(monkeypatch, capsys, garments, tmp_path):
    assert "less TME" in sentence(monkeypatch, capsys, ern_ablate.main, *flags(garments, tmp_path / "run"), "--rows", "less TEM")


@pytest.mark.parametrize("name, words", [("RN50x", "RN50x4"), ("coca_ViT-B-32", "class token"), ("roberta-ViT-B-32", "Hugging Face")])
def test_a_clip_that_cannot_carry_tme(monkeypatch, capsys, name, words):
    assert words in sentence(monkeypatch, capsys, ern_models.main, "--clip-model-name", name)


def test_ern_models_lists_every_model(monkeypatch, capsys):
    from fashionern.models.registry import list_models

    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "argv", ["ern_models", "--clip-model-name", "ern-tiny"])
    ern_models.main()
    printed = capsys.readouterr().out
    assert all(f"│ {name} " in printed for name in list_models()) and "CLIP alone" in printed


@pytest.mark.parametrize("name", ["train", "evaluate", "compare", "methods", "ablate", "models", "data", "index", "search", "app", "demo"])
def test_a_reader_that_goes_away_is_no_error(name):
    "`ern_ablate --help | head`: the pipe is closed before the first word is written."
    program = f"import sys; from fashionern.cli.{name} import main; sys.argv = ['ern', '--help']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert ended.stderr == "" and ended.returncode in (0, 1, 141)  # rich, which prints the help, says 1, and 0 in older versions


COMMANDS = ("train", "evaluate", "compare", "methods", "ablate", "models", "data", "index", "search", "app", "demo")


def without_torch(command: str, *arguments: str) -> subprocess.CompletedProcess:
    "Run a command in a process of its own; it fails if torch was imported."
    code = f"""import sys
from fashionern.cli.{command} import main
sys.argv = {["ern", *arguments]}
try:
    main()
finally:
    assert "torch" not in sys.modules
"""
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize("command", COMMANDS)
def test_help_and_version_come_without_torch(command):
    shown = without_torch(command, "--help")
    assert shown.returncode == 0 and "usage" in shown.stdout, shown.stderr
    assert without_torch(command, "--version").stdout == f"ern {fashionern.__version__}\n"


@pytest.mark.parametrize(
    "command, arguments",
    [
        ("search", ["--index", "shop", "--text", "red"]),
        ("app", ["--index", "shop"]),
        ("evaluate", ["--run-dir", "shop"]),
        ("index", ["build", "--images", "photos", "--model", "runs/shop", "--out", "shop"]),
        ("index", ["info", "--index", "shop"]),
    ],
)
def test_a_mistyped_path_is_refused_without_torch(command, arguments):
    refused = without_torch(command, *arguments)
    assert refused.returncode == 2 and refused.stderr.startswith("error: There is no "), refused.stderr
