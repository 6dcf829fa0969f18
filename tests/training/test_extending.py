"A composer in a user's own file, outside the package: trained, evaluated, indexed and searched by the commands."

import json
import re
from pathlib import Path
from subprocess import CompletedProcess

import pytest
from forked import forked

from fashionern.data.drawn.garments import draw_fashioniq

ROOT = Path(__file__).resolve().parents[2]
SMALL = ["--preset", "demo", "--root", "data", "--num-workers", "0", "--device", "cpu",
         "--warmup-epochs", "1", "--num-epochs", "1", "--batch-size", "20", "--warmup-batch-size", "20"]  # fmt: skip
PLUGIN = ["--plugin", "my_composer.py"]


def tutorial_file(name: str) -> str:
    "The file that the tutorial asks its reader to write."
    notebook = json.loads((ROOT / "nbs/tutorials/07_extending.ipynb").read_text(encoding="utf-8"))
    first = f"%%writefile {name}\n"
    sources = ["".join(cell["source"]) for cell in notebook["cells"]]
    return next(text for text in sources if text.startswith(first)).removeprefix(first)


def ern(folder: Path, command: str, *args: str | Path) -> CompletedProcess:
    "One of the commands, in its own process, in which no plugin is registered."
    code = f"from fashionern.cli.{command} import main; main()"
    return forked(folder, code, *args, COLUMNS="200")


def refused(done: CompletedProcess) -> str:
    "The error message with which a command stopped."
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 2 and len(errors) == 1, done.stderr + done.stdout
    assert "Traceback" not in done.stderr, done.stderr
    return errors[0]


def means(file: Path) -> dict[str, dict]:
    "Model → mean recalls of a results file."
    return {result["model"]: result["mean"] for result in json.loads(file.read_text())}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Path:
    "A folder with the user's file, drawn garments, and a run of the user's composer and the Combiner."
    folder = tmp_path_factory.mktemp("own")
    draw_fashioniq(folder / "data", 20, 12, 8, 20, 10, 5, size=48, workers=1)
    (folder / "my_composer.py").write_text(tutorial_file("my_composer.py"))
    models = ["--model", "spotlight@sharpness=20", "--compare", "combiner"]
    done = ern(folder, "train", *SMALL, "--stages", "warmup", "dvr", "--run-dir", "run", *PLUGIN, *models)
    assert done.returncode == 0, done.stderr
    return folder


def test_it_is_trained_next_to_the_combiner(trained):
    results = json.loads((trained / "run" / "results.json").read_text())
    assert [r["model"] for r in results] == ["combiner", "spotlight@sharpness=20"]
    assert json.loads((trained / "run" / "config.json").read_text())["plugin"] == ["my_composer.py"]


def test_a_changed_plugin_is_reported_and_marked_in_the_results(trained):
    file = trained / "my_composer.py"
    text = file.read_text()
    file.write_text(text + "# another version with the same code\n")
    flags = ["--run-dir", "run", *PLUGIN, "--out", "again", "--num-workers", "0", "--device", "cpu"]
    done = ern(trained, "evaluate", *flags)
    file.write_text(text)
    assert done.returncode == 0, done.stderr
    assert "another version of the plugin my_composer.py" in done.stderr, done.stderr
    again = trained / "again" / "results.val.json"
    assert means(again) == means(trained / "run" / "results.json")
    assert all(r["changed_plugins"] == ["my_composer.py"] for r in json.loads(again.read_text()))


def test_without_the_plugin_the_error_names_it(trained):
    flags = ["--stages", "warmup", "dvr", "--run-dir", "other", "--model", "spotlight"]
    error = refused(ern(trained, "train", *SMALL, *flags))
    assert "'spotlight'" in error and "--plugin" in error and "my_composer.py" not in error
    for command in (
        ["evaluate", "--run-dir", "run", "--device", "cpu"],
        ["index", "build", "--images", "data/images", "--model", "run", "--out", "never", "--device", "cpu"],
    ):
        error = refused(ern(trained, *command))
        assert "'spotlight'" in error and "--plugin" in error
        assert "my_composer.py" in error, "a run records its plugins"
    assert not (trained / "never").exists() and not (trained / "other").exists()
    flags = ["--run-dir", "run", "--models", "combiner", "--out", "known", "--num-workers", "0", "--device", "cpu"]
    assert ern(trained, "evaluate", *flags).returncode == 0, "the run's other models need no plugin"


def test_a_plugin_named_in_a_record_is_never_run(trained):
    record = json.loads((trained / "run" / "config.json").read_text())
    other = trained / "from-elsewhere"
    other.mkdir()
    (other / "bad.py").write_text("open('was_run', 'w')\n")
    (other / "config.json").write_text(json.dumps({**record, "plugin": ["bad.py", str(other / "bad.py")]}))
    (other / "models" / "spotlight").mkdir(parents=True)
    (other / "models" / "spotlight" / "best.safetensors").touch()
    assert "bad.py" in refused(ern(other, "evaluate", "--run-dir", ".", "--device", "cpu"))
    assert not (other / "was_run").exists()


def test_it_is_indexed_and_searched(trained):
    flags = ["--images", "data/images", "--model", "run", "--out", "index", "--device", "cpu"]
    built = ern(trained, "index", "build", *flags, *PLUGIN)
    assert built.returncode == 0, built.stderr
    photo = sorted((trained / "data" / "images").iterdir())[0]
    query = ["--index", "index", "--image", photo, "--text", "is red", "-k", "3", "--json", "--device", "cpu"]
    assert "my_composer.py" in refused(ern(trained, "search", *query))
    done = ern(trained, "search", *query, *PLUGIN)
    assert done.returncode == 0 and len(json.loads(done.stdout)["hits"]) == 3, done.stderr


def test_it_is_compared_over_seeds(trained):
    flags = ["--stages", "dvr", "--clip-path", "run/clip.safetensors", "--run-dir", "seeds", *PLUGIN]
    done = ern(trained, "methods", *SMALL, *flags, "--seeds", "1", "2", "--methods", "combiner", "spotlight")
    assert done.returncode == 0, done.stderr
    rows = json.loads((trained / "seeds" / "methods.json").read_text())
    expected = [("combiner", 1), ("combiner", 2), ("spotlight", 1), ("spotlight", 2)]
    assert sorted((r["model"], r["seed"]) for r in rows) == expected


def test_it_is_listed_among_the_models(trained):
    done = ern(trained, "models", "--clip-model-name", "ern-tiny", *PLUGIN)
    assert done.returncode == 0 and "clip + spotlight + identity" in done.stdout, done.stderr


def run_model_tests(folder: Path, text: str, name: str) -> CompletedProcess:
    "Some of the tests of every model, with the composer of that file, as tutorial and CONTRIBUTING describe."
    (folder / "my_composer.py").write_text(text)
    chosen = f"{name} and (length or gradients or padding or batch or loaded)"
    args = ["-q", "-p", "no:cacheprovider", "-p", "my_composer", "tests/models/test_models.py", "-k", chosen]
    return forked(ROOT, "import pytest, sys; sys.exit(pytest.main())", *args, path=(folder,))


def test_the_tests_of_every_model_cover_it(tmp_path):
    text = tutorial_file("my_composer.py")
    (tmp_path / "good").mkdir()
    good = run_model_tests(tmp_path / "good", text, "spotlight")
    assert good.returncode == 0 and re.search(r"[5-9] passed", good.stdout), good.stdout[-2000:]
    long = text.replace("return F.normalize(", "return (").replace("add(inputs), dim=-1)", "add(inputs))")
    assert long != text
    bad = run_model_tests(tmp_path, long, "spotlight")
    failed = "FAILED tests/models/test_models.py::test_shapes_and_unit_length[spotlight"
    assert bad.returncode == 1 and failed in bad.stdout, bad.stdout[-2000:]


def test_the_file_in_contributing_passes_them_too(tmp_path):
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    file = re.search(r"```python\n(# my_composer.py\n.*?)```", text, re.S)[1]
    done = run_model_tests(tmp_path, file, "tilted-sum")
    assert done.returncode == 0 and re.search(r"[5-9] passed", done.stdout), done.stdout[-2000:]
