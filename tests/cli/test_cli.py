"Mistakes that a user can make: each ends with one error message and exit status 2."

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

import fashionern
from fashionern.cli import ablate as ern_ablate
from fashionern.cli import compare as ern_compare
from fashionern.cli import data as ern_data
from fashionern.cli import evaluate as ern_evaluate
from fashionern.cli import methods as ern_methods
from fashionern.cli import models as ern_models
from fashionern.cli import train as ern_train
from fashionern.data.drawn.garments import draw_fashioniq
from fashionern.files import RECORDS, locked
from fashionern.models.hub import Retriever
from fashionern.training.record import RunRecord


@pytest.fixture
def garments(tmp_path) -> Path:
    "A small drawn dataset that a test may damage."
    draw_fashioniq(tmp_path / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    return tmp_path / "data"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    "A folder with a drawn dataset and a finished run of the demo preset on it."
    folder = tmp_path_factory.mktemp("finished")
    draw_fashioniq(folder / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", ["ern_train", *flags(folder / "data", folder / "run")])
        ern_train.main()
    return folder


def flags(root: Path, run: Path, *more: str) -> list[str]:
    short = ["--warmup-epochs", "1", "--tme-epochs", "1", "--num-epochs", "1", "--device", "cpu", "--num-workers", "0"]
    return ["--preset", "demo", "--root", str(root), "--run-dir", str(run), *short, *more]


@pytest.fixture
def error_of(monkeypatch, capsys):
    "Runs a command and returns its error: one message on stderr, with exit status 2."

    def run(command, *args) -> str:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", [command.__name__, *map(str, args)])
        with pytest.raises(SystemExit) as end:
            command()
        assert end.value.code == 2
        errors = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
        assert len(errors) == 1, errors
        return errors[0]

    return run


def test_missing_dataset_folder(error_of, tmp_path):
    message = error_of(ern_train.main, *flags(tmp_path / "nowhere", tmp_path / "run"))
    assert str(tmp_path / "nowhere") in message and "captions/" in message
    assert not (tmp_path / "run").exists(), "no folder is left behind"


def test_annotation_with_a_missing_key(error_of, garments, tmp_path):
    file = garments / "captions" / "cap.shirt.train.json"
    entries = json.loads(file.read_text())
    del entries[4]["captions"]
    file.write_text(json.dumps(entries))
    message = error_of(ern_train.main, *flags(garments, tmp_path / "run"))
    assert "cap.shirt.train.json, entry 5" in message and "'captions'" in message


@pytest.mark.parametrize("workers", [0, 2])
def test_truncated_image(error_of, garments, tmp_path, workers):
    victim = sorted((garments / "images").iterdir())[30]
    victim.write_bytes(victim.read_bytes()[:200])
    (garments / "descriptions.json").unlink()
    args = flags(garments, tmp_path / "run", "--stages", "tme", "dvr", "--num-workers", workers)
    message = error_of(ern_train.main, *args)
    assert str(victim) in message and "truncated" in message


def test_missing_images(error_of, garments, tmp_path):
    gone = []
    for category in ("dress", "shirt"):
        gallery = json.loads((garments / "image_splits" / f"split.{category}.val.json").read_text())
        gone += gallery[:2]
    for name in gone:
        (garments / "images" / f"{name}.png").unlink()
    message = error_of(ern_train.main, *flags(garments, tmp_path / "run"))
    assert "4 of 36 images" in message and "--missing drop" in message
    assert all(name in message for name in sorted(gone)[:3])


@pytest.mark.parametrize(
    ("more", "words"),
    [
        (["--model", "fashionrn"], ["model", "'fashionern'"]),
        (["--compare", "combner"], ["model", "'combiner'"]),
        (["--clip-model-name", "RN50x5"], ["CLIP model", "'RN50x"]),
        (["--batch-size", "0"], ["--batch-size 0"]),
        (["--protocol", "fashioniq-orginal"], ["protocol", "'fashioniq-original'"]),
        (["--dataset", "fashionqi"], ["dataset", "'fashioniq'"]),
        (["--stages", "dvr", "--model", "fashionern-published"], ["TME", "--clip-path"]),
        (["--device", "gpu"], ["--device gpu", "cpu"]),
        (["--device", "meta"], ["--device meta", "cpu"]),
        (["--device", "hpu"], ["--device hpu", "cpu"]),
        (["--device", "mps:7"], ["--device mps:7", "GPU"]),
        (["--device", "xpu:7"], ["--device xpu:7", "GPU"]),
        (["--device", "cuda:99"], ["--device cuda:99", "GPU"]),
        (["--seed", str(10**23)], ["--seed 1000", "4294967295"]),
        (["--seed", "-1"], ["--seed -1"]),
        (["--batch-size", "1"], ["--batch-size", "fashionern", "norm=layer"]),
        (["--tme-batch-size", "1"], ["--tme-batch-size 1", "negatives"]),
        (["--amp", "fp16"], ["--amp fp16"]),
        (["--clip-path", "none.safetensors"], ["none.safetensors", "--clip-path"]),
    ],
)  # fmt: skip
def test_wrong_flags(error_of, garments, tmp_path, more, words):
    message = error_of(ern_train.main, *flags(garments, tmp_path / "run", *more))
    assert all(w in message for w in words), message


def test_the_default_folder_is_that_of_the_dataset(error_of, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    message = error_of(ern_train.main, "--dataset", "shoes")
    assert "data/shoes" in message and "--root" in message and "fashioniq" not in message


def test_unknown_preset(error_of):
    assert "'fashioniq-rn50x4'" in error_of(ern_train.main, "--preset", "fashioniq-rn50")


def test_a_checkpoint_of_another_model(error_of, finished, tmp_path):
    other = finished / "run" / "models" / "combiner" / "best.safetensors"
    message = error_of(ern_train.main, *flags(finished / "data", tmp_path / "run", "--fusion-model-path", str(other)))
    assert str(other) in message and "'combiner'" in message
    message = error_of(ern_train.main, *flags(finished / "data", tmp_path / "b", "--clip-path", str(other)))
    assert str(other) in message and "another model" in message
    clip = finished / "run" / "encoders.safetensors"
    weights = ["--models", "fashionern", "--fusion-model-path", clip]
    message = error_of(ern_evaluate.main, "--run-dir", finished / "run", *weights)
    assert str(clip) in message and "another model" in message


def test_a_run_is_not_overwritten(error_of, finished):
    before = (finished / "run" / "results.json").read_bytes()
    assert "--resume" in error_of(ern_train.main, *flags(finished / "data", finished / "run"))
    message = error_of(ern_train.main, *flags(finished / "data", finished / "run", "--resume", "--lr", "0.5"))
    assert "--lr" in message and (finished / "run" / "results.json").read_bytes() == before


@pytest.mark.parametrize("command", [ern_train.main, ern_methods.main])
def test_a_run_folder_in_use_is_refused(error_of, garments, tmp_path, command):
    with locked(tmp_path / "run", ""):
        message = error_of(command, *flags(garments, tmp_path / "run"))
    assert f"{tmp_path / 'run'} is in use by" in message and "--run-dir" in message
    assert not (tmp_path / "run" / "config.json").exists()


def test_from_pretrained_opens_a_runs_folder(finished):
    retriever = Retriever.from_pretrained(finished / "run")
    assert retriever.model.name == RunRecord.read(finished / "run").model and not retriever.training
    assert retriever.about["data"].startswith("drawn garments in the layout of fashioniq, split train")
    assert retriever.encode_targets(Image.new("RGB", (60, 80), "red")).shape == (1, retriever.encoders.clip.dim)


def test_missing_images_are_reported_in_the_results(error_of, monkeypatch, capsys, finished, tmp_path):
    names = json.loads((finished / "data" / "image_splits" / "split.dress.val.json").read_text())
    part = tmp_path / "part"
    (part / "images").mkdir(parents=True)
    for folder in ("captions", "image_splits"):
        (part / folder).symlink_to(finished / "data" / folder)
    for path in (finished / "data" / "images").iterdir():
        if path.stem not in names[:3]:
            (part / "images" / path.name).symlink_to(path)
    common = ["ern_eval", "--run-dir", str(finished / "run"), "--root", str(part)]
    common += ["--device", "cpu", "--out", str(tmp_path)]
    assert "3 of 36 images" in error_of(ern_evaluate.main, *common[1:])
    monkeypatch.setattr(sys, "argv", [*common, "--missing", "drop"])
    ern_evaluate.main()
    result = json.loads((tmp_path / "results.val.json").read_text())[0]
    found = result["found"]
    dress = result["counts"]["dress"]
    printed = " ".join(capsys.readouterr().out.split())
    assert (found["images"], found["images_expected"]) == (33, 36)
    assert found["queries"] < found["queries_expected"] == 30
    assert dress["queries"] < dress["queries_expected"] == 10
    assert (dress["gallery"], dress["gallery_expected"]) == (9, 12)
    assert f"dress: queries {dress['queries']} of 10, gallery 9 of 12" in printed
    assert "IMAGES ARE MISSING: 33 of 36 are available" in printed


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
def test_wrong_flags_of_ern_data(error_of, monkeypatch, tmp_path, args, words):
    monkeypatch.chdir(tmp_path)
    message = error_of(ern_data.main, *args)
    assert all(w in message for w in words), message
    assert not list(tmp_path.iterdir())


def test_drawing_into_a_folder_with_other_files(error_of, garments):
    message = error_of(ern_data.main, "draw", "--dataset", "cirr", "--root", garments)
    assert str(garments) in message and "other parameters" in message
    (garments / "garments.json").unlink()
    assert "not empty" in error_of(ern_data.main, "draw", "--dataset", "cirr", "--root", garments)


def test_check_of_an_empty_folder_lists_what_is_missing(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(sys, "argv", ["ern_data", "check", "--dataset", "cirr", "--root", str(tmp_path)])
    with pytest.raises(SystemExit) as end:
        ern_data.main()
    printed = " ".join(capsys.readouterr().out.split())
    assert end.value.code == 1
    assert all(f"{split} cannot be loaded" in printed for split in ("train", "val", "test1"))
    assert "captions" in printed


def test_rankings_that_cannot_be_compared(error_of, monkeypatch, finished, tmp_path):
    common = ["ern_eval", "--run-dir", str(finished / "run"), "--models", "sum", "--device", "cpu"]
    common += ["--out", str(tmp_path), "--save-rankings"]
    monkeypatch.setattr(sys, "argv", [*common, "--protocol", "fashioniq-val", "fashioniq-original"])
    ern_evaluate.main()
    one, other = (tmp_path / f"rankings.val.{p}.sum.jsonl" for p in ("fashioniq-val", "fashioniq-original"))
    assert "one protocol" in error_of(ern_compare.main, one, other)
    assert "nothing.jsonl" in error_of(ern_compare.main, one, tmp_path / "nothing.jsonl")
    assert "--k 0" in error_of(ern_compare.main, one, one, "--k", "0")
    (tmp_path / "cut.jsonl").write_text(one.read_text()[:-40])
    assert "cut.jsonl, line 30" in error_of(ern_compare.main, tmp_path / "cut.jsonl", one)


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
def test_wrong_flags_of_ern_eval(error_of, finished, tmp_path, more, words):
    message = error_of(ern_evaluate.main, "--run-dir", finished / "run", "--device", "cpu", "--out", tmp_path, *more)
    assert all(w in message for w in words), message
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("content", ["[]", "{}", '{"compare": null}', "[" * 100_000])
def test_a_damaged_config_file_of_a_run(error_of, tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    assert "config.json" in error_of(ern_evaluate.main, "--run-dir", tmp_path)


def test_output_paths_that_cannot_be_written(error_of, finished, tmp_path):
    (tmp_path / "file").write_text("")
    message = error_of(ern_evaluate.main, "--run-dir", finished / "run", "--device", "cpu", "--out", tmp_path / "file")
    assert str(tmp_path / "file") in message and "another location" in message
    check = ["check", "--dataset", "fashioniq", "--root", finished / "data", "--out", tmp_path]
    assert "is a folder" in error_of(ern_data.main, *check)


def test_brackets_in_names_are_not_markup(monkeypatch, capsys, garments, tmp_path):
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
        (["--seeds", str(10**23)], "--seeds 1000"),
        (["--methods", "dvr", "--batch-size", "1"], "--batch-size"),
        (["--loss", "triplets"], "triplet"),
        (["--loss-scale", "0"], "--loss-scale"),
        (["--stages", "warmup"], "--stages"),
        (["--tme-layers", "2"], "layer 2"),
        (["--tme-branches", "--methods", "fashionern-published"], "--tme-branches"),
    ],
)
def test_wrong_flags_of_ern_methods(error_of, garments, tmp_path, more, words):
    sizes = ["--warmup-batch-size", "20", "--tme-batch-size", "20"]
    assert words in error_of(ern_methods.main, *flags(garments, tmp_path / "run"), *sizes, *more)


def test_unknown_row_of_ern_ablate(error_of, garments, tmp_path):
    assert "less TME" in error_of(ern_ablate.main, *flags(garments, tmp_path / "run"), "--rows", "less TEM")


def test_unknown_clip_model_of_ern_models(error_of):
    assert "RN50x4" in error_of(ern_models.main, "--clip-model-name", "RN50x")


@pytest.mark.parametrize("name, words", [("coca_ViT-B-32", "CLIP alone"), ("mt5-base-ViT-B-32", "n/a for this tower")])
def test_ern_models_on_other_text_towers(name, words, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["ern_models", "--clip-model-name", name])
    ern_models.main()
    assert words in capsys.readouterr().out


def test_ern_models_lists_every_model(monkeypatch, capsys):
    from fashionern.models.registry import list_models

    monkeypatch.setenv("COLUMNS", "150")
    monkeypatch.setattr(sys, "argv", ["ern_models", "--clip-model-name", "ern-tiny"])
    ern_models.main()
    printed = capsys.readouterr().out
    assert all(f"│ {name} " in printed for name in list_models()) and "CLIP alone" in printed
    rows = [line.split("│") for line in printed.splitlines()]
    sources = {row[1].strip(): row[2].strip() for row in rows if len(row) == 8}
    assert sources["combiner"] == "published" and sources["tirg"] == "after Vo 2019" and sources["vtf"] == "ours"
    assert "context length 28 tokens; image size 64 px; padding to a square, white" in " ".join(printed.split())


TRAINING = ("train", "evaluate", "compare", "methods", "ablate")
COMMANDS = (*TRAINING, "models", "data", "index", "search", "app", "demo", "shop")


@pytest.mark.parametrize("name", COMMANDS)
def test_a_closed_pipe_is_not_an_error(name):
    "`ern_ablate --help | head`, with the pipe closed before anything is written."
    program = f"import sys; from fashionern.cli.{name} import main; sys.argv = ['ern', '--help']; main()"
    reading, writing = os.pipe()
    os.close(reading)
    ended = subprocess.run([sys.executable, "-c", program], stdout=writing, stderr=subprocess.PIPE, text=True)
    os.close(writing)
    assert ended.stderr == "" and ended.returncode in (0, 1, 141)  # rich prints the help: 1, or 0 in older versions


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a file that is always full")
def test_output_that_cannot_be_written():
    program = "import sys; from fashionern.cli.data import main; sys.argv = ['ern_data', '--version']; main()"
    with open("/dev/full", "w") as full:
        ended = subprocess.run([sys.executable, "-c", program], stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "error: standard output cannot be written (No space left on device).\n"
    shell = '"$0" -c "$1" >&- 2>&-'
    assert subprocess.run(["bash", "-c", shell, sys.executable, program]).returncode == 0


def test_the_flag_that_torch_distributed_launch_adds(monkeypatch, capsys):
    monkeypatch.setenv("LOCAL_RANK", "0")
    for flag in ("--local-rank=0", "--local_rank=0"):
        monkeypatch.setattr(sys, "argv", ["ern_data", flag, "--version"])
        ern_data.main()
        assert fashionern.__version__ in capsys.readouterr().out


def without_torch(command: str, *arguments: str) -> subprocess.CompletedProcess:
    "Run a command in its own process, which fails if torch is imported."
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
def test_help_and_version_do_not_import_torch(command):
    shown = without_torch(command, "--help")
    assert shown.returncode == 0 and "usage" in shown.stdout, shown.stderr
    assert without_torch(command, "--version").stdout == f"ern {fashionern.__version__}\n"


@pytest.mark.parametrize(
    "command, arguments",
    [
        ("search", ["--index", "shop", "--text", "red"]),
        ("app", ["--index", "shop"]),
        ("shop", ["--table", "shop.csv", "--images", "photos"]),
        ("evaluate", ["--run-dir", "shop"]),
        ("index", ["build", "--images", "photos", "--model", "runs/shop", "--out", "shop"]),
        ("index", ["build", "--images", ".", "--encoder", "ern-tiny", "--clip-path", "no.pt", "--out", "shop"]),
        ("index", ["info", "--index", "shop"]),
        ("index", ["build", "--images", ".", "--model", "/no/such/run", "--out", "shop"]),
        ("index", ["build", "--images", ".", "--encoder", "local-dir:no-such-folder", "--out", "shop"]),
        ("index", ["update", "--images", ".", "--index", "shop"]),
        ("train", ["--root", "nowhere"]),
        ("train", ["--root", "nowhere", "--dataset", "shoes"]),
        ("train", ["--clip-path", "no.pt"]),
        ("train", ["--fusion-model-path", "no.pt"]),
        ("train", ["--clip-model-name", "local-dir:no-such-folder"]),
        ("methods", ["--root", "nowhere"]),
        ("ablate", ["--root", "nowhere"]),
        ("evaluate", ["--root", "nowhere", "--models", "sum"]),
        ("evaluate", ["--root", ".", "--models", "sum", "--clip-path", "no.pt"]),
        ("evaluate", ["--root", ".", "--models", "sum", "--fusion-model-path", "no.pt"]),
        ("compare", ["no.jsonl", "no.jsonl"]),
        ("models", ["--clip-model-name", "local-dir:no-such-folder"]),
        ("data", ["check", "--dataset", "fashioniq", "--root", "nowhere"]),
    ],
)
def test_a_mistyped_path_is_reported_before_torch_is_imported(command, arguments):
    refused = without_torch(command, *arguments)
    assert refused.returncode == 2 and refused.stderr.startswith("error: There is no "), refused.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["--image", "no.jpg"],
        ["--queries", "no.jsonl"],
        ["--queries", "of-a-missing-image.jsonl"],
        ["--queries", "malformed.jsonl"],
        ["--text", "red", "--where", "price <"],
        ["--text", "red", "--model", "/no/such/run"],
    ],
)
def test_a_wrong_query_is_reported_before_torch_is_imported(arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "shop").mkdir()
    (tmp_path / "shop" / RECORDS).touch()
    (tmp_path / "of-a-missing-image.jsonl").write_text('{"image": "no.jpg"}')
    (tmp_path / "malformed.jsonl").write_text("{")
    refused = without_torch("search", "--index", "shop", *arguments)
    assert refused.returncode == 2 and refused.stderr.count("error: ") == 1, refused.stderr
