"A composer in a user's own file, outside the package: trained beside the Combiner, ranked again and searched with, by the commands."

import json
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from forked import forked

from fashionern.data.drawn.garments import draw_fashioniq

ROOT = Path(__file__).resolve().parents[2]
FLAGS = [
    "--preset",
    "demo",
    "--root",
    "data",
    "--stages",
    "warmup",
    "dvr",
    "--warmup-epochs",
    "1",
    "--num-epochs",
    "1",
    "--batch-size",
    "20",
    "--warmup-batch-size",
    "20",
    "--num-workers",
    "0",
    "--device",
    "cpu",
]


def tutorial_file(name: str) -> str:
    "The file that the tutorial has its reader write."
    cells = json.loads((ROOT / "nbs" / "../nbs/tutorials/07_extending.ipynb").read_text(encoding="utf-8"))["cells"]
    first = f"%%writefile {name}\n"
    return next(text for c in cells if (text := "".join(c["source"])).startswith(first)).removeprefix(first)


def ern(folder: Path, command: str, *args: str | Path) -> CompletedProcess:
    "One of the commands, in a process of its own, which has registered nothing."
    return forked(folder, f"from fashionern.cli.{command} import main; main()", *args, COLUMNS="200")


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "A folder with the user's file, drawn garments, and a run of the user's composer and the Combiner."
    folder = tmp_path_factory.mktemp("own")
    draw_fashioniq(folder / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    (folder / "my_composer.py").write_text(tutorial_file("my_composer.py"))
    made = ern(folder, "train", *FLAGS, "--run-dir", "run", "--plugin", "my_composer.py", "--model", "spotlight@sharpness=20", "--compare", "combiner")
    assert made.returncode == 0, made.stderr
    return folder


def refused(done: CompletedProcess) -> str:
    "The one sentence a command said before it stopped."
    said = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(said) == 1 and "Traceback" not in done.stderr, done.stderr + done.stdout
    return said[0]


def test_trained_beside_the_combiner(trained):
    results = json.loads((trained / "run" / "results.json").read_text())
    assert [r["model"] for r in results] == ["combiner", "spotlight@sharpness=20"]
    assert json.loads((trained / "run" / "config.json").read_text())["plugin"] == ["my_composer.py"]


def test_ranked_again_from_the_run_folder_a_changed_file_is_told(trained):
    file, ask = trained / "my_composer.py", ["--run-dir", "run", "--plugin", "my_composer.py", "--num-workers", "0", "--device", "cpu"]
    text = file.read_text()
    file.write_text(text + "# another text, though the same code\n")
    done = ern(trained, "evaluate", *ask, "--out", "again")
    file.write_text(text)
    assert done.returncode == 0 and "another text of the plugin my_composer.py" in done.stderr, done.stderr
    again = json.loads((trained / "again" / "results.val.json").read_text())
    assert {r["model"]: r["mean"] for r in again} == {r["model"]: r["mean"] for r in json.loads((trained / "run" / "results.json").read_text())}
    assert all(r["changed_plugins"] == ["my_composer.py"] for r in again), "the figures carry a mark of it"


def test_without_the_file_the_sentence_names_it(trained):
    said = refused(ern(trained, "train", *FLAGS, "--run-dir", "other", "--model", "spotlight"))
    assert "'spotlight'" in said and "--plugin" in said and "my_composer.py" not in said
    for command in (
        ["evaluate", "--run-dir", "run", "--device", "cpu"],
        ["index", "build", "--images", "data/images", "--model", "run", "--out", "never", "--device", "cpu"],
    ):
        said = refused(ern(trained, *command))
        assert "'spotlight'" in said and "--plugin" in said and "my_composer.py" in said, "a run knows which file it was"
    assert not (trained / "never").exists() and not (trained / "other").exists()
    known = ern(trained, "evaluate", "--run-dir", "run", "--models", "combiner", "--out", "known", "--num-workers", "0", "--device", "cpu")
    assert known.returncode == 0, "the other models of the run need no file"


def test_a_file_is_never_run_because_a_folder_names_it(trained):
    record = json.loads((trained / "run" / "config.json").read_text())
    other = trained / "from-elsewhere"
    other.mkdir()
    (other / "bad.py").write_text("open('was_run', 'w')\n")
    (other / "config.json").write_text(json.dumps({**record, "plugin": ["bad.py", str(other / "bad.py")]}))
    (other / "models" / "spotlight").mkdir(parents=True)
    (other / "models" / "spotlight" / "best.safetensors").touch()
    assert "bad.py" in refused(ern(other, "evaluate", "--run-dir", ".", "--device", "cpu"))
    assert not (other / "was_run").exists()


def test_indexed_and_searched(trained):
    built = ern(trained, "index", "build", "--images", "data/images", "--model", "run", "--out", "index", "--device", "cpu", "--plugin", "my_composer.py")
    assert built.returncode == 0, built.stderr
    photo = sorted((trained / "data" / "images").iterdir())[0]
    ask = ["--index", "index", "--image", photo, "--text", "is red", "-k", "3", "--json", "--device", "cpu"]
    assert "my_composer.py" in refused(ern(trained, "search", *ask))
    found = ern(trained, "search", *ask, "--plugin", "my_composer.py")
    assert found.returncode == 0 and len(json.loads(found.stdout)["hits"]) == 3, found.stderr


def test_compared_over_seeds(trained):
    flags = [f for f in FLAGS if f not in ("warmup",)]
    done = ern(
        trained,
        "methods",
        *flags,
        "--clip-path",
        "run/clip.safetensors",
        "--run-dir",
        "seeds",
        "--seeds",
        "1",
        "2",
        "--methods",
        "combiner",
        "spotlight",
        "--plugin",
        "my_composer.py",
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads((trained / "seeds" / "methods.json").read_text())
    assert sorted((r["model"], r["seed"]) for r in rows) == [("combiner", 1), ("combiner", 2), ("spotlight", 1), ("spotlight", 2)]


def test_listed_among_the_models(trained):
    done = ern(trained, "models", "--clip-model-name", "ern-tiny", "--plugin", "my_composer.py")
    assert done.returncode == 0 and "clip + spotlight + identity" in done.stdout, done.stderr


def checked(folder: Path, text: str, name: str) -> CompletedProcess:
    "Some of the checks of every model over the composer of that file, as tutorial and CONTRIBUTING say it."
    (folder / "my_composer.py").write_text(text)
    only = ["-q", "-p", "no:cacheprovider", "-p", "my_composer", "tests/models/test_models.py", "-k", f"{name} and (length or gradients or padding or itself or loaded)"]
    return forked(ROOT, "import pytest, sys; sys.exit(pytest.main())", *only, path=(folder,))


def test_the_checks_of_every_model_run_over_it(tmp_path):
    text = tutorial_file("my_composer.py")
    (tmp_path / "good").mkdir()
    good = checked(tmp_path / "good", text, "spotlight")
    assert good.returncode == 0 and re.search(r"[5-9] passed", good.stdout), good.stdout[-2000:]
    long = text.replace("return F.normalize(", "return (").replace("add(all_three), dim=-1)", "add(all_three))")
    assert long != text
    bad = checked(tmp_path, long, "spotlight")
    assert bad.returncode == 1 and "FAILED tests/models/test_models.py::test_shapes_and_unit_length[spotlight" in bad.stdout, bad.stdout[-2000:]


def test_the_file_in_contributing_keeps_the_promises(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    done = checked(tmp_path, re.search(r"```python\n(# my_composer.py\n.*?)```", text, re.S)[1], "tilted-sum")
    assert done.returncode == 0 and re.search(r"[5-9] passed", done.stdout), done.stdout[-2000:]
