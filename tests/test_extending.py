"A composer in a user's own file, outside the package: trained beside the Combiner, ranked again and searched with, by the commands."

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fashionern.data.garments import draw_fashioniq

ROOT = Path(__file__).resolve().parent.parent
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
    cells = json.loads((ROOT / "nbs" / "86_tutorial.extending.ipynb").read_text(encoding="utf-8"))["cells"]
    first = f"%%writefile {name}\n"
    return next(text for c in cells if (text := "".join(c["source"])).startswith(first)).removeprefix(first)


def call(folder: Path, *command: str | Path, **environment: str) -> subprocess.CompletedProcess:
    "Python in that folder, the package found where these tests found it."
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "200", "OMP_NUM_THREADS": "1"} | environment
    return subprocess.run([sys.executable, *map(str, command)], cwd=folder, env=environment, capture_output=True, text=True, timeout=600)


def ern(folder: Path, command: str, *args: str | Path) -> subprocess.CompletedProcess:
    "One of the commands, in a process of its own, which has registered nothing."
    return call(folder, "-c", f"from fashionern.cli import {command}; {command}()", *args)


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "A folder with the user's file, drawn garments, and a run of the user's composer and the Combiner."
    folder = tmp_path_factory.mktemp("own")
    draw_fashioniq(folder / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    (folder / "my_composer.py").write_text(tutorial_file("my_composer.py"))
    made = ern(folder, "train", *FLAGS, "--run-dir", "run", "--plugin", "my_composer.py", "--model", "spotlight@sharpness=20", "--compare", "combiner")
    assert made.returncode == 0, made.stderr
    return folder


ONE_AFTER_ANOTHER = """
import json, sys
from fashionern import cli

for command, *args in json.loads(sys.argv[1]):
    sys.argv, status = [command, *args], 0
    try:
        getattr(cli, command)()
    except SystemExit as e:
        status = e.code or 0
    print(f"\\n{status}\\n=====", file=sys.stderr)
"""


def one_after_another(folder: Path, *commands: list) -> tuple[str, list[str]]:
    "Several commands in one process, which has loaded torch once: what stood on stdout, and what each said on stderr, its status last."
    (folder / "one_after_another.py").write_text(ONE_AFTER_ANOTHER)
    done = call(folder, "one_after_another.py", json.dumps([[str(word) for word in command] for command in commands]))
    *said, rest = done.stderr.split("=====\n")
    assert len(said) == len(commands) and done.returncode == 0, rest
    return done.stdout, said


def one_error(stderr: str) -> str:
    "The one sentence a command said before it stopped."
    said = [line for line in stderr.splitlines() if line.startswith("error: ")]
    assert len(said) == 1 and "Traceback" not in stderr, stderr
    return said[0]


def refused(done: subprocess.CompletedProcess) -> str:
    "The same of a process of its own."
    assert done.returncode == 2, done.stderr + done.stdout
    return one_error(done.stderr)


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
    commands = [
        ["evaluate", "--run-dir", "run", "--device", "cpu"],
        ["train", *FLAGS, "--run-dir", "other", "--model", "spotlight"],
        ["index", "build", "--images", "data/images", "--model", "run", "--out", "never", "--device", "cpu"],
        ["evaluate", "--run-dir", "run", "--models", "combiner", "--out", "known", "--num-workers", "0", "--device", "cpu"],
    ]
    _, (*without, last) = one_after_another(trained, *commands)
    for (command, *_), text in zip(commands[:-1], without, strict=True):
        said = one_error(text)
        assert text.endswith("\n2\n") and "'spotlight'" in said and "--plugin" in said, said
        assert ("my_composer.py" in said) == (command != "train"), "a run knows which file it was"
    assert not (trained / "never").exists() and not (trained / "other").exists()
    assert last.endswith("\n0\n"), "the other models of the run need no file"


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
    found, (without, with_it) = one_after_another(trained, ["search", *ask], ["search", *ask, "--plugin", "my_composer.py"])
    assert "my_composer.py" in one_error(without) and without.endswith("\n2\n")
    assert with_it.endswith("\n0\n") and len(json.loads(found)["hits"]) == 3, with_it


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


def checked(folder: Path, text: str, name: str) -> subprocess.CompletedProcess:
    "Some of the checks of every model over the composer of that file, as tutorial and CONTRIBUTING say it."
    (folder / "my_composer.py").write_text(text)
    only = ["-q", "-p", "no:cacheprovider", "-p", "my_composer", "tests/test_models.py", "-k", f"{name} and (length or gradients or padding or itself or loaded)"]
    return call(ROOT, "-m", "pytest", *only, PYTHONPATH=os.pathsep.join([str(folder), str(ROOT)]))


def test_the_checks_of_every_model_run_over_it(tmp_path):
    text = tutorial_file("my_composer.py")
    (tmp_path / "good").mkdir()
    good = checked(tmp_path / "good", text, "spotlight")
    assert good.returncode == 0 and re.search(r"[5-9] passed", good.stdout), good.stdout[-2000:]
    long = text.replace("return F.normalize(", "return (").replace("add(all_three), dim=-1)", "add(all_three))")
    assert long != text
    bad = checked(tmp_path, long, "spotlight")
    assert bad.returncode == 1 and "FAILED tests/test_models.py::test_shapes_and_unit_length[spotlight" in bad.stdout, bad.stdout[-2000:]


def test_the_file_in_contributing_keeps_the_promises(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    done = checked(tmp_path, re.search(r"```python\n(# my_composer.py\n.*?)```", text, re.S)[1], "tilted-sum")
    assert done.returncode == 0 and re.search(r"[5-9] passed", done.stdout), done.stdout[-2000:]
