"The tables of README and guides equal their files, and the prose next to a table is true."

import re
import shlex
import shutil
import statistics
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from matplotlib.collections import LineCollection
from PIL import Image

from fashionern.evaluation.evaluate import RankedQuery, Result
from fashionern.evaluation.obedience import Obedience
from fashionern.evaluation.published import PUBLISHED
from fashionern.files import write_json
from fashionern.models.registry import list_models
from fashionern.training.flags import parse_ablate, parse_methods
from fashionern.training.outcomes import Outcome, RankedRows, groups_chart, methods_chart, read_ranked, save_ranks, write_outcomes  # noqa: E501

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "docs"))
import figures  # noqa: E402  it is in docs/

MODEL = "fashionern-published@mask_padding,by_place"
PAGES = {page: (ROOT / page).read_text(encoding="utf-8") for page in figures.PAGES}


@pytest.fixture
def results(tmp_path, monkeypatch) -> Path:
    "A copy of nbs/results that may be changed."
    shutil.copytree(ROOT / "nbs" / "results", tmp_path / "results")
    monkeypatch.setattr(figures, "RESULTS", tmp_path / "results")
    return tmp_path / "results"


def outcome(label: str, model: str, seed: int, recall: float, protocol: str = "table") -> Outcome:
    return Outcome(
        label,
        model,
        seed,
        protocol,
        {"R@1": 1.0, "R@10": recall, "R@50": 60.0, "mean": 40.0},
        {"nearest": 5.0, "outranks": 20.0, "margin": -0.1},
        7,
        1.0,
        2.0,
        counts={"all": {"queries": 5, "gallery": 8}},
    )


@pytest.mark.parametrize("page", figures.PAGES)
def test_every_block_equals_its_file(page):
    text = PAGES[page]
    assert text.count("<!-- figures:") == text.count("<!-- end of figures -->") == len(figures.BLOCK.findall(text)) > 0
    assert figures.filled(text) == text, "run python docs/figures.py"


def test_every_block_is_on_a_page():
    assert {name for text in PAGES.values() for _, name, _ in figures.BLOCK.findall(text)} == set(figures.BLOCKS)


@pytest.mark.parametrize("file", ["demo", "catalogue", "laptop"])
def test_a_changed_file_changes_a_page(results, file):
    text = (results / f"{file}.json").read_text(encoding="utf-8")
    figure = re.search(r'"R@10": \[?(\d+\.\d+)', text)
    (results / f"{file}.json").write_text(text[: figure.start(1)] + "99.9" + text[figure.end(1) :], encoding="utf-8")
    assert any(figures.filled(page) != page for page in PAGES.values())


@pytest.mark.parametrize("name", figures.BLOCKS)
def test_a_changed_figure_on_a_page_is_corrected(name):
    if not figures.BLOCKS[name]():
        pytest.skip(f"nbs/results has no figures for {name} yet")
    page = next(text for text in PAGES.values() if f"<!-- figures: {name} -->" in text)
    block = next(m for m in figures.BLOCK.finditer(page) if m[2] == name)
    figure = next(m for m in re.finditer(r"\d+\.\d+", page) if block.start() < m.start() < block.end())
    changed = page[: figure.start()] + "98.76" + page[figure.end() :]
    assert changed != page and figures.filled(changed) == page


def test_a_comparison_becomes_a_table(results, tmp_path):
    cfg = parse_methods(["--preset", "catalogue", "--split", "test", "--lr", "0.002"])
    measured = [outcome(name, name, seed, recall) for name, seed, recall in (("sum", 1, 20.0), ("sum", 2, 22.0))]
    measured.append(outcome("fashionern", "fashionern", 1, 41.5))
    write_json(tmp_path / "config.json", cfg.as_dict())
    write_outcomes(measured, tmp_path)
    figures.take_methods("laptop", tmp_path)
    made = figures.read(results / "laptop.json")
    again = parse_methods(shlex.split(made["command"])[1:])
    assert (again.split, again.lr, again.methods, again.seeds) == ("test", 0.002, ("sum", "fashionern"), (1, 2))
    said = figures.methods("laptop")
    assert "Split `test`, 5 queries over 8 images." in said
    lines = [line for line in said.splitlines() if line.startswith("|")][2:]
    first = [line.split(" | ")[:2] for line in lines]
    after = "| **fashionern** (after Chen 2024)"
    assert first == [[after, "41.5"], ["| sum (baseline)", "21.0 ± 1.4"]]
    assert lines[0].endswith("| 1 | 7 | 2 + 1 |"), "seeds, parameters, seconds of both stages"
    short = figures.methods("laptop", ("sum",), short=True)
    assert "fashionern" not in short and "seconds" not in short


def with_ranks(folder: Path, labels: dict[str, float], seeds: tuple[int, ...] = (1, 2)) -> list[RankedRows]:
    "Ranks of 300 queries for each row and seed: label → share of hits."
    rng = np.random.default_rng(0)
    folders = {}
    for label, share in labels.items():
        for seed in seeds:
            folders[label, seed] = folder / f"seed-{seed}" / label
            queries = []
            for n in range(300):
                rank = 1 if rng.random() < share else 50
                changed = (("colour", "sleeve")[n % 2],)
                queries.append(RankedQuery(f"q{n}", "all", f"r{n // 3}", ("red",), (f"t{n}",), rank, changed=changed))
            save_ranks(folder, folders[label, seed], {"table": queries})
    return read_ranked(folder, folders)


def test_a_comparison_with_ranks_has_intervals_in_tables_and_charts(results, tmp_path):
    shares = {"fashionern": 0.6, "vtf": 0.59, "sum": 0.2}
    rows = with_ranks(tmp_path, shares)
    measured = []
    for label in shares:
        measured += [outcome(label, label, seed, rows[0].recall(label)) for seed in (1, 2)]
    write_json(tmp_path / "config.json", parse_methods(["--preset", "demo"]).as_dict())
    write_outcomes(measured, tmp_path, ranked=rows)
    figures.take_methods("garments", tmp_path)
    said = figures.methods("garments")
    assert figures.WITHOUT_INTERVALS not in said
    best = rows[0].best
    interval, of_sum = rows[0].intervals[best], rows[0].differences["sum"]
    assert f"| {best} | {interval.mean:.1f} ± {interval.margin:.1f}; best |" in said
    assert f"; {of_sum.mean:+.1f} ± {of_sum.margin:.1f}, p < 0.001 |" in said and "within noise |" in said
    assert "R@10 by changed attribute" in said and "| model | colour (150) | sleeve (150) |" in said
    assert "](../../nbs/results/garments.png)" in said and "](../../nbs/results/garments-groups.png)" in said
    for name in ("garments", "garments-groups"):
        assert (results / f"{name}.png").stat().st_size < 200_000
    short = figures.methods("garments", ("sum",), short=True)
    assert short.count("| sum") == 2 and "colour" not in short and ".png" not in short


def test_the_chart_draws_the_intervals_of_the_table(tmp_path):
    rows = with_ranks(tmp_path, {"fashionern": 0.6, "vtf": 0.59, "sum": 0.2})
    measured = [outcome(label, label, 1, rows[0].recall(label)) for label in rows[0].hits]
    chart = methods_chart(measured, ranked=rows)
    chart.draw_without_rendering()  # sets the labels
    recall, difference, _ = chart.axes
    order = [label.get_text() for label in recall.get_yticklabels()]
    drawn = [line.get_segments()[0][:, 0] for line in recall.collections if isinstance(line, LineCollection)]
    expected = [(rows[0].intervals[label].low, rows[0].intervals[label].high) for label in order]
    assert np.allclose(drawn, expected) and order[0] == rows[0].best
    drawn = [line.get_segments()[0][:, 0] for line in difference.collections]
    found = [rows[0].differences[label] for label in order[1:]]
    assert np.allclose(drawn, [(d.low, d.high) for d in found])
    panels = [ax for ax in groups_chart(rows[0]).axes if ax.get_title()]
    groups = rows[0].groups["changed attribute"]
    assert [ax.get_title() for ax in panels] == [f"changed attribute: {g} (150)" for g in groups]
    for ax, of_group in zip(panels, groups.values()):
        drawn = [line.get_segments()[0][:, 0] for line in ax.collections]
        assert np.allclose(drawn, [(of_group.intervals[label].low, of_group.intervals[label].high) for label in order])
    assert len(methods_chart(measured).axes) == 2, "without ranks: deviations over seeds alone"


def test_figures_without_ranks_say_so(results):
    for name in ("laptop", "tiny"):
        made = figures.read(results / f"{name}.json")
        assert (figures.WITHOUT_INTERVALS in figures.methods(name)) == ("differences" not in made)


def test_the_csv_of_a_comparison_holds_plain_numbers(tmp_path):
    write_outcomes(
        [
            outcome("combiner", "combiner", 1, 40.0),
            outcome("sum", "sum", 1, 20.0),
            outcome("combiner", "combiner", 2, 42.0),
        ],
        tmp_path,
    )
    made = pd.read_csv(tmp_path / "methods.csv", index_col="method")
    assert (
        list(made.index) == ["combiner", "sum"]
        and made["seeds"].tolist() == [2, 1]
        and made["parameters"].tolist() == [7, 7]
    )
    assert (
        made.loc["combiner", "R@10"] == 41
        and abs(made.loc["combiner", "R@10 sd"] - 2**0.5) < 1e-3
        and made.loc["combiner", "stage 2 s"] == 1
    )


def test_each_row_records_the_command_that_reproduces_it():
    for row in figures.read(figures.RESULTS / "catalogue.json")["rows"]:
        program, *flags = shlex.split(row["command"])
        cfg = {"ern_methods": parse_methods, "ern_ablate": parse_ablate}[program](flags)
        assert list(cfg.seeds) == row["seeds"] and all(
            len(v) == min(2, len(row["seeds"])) for v in row["figures"].values()
        )


def test_a_run_of_the_demo_becomes_the_table(results, tmp_path):
    recalls = {"R@1": 4.0, "R@10": 30.0, "R@50": 70.0}
    dominance = {"nearest": 9.0, "outranks": 60.0, "margin": 0.1}
    counts = {category: {"queries": 5, "gallery": 8} for category in ("dress", "shirt")}
    first = Result("fashioniq-original", "sum", {}, recalls, dominance, counts)
    run, drawn = tmp_path / "run", tmp_path / "drawn"
    write_json(run / "results.json", [r.as_dict() for r in (first, replace(first, model="fashionern"))])
    write_json(run / "config.json", {"root": str(drawn), "seed": 7})
    write_json(drawn / "designs.json", {str(i): {} for i in range(1234)})
    figures.take_demo(run)
    said = figures.demo()
    assert (
        "1,234 drawn images" in said and "5 queries over 8 images in each of 2 categories" in said and "seed 7" in said
    )
    name = "**fashionern** (after Chen 2024)"
    assert f"| {name} | 4.0 | 30.0 | 70.0 | 9.0 | 60.0 | +0.100 |" in said


def test_a_measurement_of_obedience_becomes_a_table_and_the_picture(results, tmp_path):
    (results / "obedience.json").unlink(missing_ok=True)
    assert figures.obedience() == figures.obedience_short() == ""
    colour = {"requests": 1200, "share": 0.93, "error": 0.004, "chance": 0.1}
    kinds = {"refusal": {"requests": 60, "share": 0.97, "error": 0.01, "chance": 0.9}}
    orders = {"first": 0.92, "second": 0.9, "difference": 0.02}
    attributes = {"colour": colour | {"kinds": kinds, "orders": orders}}
    example = {"text": "do you have it in brown?", "reference": "a", "own_share": 1.0, "attribute": "colour", **colour}
    about = ("fashionern", "fashioniq val", 8, 204, 4080, {"dress": 504, "shirt": 504})
    made = Obedience(*about, colour, attributes, {"do you have it in brown?": {"colour": colour}}, [example])
    drawing = {"drawn": 200, "references": 20, "seed": 42, "wordings": "test"}
    run = tmp_path / "run"
    write_json(run / "obedience.json", [replace(made, model="sum").as_dict() | drawing, made.as_dict() | drawing])
    Image.effect_noise((1400, 700), 80).save(run / "obedience.png")
    figures.take_obedience(run)
    said = figures.obedience()
    assert "| colour | 1,200 | 0.93 ± 0.00 | 0.10 |  | 0.97 | 0.90 | +0.02 |" in said
    assert "- *do you have it in brown?*: colour 0.93 (chance 0.10)" in said and "4,080 requests: 204 sentences" in said
    assert "`fashionern`" in said and "--models sum fashionern --obedience 200 --seed 42`" in said
    short = figures.obedience_short()
    assert "colour 93.0 %" in short and "10.0 % for a random ranking" in short
    assert Image.open(results / "demo.png").size == (900, 450)
    write_json(run / "obedience.json", [made.as_dict() | drawing | {"wordings": "val"}])
    with pytest.raises(SystemExit, match="--wordings val"):  # settings may have been chosen on them
        figures.take_obedience(run)


def test_the_picture_of_the_demo_is_small():
    assert (ROOT / "nbs" / "results" / "demo.png").stat().st_size < 200_000


def test_prose_about_the_demo_is_true():
    made = figures.read(figures.RESULTS / "demo.json")
    of = {r["model"]: r["dominance"] for r in made["results"]}
    recall = {r["model"]: r["mean"]["R@10"] for r in made["results"]}
    assert max(recall, key=recall.get) == "fashionern", "README: the highest recall at 10"
    composed = ("sum", "combiner", "fashionern")
    for share in ("nearest", "outranks"):
        least = min(composed, key=lambda model: of[model][share])
        assert least == "fashionern", "README: FashionERN ranks the reference first, and above the target, least often"
    shares = figures.read(figures.RESULTS / "obedience.json")["shares"]
    said = {model: round(100 * share) for model, share in shares.items()}
    assert said == {"fashionern": 81, "combiner": 80, "sum": 44}, "README: as the text asks"
    attributes = figures.read(figures.RESULTS / "obedience.json")["attributes"].values()
    moved = [abs(of_one["orders"]["difference"]) for of_one in attributes]
    assert round(max(moved), 2) == 0.04, "search guide: the order of two changes"
    assert all(r["mean"]["R@1"] <= 50 for r in made["results"]), (
        "README: two images of each design, of which one is the target"
    )


def test_prose_about_the_catalogue_is_true():
    rows = {(r["model"], r["variant"]): r["figures"] for r in figures.read(figures.RESULTS / "catalogue.json")["rows"]}
    r10 = {k: f["R@10"][0] for k, f in rows.items()}
    noisy = f"{MODEL},gate_noise=0.3"
    ours, without, less_dvr = (
        rows[noisy, ""],
        f"dvr{noisy.removeprefix('fashionern-published')}",
        "tme+combiner+refine@by_place,gate_noise=0.3",
    )
    less = (without, less_dvr, f"tme+dvr+identity{noisy.removeprefix('fashionern-published')}")
    assert all(r10[noisy, ""] - r10[m, ""] > 1 for m in less), (
        "catalogue guide: at equal settings each part contributes"
    )
    others = [f["outranks"][0] for (_, variant), f in rows.items() if not variant.startswith("loss ")]
    assert ours["outranks"][0] == min(others), "catalogue guide: it outranks the positives least often"
    assert abs(r10["dvr@mask_padding,by_place", ""] - r10[noisy, ""]) < 1, (
        "catalogue guide: DVR without TME, gates as published, reaches as much"
    )
    assert (
        round(r10[noisy, ""] - r10[MODEL, ""]) == 3
        and 1.5 < r10["dvr@mask_padding,by_place", ""] - r10[without, ""] < 2
    ), "catalogue guide: what noise is worth"
    assert all(2 <= round(r10[m, "4 epochs"] - r10[m, ""]) <= 3 for m in ("combiner", "tirg", "vtf")), (
        "catalogue guide: twice the epochs"
    )
    inject, align, tuned = (
        (noisy, f"less {part}") for part in ("inject branch", "align branch", "both branches, text tower tuned")
    )
    assert round(r10[inject] - r10[noisy, ""], 1) == 0.7 and rows[inject]["outranks"][0] > ours["outranks"][0], (
        "catalogue guide: without the inject branch"
    )
    assert all(len(rows[row]["R@10"]) == 2 for row in (inject, align, tuned)), "catalogue guide: three seeds"
    assert r10[align] < r10[without, ""] and rows[align]["outranks"][0] > rows[without, ""]["outranks"][0], (
        "catalogue guide: without the alignment branch"
    )
    assert abs(r10[tuned] - r10[noisy, ""]) < 0.5 and rows[tuned]["outranks"][0] > ours["outranks"][0] + 2, (
        "catalogue guide: the text tower tuned instead"
    )
    options = {
        option: r10[f"{noisy},{option}", ""]
        for option in ("ask=image", "train_cls", "norm=layer", "gate_floor=0.1", "ask=words", "lengths=published")
    }
    assert options.pop("lengths=published") < min(options.values()) - 1, "catalogue guide: lengths as published"
    assert (
        round(options.pop("ask=image") - r10[noisy, ""], 1) == 0.5 and len(rows[f"{noisy},ask=image", ""]["R@10"]) == 2
    ), "catalogue guide: ask=image, three seeds"
    assert all(abs(r - r10[noisy, ""]) < 0.5 for r in options.values()), "catalogue guide: options"
    symmetric, told, *worse = (
        rows[noisy, f"loss {loss}"]
        for loss in ("symmetric-infonce", "caption-reconstruction", "text-relevance", "cyclip", "triplet")
    )
    assert (
        told["outranks"][0] + 1 < symmetric["outranks"][0] < ours["outranks"][0]
        and abs(told["R@10"][0] - r10[noisy, ""]) < 0.2
    ), "catalogue guide: losses"
    assert all(len(f["R@10"]) == 2 for f in (symmetric, told)), "catalogue guide: losses, three seeds"
    assert min(symmetric["R@10"][0], told["R@10"][0]) > r10[noisy, ""] - 1 and all(
        f["R@10"][0] < r10[noisy, ""] - 3 for f in worse
    ), "catalogue guide: losses"


def test_published_figures_are_the_tables():
    shown = figures.published()
    assert "| `fashioniq-original` | average | R@10 52.29, R@50 72.95 |" in shown
    for row in PUBLISHED:
        assert all(f"{name} {value:.2f}" in shown for name, value in row.figures.items())


def test_each_row_has_its_mark():
    for name in ("laptop", "tiny"):
        lines = figures.methods(name).splitlines()
        assert sum(line.startswith("| combiner (published) |") for line in lines) == 1
        assert sum(line.startswith("| vtf (ours) |") for line in lines) == 1
        rows = [line for line in lines if line.startswith("| ")][2:]
        assert all(re.match(r"\| \S.* \([a-zA-Z][^|]*\) \| ", line) for line in rows)


def means(name: str) -> dict[str, dict[str, float]]:
    "Label → protocol → mean R@10 over the seeds of a table."
    made = figures.read(figures.RESULTS / f"{name}.json")
    rows = {}
    for label, outcomes in figures.by_label(made["outcomes"]).items():
        recalls = [{made["protocol"]: o["mean"]["R@10"], **o["further"]} for o in outcomes]
        rows[label] = {k: statistics.fmean(r[k] for r in recalls) for k in recalls[0]}
    return rows


NEW = "table-new-wordings"
TWO = "table-two-changes"


def lead(rows: dict[str, dict[str, float]], of: str, over: str, protocol: str) -> float:
    return round(rows[of][protocol] - rows[over][protocol], 1)


def test_prose_about_the_pretrained_encoder_is_true():
    made = figures.read(figures.RESULTS / "laptop.json")
    rows = means("laptop")
    tiny = means("tiny")
    assert made["split"] == "test" and len({o["seed"] for o in made["outcomes"]}) == 3
    for protocol in (NEW, TWO):
        assert max(rows, key=lambda label: rows[label][protocol]) == "fashionern"
    assert (lead(rows, "fashionern", "combiner", NEW), lead(rows, "fashionern", "combiner", TWO)) == (1.7, 3.6)
    assert (lead(rows, "fashionern", "vtf", NEW), lead(rows, "fashionern", "vtf", TWO)) == (0.2, 1.2)
    assert round(rows["combiner"][NEW] - tiny["combiner"][NEW]) == 18
    untrained = {"image-only", "text-only", "sum"}
    assert all(2 < rows[label]["table"] - rows[label][NEW] < 3.1 for label in rows.keys() - untrained)
    assert rows["fashionern"][NEW] >= 60 and rows["fashionern"][TWO] >= 55
    seconds = {o["label"]: o["seconds"] for o in made["outcomes"]}
    assert 8 < seconds["fashionern"] / seconds["combiner"] < 9


def test_prose_about_every_method_is_true():
    compared = figures.read(figures.RESULTS / "methods.json")["differences"]
    apart = {protocol: made["differences"] for protocol, made in compared.items()}
    assert compared[NEW]["best"] == compared[TWO]["best"] == "fashionern"
    said = {"vtf": [(0.1, 0.8), (0.8, 1.1)], "combiner": [(1.5, 0.9), (3.9, 1.0)]}
    for label, expected in said.items():
        behind = [apart[protocol][label] for protocol in (NEW, TWO)]
        assert [(-round(d["mean"], 1), round(d["margin"], 1)) for d in behind] == expected, label
    assert [label for label, d in apart[NEW].items() if d["within_noise"]] == ["vtf"]
    by_attribute = compared[NEW]["groups"]["changed attribute"]
    clear = {a for a, group in by_attribute.items() if not group["differences"]["combiner"]["within_noise"]}
    assert clear == {"gender", "articleType"}
    recall = compared[NEW]["R@10"]
    assert round(recall["weighted-sum"] - recall["sum"], 1) == 4.0 and abs(recall["pic2word"] - recall["sum"]) < 0.5
    assert round(recall["combiner"] - recall["weighted-sum"], 1) == 17.5
    warm = apart[NEW]["dvr-from-weighted-sum"]
    assert (round(warm["mean"], 1), round(warm["margin"], 1), warm["within_noise"]) == (-1.1, 0.9, False)
    lose = compared[NEW]["groups"]["wording"]["lose"]["R@10"]
    assert [label for label in recall if lose[label] > recall[label]] == ["image-only"]
    assert [round(recall[label] - lose[label]) for label in ("fashionern", "combiner")] == [8, 10]


def test_prose_about_tiny_encoders_is_true():
    rows = means("tiny")
    without = "dvr@mask_padding,by_place,mixture"
    peers = ("tirg", "vtf", "combiner")
    assert (lead(rows, "fashionern", "combiner", NEW), lead(rows, "fashionern", "combiner", TWO)) == (4.2, 10.0)
    assert lead(rows, "fashionern", "tirg", NEW) == 2.1 and max(peers, key=lambda p: rows[p][NEW]) == "tirg"
    assert (lead(rows, "fashionern", without, NEW), lead(rows, "fashionern", without, TWO)) == (6.1, 10.5)
    assert rows[without][NEW] < rows["combiner"][NEW]
    headless = "tme+dvr+identity@mask_padding,by_place,mixture"
    assert (lead(rows, "fashionern", headless, NEW), lead(rows, "fashionern", headless, TWO)) == (3.0, 2.9)
    cost = {label: rows[label]["table"] - rows[label][NEW] for label in ("fashionern", *peers)}
    assert round(cost.pop("fashionern"), 1) == 3.3 and all(1 <= c < 2.1 for c in cost.values())


def test_prose_about_tiny_encoders_with_the_grid_is_true():
    rows = means("tiny-grid")
    compared = figures.read(figures.RESULTS / "tiny-grid.json")["differences"]
    behind = [compared[protocol]["differences"]["combiner"] for protocol in (NEW, TWO)]
    assert [(-round(d["mean"], 1), round(d["margin"], 1)) for d in behind] == [(1.6, 1.2), (6.5, 1.3)]
    assert [label for label, d in compared[NEW]["differences"].items() if d["within_noise"]] == ["tirg"]
    tirg = compared[NEW]["differences"]["tirg"]
    assert (-round(tirg["mean"], 1), round(tirg["margin"], 1)) == (1.0, 1.0)
    cost = {label: rows[label]["table"] - rows[label][NEW] for label in ("fashionern", "tirg", "vtf", "combiner")}
    assert round(cost.pop("fashionern"), 1) == 2.1 and max(cost.values()) < 0


def test_prose_about_one_pass_or_14_views_is_true():
    tiny, laptop = figures.read(figures.RESULTS / "regions-recall.json")
    assert (tiny["encoder"], laptop["encoder"]) == ("ern-tiny", "ern-laptop")
    assert all(kinds["difference"]["within_noise"] for kinds in laptop["rows"]["fashionern"].values())
    rows = tiny["rows"]["fashionern"]
    lower = {protocol: round(-kinds["difference"]["mean"], 1) for protocol, kinds in rows.items()}
    assert (lower[NEW], lower[TWO]) == (1.1, 1.9)
    assert rows[NEW]["difference"]["within_noise"] and not rows[TWO]["difference"]["within_noise"]
    assert round(rows[NEW]["crops"], 1) == 47.6


def test_prose_about_image_towers_is_true():
    cases = figures.read(figures.RESULTS / "towers.json")["cases"]
    gains = {(c["what"], way): 1 / ratio["median"] for c in cases for way, ratio in c["times_ours"].items()}
    of = lambda way, encoder: [gain for (what, which), gain in gains.items() if which == way and encoder in what]
    assert min(of("compiled", "ern-laptop")) > 1.25
    assert max(gain for (what, way), gain in gains.items() if way == "compiled" and "ern-laptop" not in what) < 1.15
    assert [round(f(of("int8", "ViT")), 1) for f in (min, max)] == [1.2, 1.4]
    assert max(of("contiguous", "")) < 1.1


def test_prose_about_drawn_garments_is_true():
    made = figures.read(figures.RESULTS / "garments.json")
    compared = made["differences"]["fashioniq-original"]
    assert compared["best"] == "fashionern"
    noise = {label for label, d in compared["differences"].items() if d["within_noise"]}
    assert noise == {"vtf", "cala", "fame-vil"}
    by_attribute = compared["groups"]["changed attribute"]
    over = {attribute: group["differences"]["combiner"] for attribute, group in by_attribute.items()}
    told_apart = {a: (round(d["mean"], 1), round(d["margin"], 1)) for a, d in over.items() if not d["within_noise"]}
    assert told_apart == {"colour": (-7.4, 3.7), "neckline": (3.1, 2.7)}
    recall = compared["R@10"]
    assert round(recall["sum"] - recall["weighted-sum"], 1) == 7.7 and 45 < recall["pic2word"] < 55
    assert round(recall["sum"] - recall["lincir"], 1) == 15.4
    assert round(recall["dvr-from-weighted-sum"] - recall["weighted-sum"], 1) == 9.0
    nearest = {o["label"]: o["dominance"]["nearest"] for o in made["outcomes"]}
    trained = {o["label"] for o in made["outcomes"] if o["parameters"]} - {"pic2word", "lincir"}
    assert min(trained, key=nearest.get) == "fashionern", "it ranks the reference first least often"


@pytest.mark.parametrize("page", ["README.md", "docs/guides/08_provenance.md"])
def test_the_number_of_methods_is_the_number_of_models(page):
    row = re.search(r"^\| methods \| ([^|]*)\|", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
    assert re.findall(r"\b\d{2}\b", row[1]) == [str(len(list_models()))], page
