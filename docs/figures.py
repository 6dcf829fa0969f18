"""Write the tables of README and guides between their markers, from files that commands wrote.

python docs/figures.py                               rewrite every marked block from the current files
python docs/figures.py --demo runs/demo              after make demo: use its figures
python docs/figures.py --obedience runs/demo         after ern_eval --obedience: how often results are as the text asks
python docs/figures.py --laptop runs/methods         after ern_methods --preset catalogue: its table
python docs/figures.py --methods runs/methods        the same with every method and one seed
python docs/figures.py --regions runs/grid runs/crops ern_methods with --regions grid and crops; may be repeated
python docs/figures.py --tiny runs/methods           after ern_methods --preset catalogue-tiny: its table
python docs/figures.py --tiny-grid runs/methods      the same with the preset's own setting, the grid
python docs/figures.py --garments runs/methods       after ern_methods --preset demo: its table
python docs/figures.py --check                       write nothing; status 1 if a block differs from its file
"""

import argparse
import dataclasses
import json
import math
import re
import shlex
import statistics
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"
GUIDES = ("03_search", "04_shop", "05_reproducing", "06_catalogue_results", "07_speed", "10_large_indexes")
PAGES = ("README.md", *(f"docs/guides/{name}.md" for name in GUIDES))
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.S)
DOMINANCE = {"nearest": "ref 1st %", "outranks": "ref > target %", "margin": "Δcos"}
LABELS = {"published": "reference"}  # implementation in benchmark.json → its label in the table
TABLES = {  # file in nbs/results → preset
    "laptop": "catalogue",
    "methods": "catalogue",
    "tiny": "catalogue-tiny",
    "tiny-grid": "catalogue-tiny",
    "garments": "demo",
}
WITHOUT_INTERVALS = (
    "Measured before the ranks of queries were kept, so there are no intervals over queries: "
    "a small difference may be noise."
)
EARLIER = "fashionern-published@mask_padding,by_place,gate_noise=0.3"  # the model of the preset until version 0.2
WORST = "R@10 worst wording"  # key of `metrics.wording_spread`
SHORT = ("fashionern", "vtf", "combiner", "sum", "text-only")  # rows of the README


def read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def write(file: Path, value: Any) -> None:
    "Write JSON with every list of numbers on one line."
    text = json.dumps(value, indent=1, ensure_ascii=False)
    text = re.sub(r"\[\s+([-+0-9.e,\s]+?)\s+\]", lambda m: "[" + " ".join(m[1].split()) + "]", text)
    file.write_text(text + "\n", encoding="utf-8")


def table(heads: list[str], rows: list[list[str]], left: int = 1) -> str:
    "A Markdown table: the first columns left-aligned, figures right-aligned."
    rule = ["---"] * left + ["---:"] * (len(heads) - left)
    return "\n".join("| " + " | ".join(row) + " |" for row in (heads, rule, *rows))


def spread(
    values: list[float],  # mean, then the standard deviation if there are several seeds
    digits: int = 1,
    sign: str = "",
) -> str:
    return " ± ".join([f"{values[0]:{sign}.{digits}f}", *(f"{v:.{digits}f}" for v in values[1:])])


def dominance(of: dict[str, list[float]]) -> list[str]:
    return [spread(of[k], 3 if k == "margin" else 1, "+" if k == "margin" else "") for k in DOMINANCE]


def take_regions(pairs: list[list[Path]]) -> None:
    "Write regions-recall.json from pairs of finished ern_methods: --regions grid and --regions crops."
    made = []
    for grid, crops in pairs:
        outcomes = read(crops / "methods.json")
        made.append(
            {
                "encoder": read(grid / "config.json")["clip_model_name"],
                "rows": {label: compare_regions(grid, crops, label) for label in by_label(outcomes)},
            }
        )
    write(RESULTS / "regions-recall.json", made)


def compare_regions(grid: Path, crops: Path, label: str) -> dict[str, dict[str, Any]]:
    "Protocol → R@10 of a row with both kinds, and the difference of grid to crops with its interval over queries."
    sys.path.insert(0, str(ROOT))
    from fashionern.training.outcomes import read_ranked

    folders = {}
    for kind, run in (("grid", grid), ("crops", crops)):
        for file in run.glob("seed-*/*/outcome.json"):
            outcome = read(file)
            if outcome["label"] == label:
                folders[kind, outcome["seed"]] = file.parent
    found = {}
    for rows in read_ranked(grid, folders):
        difference = dataclasses.replace(rows, against="crops").differences["grid"].as_dict()
        found[rows.protocol] = {"grid": rows.recall("grid"), "crops": rows.recall("crops"), "difference": difference}
    return found


def regions() -> str:
    "Recall with one forward pass and with 14 views, side by side; '' if unmeasured."
    if not (RESULTS / "regions-recall.json").is_file():
        return ""
    lines = []
    protocols: dict[str, None] = {}
    for of_encoder in read(RESULTS / "regions-recall.json"):
        for label, by_protocol in of_encoder["rows"].items():
            protocols |= dict.fromkeys(by_protocol)
            cells = []
            for kinds in by_protocol.values():
                d = kinds["difference"]
                cells.append(f"{kinds['grid']:.1f} / {kinds['crops']:.1f}; {d['mean']:+.1f} ± {d['margin']:.1f}")
            lines.append([of_encoder["encoder"], label, *cells])
    about = "R@10 with grid / with crops; the difference with its 95 % interval over queries:"
    heads = ["encoder", "model", *(f"`{name}`" for name in protocols)]
    return f"{about}\n\n{table(heads, lines, left=2)}"


def demo() -> str:
    "The demo's table, below a line that says what was ranked."
    made = read(RESULTS / "demo.json")
    counts = made["counts"]
    queries = {count["queries"] for count in counts.values()}
    gallery = {count["gallery"] for count in counts.values()}
    assert len(queries) == len(gallery) == 1, "the summary needs categories of equal size"
    about = (
        f"{made['pictures']:,} drawn images; protocol `{made['protocol']}`, "
        f"{queries.pop():,} queries over {gallery.pop():,} images "
        f"in each of {len(counts)} categories, mean of the {len(counts)}, seed {made['seed']}:"
    )
    rows = []
    for r in made["results"]:
        name = (f"**{r['model']}**" if r["model"] == "fashionern" else r["model"]) + mark(r["model"])
        rows.append(
            [
                name,
                *(f"{r['mean'][k]:.1f}" for k in ("R@1", "R@10", "R@50")),
                *dominance({k: [v] for k, v in r["dominance"].items()}),
            ]
        )
    return f"{about}\n\n{table(['model', 'R@1', 'R@10', 'R@50', *DOMINANCE.values()], rows)}"


def take_demo(run: Path) -> None:
    "Write demo.json from a finished run of the demo."
    config, results = read(run / "config.json"), read(run / "results.json")
    first = results[0]
    pictures = len(read(Path(config["root"]) / "designs.json"))
    keep = [{k: r[k] for k in ("model", "mean", "dominance")} for r in results]
    write(
        RESULTS / "demo.json",
        {
            "command": "make demo",
            "seed": config["seed"],
            "pictures": pictures,
            "protocol": first["protocol"],
            "counts": first["counts"],
            "results": keep,
        },
    )


def obedience() -> str:
    "Attributes by row: how often the first results are as the text asks; empty before it was measured."
    if not (RESULTS / "obedience.json").is_file():
        return ""
    made = read(RESULTS / "obedience.json")
    gallery = ", ".join(f"{category} {number:,}" for category, number in made["gallery"].items())
    about = (
        f"`{made['model']}` on {made['data']}, {made['requests']:,} requests: {made['sentences']:,} sentences, "
        f"each about up to {made['references']} references. Searched images: {gallery}. "
        f"Measured {made['measured']}: `{made['command']}`."
    )
    heads = ["attribute", "requests", "share", "chance", "removed", "refused", "chance of refused", "order"]
    rows = [obedience_row("all", made["overall"] | {"kinds": {}})]
    rows += [obedience_row(attribute, figures) for attribute, figures in made["attributes"].items()]
    fixed = []
    for text, figures in made["named"].items():
        shares = [f"{name} {of['share']:.2f} (chance {of['chance']:.2f})" for name, of in figures.items()]
        fixed.append(f"- *{text}*: {', '.join(shares)}")
    return "\n\n".join([about, table(heads, rows), "\n".join(fixed)])


def obedience_row(attribute: str, figures: dict) -> list[str]:
    refusal = figures["kinds"].get("refusal", {})
    removal = figures["kinds"].get("removal", {})
    cells = [(removal, "share"), (refusal, "share"), (refusal, "chance")]
    more = [f"{of[key]:.2f}" if key in of else "" for of, key in cells]
    order = f"{figures['orders']['difference']:+.2f}" if "orders" in figures else ""
    share = f"{figures['share']:.2f} ± {figures['error']:.2f}"
    return [attribute, f"{figures['requests']:,}", share, f"{figures['chance']:.2f}", *more, order]


def obedience_short() -> str:
    "What the picture of the demo shows, and how often results are as the text asks."
    if not (RESULTS / "obedience.json").is_file():
        return ""
    made = read(RESULTS / "obedience.json")
    percent = lambda share: f"{100 * share:.1f} %"
    examples = ", ".join(f"{example['attribute']} {percent(example['share'])}" for example in made["examples"])
    overall = made["overall"]
    return (
        f"Green: the result is as the text asks. Each row is the sentence that works best for one attribute, with a "
        f"typical reference. Share of its first {made['k']} results that are as it asks, on the requests that it was "
        f"chosen by: {examples}. Over all {made['sentences']:,} sentences it is {percent(overall['share'])}, and "
        f"{percent(overall['chance'])} for a random ranking "
        f"([by attribute](docs/guides/03_search.md#results-and-the-text))."
    )


def take_obedience(run: Path) -> None:
    "Write obedience.json and demo.png after `ern_eval --obedience` on a run."
    from PIL import Image

    results = {result["model"]: result for result in read(run / "obedience.json")}
    made = results.get("fashionern", list(results.values())[-1])
    measured = time.strftime("%Y-%m-%d", time.gmtime((run / "obedience.json").stat().st_mtime))
    command = f"ern_eval --run-dir {run} --models {' '.join(results)} --obedience {made['drawn']} --seed {made['seed']}"
    if (wordings := made.get("wordings", "test")) != "test":
        raise SystemExit(f"error: {run} was measured with --wordings {wordings}. Measure it with --wordings test.")
    shares = {model: result["overall"]["share"] for model, result in results.items()}
    write(RESULTS / "obedience.json", {"command": command, "measured": measured, "shares": shares, **made})
    with Image.open(run / "obedience.png") as grid:
        small = grid.convert("RGB")
        small.thumbnail((900, 900))
        small.quantize(128).save(RESULTS / "demo.png", optimize=True)


def source(model: str) -> str:
    "What a model stands for, as in the tables of ern_methods."
    sys.path.insert(0, str(ROOT))
    from fashionern.models.registry import source_of

    return source_of(model)


def mark(model: str) -> str:
    "The same in brackets, for the first column of a table."
    return f" ({source(model)})"


def label(row: dict) -> str:
    name = f"**{row['model']}**" if row["model"] == EARLIER and not row["variant"] else row["model"]
    return name + (f", {row['variant']}" if row["variant"] else "") + (f": {row['about']}" if row["about"] else "")


def catalogue_rows(rows: list[dict]) -> str:
    heads = ["model", "R@1", "R@10", "R@50", *DOMINANCE.values(), "seeds", "parameters", "seconds"]
    body = []
    for r in rows:
        first, *rest = r.get("seconds", (0,))
        took = " + ".join(f"{t:,}" for t in ((first, *rest) if first else rest))
        body.append(
            [
                label(r) + mark(r["model"]),
                *(spread(r["figures"][k]) for k in heads[1:4]),
                *dominance(r["figures"]),
                str(len(r["seeds"])),
                f"{r['parameters']:,}",
                took,
            ]
        )
    return table(heads, body)


def ranked(made: dict) -> str:
    "What the catalogue's table ranked, as a sentence."
    return f"Protocol `{made['protocol']}`, {made['queries']:,} queries over {made['gallery']:,} products."


def catalogue_all() -> str:
    "Every row, best R@10 first."
    made = read(RESULTS / "catalogue.json")
    rows = sorted(made["rows"], key=lambda r: -r["figures"]["R@10"][0])
    dates = sorted({r["measured"] for r in rows})
    about = f"{ranked(made)} Measured {', '.join(dates)}."
    return f"{about}\n\n{catalogue_rows(rows)}\n\n" + "\n".join(
        f"- {key}: {note}." for key, note in made["notes"].items()
    )


def methods(
    name: str,  # one of `TABLES`
    only: tuple[str, ...] = (),  # labels of the rows; empty: all
    short: bool = False,  # recalls at 10 alone
) -> str:
    "The rows of an ern_methods, best R@10 first, with what was ranked, and with intervals; '' if unmeasured."
    if not (RESULTS / f"{name}.json").is_file():
        return ""
    made = read(RESULTS / f"{name}.json")
    further = list(made["outcomes"][0]["further"])
    rows = []
    for label, outcomes in by_label(made["outcomes"]).items():
        if only and label not in only:
            continue
        columns = [[o["mean"]["R@10"] for o in outcomes]]
        columns += [[o["further"][k] for o in outcomes] for k in further]
        if not short:
            columns += [[o["wordings"][WORST] for o in outcomes]] if made["outcomes"][0]["wordings"] else []
            columns += [[o["mean"][k] for o in outcomes] for k in ("R@1", "R@50")]
            columns += [[o["dominance"][k] for o in outcomes] for k in ("nearest", "outranks")]
        cells = [spread(deviation(values)) for values in columns]
        shown = (f"**{label}**" if label == "fashionern" else label) + mark(outcomes[0]["model"])
        rows.append([shown, *cells, *([] if short else cost(outcomes))])
    rows.sort(key=lambda row: -float(row[1].split()[0]))
    heads = ["model", f"R@10 `{made['protocol']}`", *(f"R@10 `{k}`" for k in further)]
    if not short:
        heads += ["worst wording"] if made["outcomes"][0]["wordings"] else []
        heads += ["R@1", "R@50", DOMINANCE["nearest"], DOMINANCE["outranks"], "seeds", "parameters", "seconds"]
    about = f"Split `{made['split']}`, {made['queries']:,} queries over {made['gallery']:,} images."
    if not short:
        about += f" Measured {made['measured']}: `{made['command']}`."
    parts = [about, table(heads, rows), *differences(made, only, short), *([] if short else charts(name))]
    return "\n\n".join(parts)


def differences(made: dict, only: tuple[str, ...], short: bool) -> list[str]:
    "Recalls and differences to the best row with intervals over queries, and by group; or that none are known."
    if "differences" not in made:
        return [WITHOUT_INTERVALS]
    by_protocol = made["differences"]
    protocols = [made["protocol"]] if short else list(by_protocol)
    labels = sorted(by_protocol[made["protocol"]]["R@10"].items(), key=lambda item: -item[1])
    chosen = [label for label, _ in labels if label in only or not only]
    rows = [[label, *(difference_cell(by_protocol[p], label) for p in protocols)] for label in chosen]
    about = "R@10 with its 95 % interval over queries, and the difference to the best row with the p of a paired test:"
    parts = [f"{about}\n\n{table(['model', *(f'`{p}`' for p in protocols)], rows)}"]
    if not short:
        parts += group_tables(by_protocol[made["protocol"]], chosen)
    return parts


def difference_cell(made: dict, label: str) -> str:
    "'61.3 ± 1.1; −1.7 ± 0.4, p < 0.001' of a row under one protocol; '' if its ranks are not known."
    if label not in made["intervals"]:
        return ""
    interval = made["intervals"][label]
    recall = f"{interval['mean']:.1f} ± {interval['margin']:.1f}"
    if label == made["best"]:
        return f"{recall}; best"
    d = made["differences"][label]
    p = "p < 0.001" if d["p"] < 0.001 else f"p = {d['p']:.{3 if d['p'] < 0.01 else 2}f}"
    return f"{recall}; {d['mean']:+.1f} ± {d['margin']:.1f}, {p}{', within noise' if d['within_noise'] else ''}"


def group_tables(made: dict, labels: list[str]) -> list[str]:
    "R@10 by changed attribute, length of the text and wording, each with its interval."
    from fashionern.training.outcomes import LEAST_QUERIES

    parts = []
    for kind, all_groups in made.get("groups", {}).items():
        groups = {name: of_group for name, of_group in all_groups.items() if of_group["queries"] >= LEAST_QUERIES}
        small = [f"{name} ({all_groups[name]['queries']})" for name in all_groups if name not in groups]
        left_out = f"; too few queries: {', '.join(small)}" if small else ""
        rows = []
        for label in labels:
            cells = []
            for of_group in groups.values():
                interval = of_group["intervals"][label]
                is_noise = of_group["differences"].get(label, {}).get("within_noise", False)
                cells.append(f"{interval['mean']:.1f} ± {interval['margin']:.1f}{' ≈' if is_noise else ''}")
            rows.append([label, *cells])
        heads = ["model", *(f"{group} ({of_group['queries']:,})" for group, of_group in groups.items())]
        about = f"R@10 by {kind} (± 95 % interval over queries; ≈ within noise of {made['best']}{left_out}):"
        parts.append(f"{about}\n\n{table(heads, rows)}")
    return parts


def charts(name: str) -> list[str]:
    "The charts of a comparison that were taken with its figures, as Markdown of a guide."
    titles = {name: "R@10 of all methods with intervals", f"{name}-groups": "R@10 by group of queries, with intervals"}
    return [f"![{title}](../../nbs/results/{file}.png)" for file, title in titles.items() if is_picture(file)]


def is_picture(name: str) -> bool:
    return (RESULTS / f"{name}.png").is_file()


def take_chart(source: Path, name: str) -> None:
    "Copy a chart with few colours, so that it stays small; remove an earlier one if there is none now."
    from PIL import Image

    copy = RESULTS / f"{name}.png"
    if not source.is_file():
        copy.unlink(missing_ok=True)
        return
    with Image.open(source) as chart:
        chart.convert("RGB").quantize(32).save(copy, optimize=True)


def by_label(outcomes: list[dict]) -> dict[str, list[dict]]:
    "Outcomes of all seeds, by the label of their row."
    rows: dict[str, list[dict]] = {}
    for outcome in outcomes:
        rows.setdefault(outcome["label"], []).append(outcome)
    return rows


def cost(outcomes: list[dict]) -> list[str]:
    "Seeds, parameters of stage 2, and seconds of stage 1 + stage 2 for the fastest seed."
    first, second = (min(round(o[stage]) for o in outcomes) for stage in ("stage1_seconds", "seconds"))
    took = f"{first:,} + {second:,}" if first else f"{second:,}"
    return [str(len(outcomes)), f"{outcomes[0]['parameters']:,}", took]


def deviation(values: list[float]) -> list[float]:
    "Mean, and the sample standard deviation if there are several values."
    return [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]


def take_methods(name: str, run: Path) -> None:
    "Write NAME.json from a finished ern_methods with the preset that belongs to this table."
    sys.path.insert(0, str(ROOT))
    config = read(run / "config.json")
    outcomes = read(run / "methods.json")
    labels = list(by_label(outcomes))
    seeds = [str(seed) for seed in dict.fromkeys(o["seed"] for o in outcomes)]
    line = ["ern_methods", "--preset", TABLES[name], "--split", config["split"], *flags(config, TABLES[name])]
    counts = outcomes[0]["counts"].values()
    made = {
        "protocol": outcomes[0]["protocol"],
        "split": config["split"],
        "queries": sum(count["queries"] for count in counts),
        "gallery": sum(count["gallery"] for count in counts),
        "measured": time.strftime("%Y-%m-%d", time.gmtime((run / "methods.json").stat().st_mtime)),
        "command": shlex.join([*line, "--methods", *labels, "--seeds", *seeds]),
        "outcomes": outcomes,
    }
    if (run / "differences.json").is_file():
        made["differences"] = read(run / "differences.json")
        for protocol, compared in made["differences"].items():
            if protocol != made["protocol"]:
                compared.pop("groups", None)  # no table shows them
    write(RESULTS / f"{name}.json", made)
    take_chart(run / "methods.png", name)
    take_chart(run / f"groups.{made['protocol']}.png", f"{name}-groups")


_NOT_IN_COMMANDS = {
    "model", "compare", "seed", "root", "run_dir", "features_dir", "resume", "device", "num_workers", "save_every",
    "eval_every", "captions",
}  # fmt: skip


def flags(config: dict, preset: str) -> list[str]:
    "Flags whose values differ from the preset's."
    from fashionern.training.config import get_preset

    usual = json.loads(json.dumps(get_preset(preset).as_dict()))
    found: list[str] = []
    for key in sorted(usual.keys() - _NOT_IN_COMMANDS):
        value = config[key]
        if value == usual[key]:
            continue
        flag = f"--{key.replace('_', '-')}"
        if isinstance(value, bool):
            found.append(flag if value else f"--no-{flag.removeprefix('--')}")
        else:
            found += [flag, *map(str, value if isinstance(value, list) else [value])]
    return found


def published() -> str:
    "The paper's own figures."
    sys.path.insert(0, str(ROOT))
    from fashionern.evaluation.published import PUBLISHED

    rows = []
    for row in PUBLISHED:
        recalls = ", ".join(f"{k} {v:.2f}" for k, v in row.figures.items())
        rows.append([row.dataset, row.preset or "not stated", f"`{row.protocol}`", row.of, recalls])
    sources = "; ".join(dict.fromkeys(row.source for row in PUBLISHED))
    return f"{sources}:\n\n" + table(["dataset", "preset", "protocol", "category", "published"], rows, left=5)


def timings(made: dict) -> str:
    "The machine of a benchmark, and each fast path compared with its floor and with the reference implementation."
    rows = []
    for c in made["cases"]:
        if c["section"] in ("startup", "store") or not c["seconds"]:
            continue
        floor, *others = (
            f"{c['times_ours'][way]['median']:.2f}" if way in c["times_ours"] else ""
            for way in ("floor", "published", "whole batch")
        )
        memory = "; ".join(
            f"{'' if way == 'ours' else f'{LABELS.get(way, way)} '}{mb:,.0f}" for way, mb in c["memory_mb"].items()
        )
        rate = 1 / statistics.median(c["seconds"]["ours"])
        rows.append(
            [
                f"{c['section']}: {c['what']}",
                f"{rate:,.0f} {c['unit']}/s" if rate >= 10 else f"{rate:.2g} {c['unit']}/s",
                floor,
                others[0] or (others[1] and f"{others[1]} (against the whole batch)"),
                memory,
            ]
        )
    about = made["machine"]
    rounds = len(made["cases"][0]["seconds"]["ours"])
    where = f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}; medians of {rounds} rounds."
    heads = [
        "",
        "this project",
        "share of the floor's speed",
        "times as fast as the reference implementation",
        "memory, MB",
    ]
    kept = range(len(heads)) if any(row[-1] for row in rows) else range(len(heads) - 1)
    return f"{where}\n\n{table([heads[i] for i in kept], [[row[i] for i in kept] for row in rows])}"


def speed() -> str:
    "The whole benchmark."
    made = read(RESULTS / "benchmark.json")
    starts = [
        statistics.median(c["seconds"]["ours"])
        for c in made["cases"]
        if c["section"] == "startup" and c["what"].endswith("--help")
    ]
    return f"{timings(made)}\n\nEvery command shows its help within {max(starts):.2f} s."


def speed_of_regions() -> str:
    "Its parts `regions` and `query`, from a run of their own."
    made = read(RESULTS / "regions.json")
    pages = [
        f"{c['what'].rsplit(', ')[-1]} {1000 * statistics.median(c['seconds']['page']):,.0f} ms"
        for c in made["cases"]
        if "page" in c["seconds"]
    ]
    bare = [
        f"{c['what'].rsplit(', ')[-1]} {c['times_ours']['in memory']['median']:.2f}"
        for c in made["cases"]
        if "in memory" in c["seconds"]
    ]
    return (
        f"{timings(made)}\n\n"
        f"Compared with the bare forward pass on views that are in memory already, extraction has this share of the "
        f"speed: {', '.join(bare)}. "
        f"The same query through the page, from one client: {', '.join(pages)}."
    )


def speed_of_towers() -> str:
    "How many times as fast other ways to run an image tower are."
    made = read(RESULTS / "towers.json")
    ways = list(dict.fromkeys(way for c in made["cases"] for way in c["times_ours"]))
    rows = []
    for c in made["cases"]:
        rate = 1 / statistics.median(c["seconds"]["ours"])
        faster = [f"{1 / c['times_ours'][way]['median']:.2f}" if way in c["times_ours"] else "" for way in ways]
        rows.append([c["what"].removeprefix("image tower, "), f"{rate:,.{0 if rate >= 10 else 1}f} image/s", *faster])
    about = made["machine"]
    where = f"{about['cpu']}, {about['threads']} threads, torch {about['torch']}: times as fast as this project's way."
    return f"{where}\n\n{table(['image tower', 'this project', *ways], rows)}"


def _stores(name: str) -> tuple[dict[str, Any], dict[tuple[str, int, int], dict[str, Any]]]:
    "The machine of benchmarks/stores.py, and its results by kind of index, photos and dimension."
    made = read(RESULTS / f"stores-{name}.json")
    return made["machine"], {(r["kind"], r["count"], r["dim"]): r for r in made["results"]}


def _measured_where(machine: dict[str, Any], command: str) -> str:
    note = f"; {machine['note']}" if machine["note"] else ""
    return f"Measured {machine['date']} on {machine['cpu']}, {machine['threads']} thread{note}: `{command}`."


def _bytes(size: float) -> str:
    for unit in ("kB", "MB", "GB", "TB"):
        size /= 1_000
        if size < 1_000 or unit == "TB":
            break
    return f"{size:,.{0 if size >= 10 else 1}f} {unit}"


def _duration(seconds: float) -> str:
    for limit, divisor, unit in ((1, 1e-3, "ms"), (120, 1, "s"), (7_200, 60, "min"), (172_800, 3_600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:,.{1 if seconds / divisor < 10 else 0}f} {unit}"
    return f"{seconds / 86_400:,.0f} d"


def milvus() -> str:
    "What a Milvus server needs for an index: one column for each kind; '' if unmeasured."
    if not (RESULTS / "stores-milvus.json").exists():
        return ""
    machine, results = _stores("milvus")
    rows = {
        "build": lambda r: _duration(r["build"]),
        "data of the server": lambda r: _bytes(r["disk"]),
        "memory of the server": lambda r: _bytes(r["server memory"]),
        "search, p50 / p95": lambda r: _percentiles(r["search"]["all"]),
        "recall@10": lambda r: f"{r['search']['all']['recall']:.3f}",
    }
    for name in ("a tenth", "a hundredth", "one photo"):
        rows[f"filter: {name}, p50 / p95"] = lambda r, name=name: _percentiles(r["search"][name])
        rows[f"filter: {name}, recall@10"] = lambda r, name=name: f"{r['search'][name]['recall']:.3f}"
    rows["1,000 photos updated"] = lambda r: _duration(r["update"])
    rows["1,000 photos removed"] = lambda r: _duration(r["remove"])
    rows["a put of 50 photos"] = lambda r: _duration(r["kill"]["usual"])
    rows["longest put while the server is killed and started"] = lambda r: _duration(r["kill"]["longest"])
    rows["searches again after"] = lambda r: _duration(r["kill"]["start"] + r["kill"]["reopened"])
    heads = ["", *(f"{r['count']:,} photos, `{kind}`" for (kind, _, _), r in results.items())]
    lines = [[name, *map(cell, results.values())] for name, cell in rows.items()]
    return f"{_measured_where(machine, 'python benchmarks/stores.py milvus')}\n\n{table(heads, lines)}"


def _percentiles(search: dict[str, float]) -> str:
    return f"{_duration(search['p50'])} / {_duration(search['p95'])}"


INDEX_KINDS = ("exact", "hnsw", "ivf-pq")
SIZES = [10**5, 3 * 10**5, 10**6, 10**7, 10**8, 10**9]
LARGEST_MEMORY = 64e9  # bytes of a usual server


def sizing() -> str:
    "What an index in a folder needs: measured at two sizes, on a line through both beyond them; '' if unmeasured."
    if not (RESULTS / "stores-folder.json").exists():
        return ""
    machine, results = _stores("folder")
    counts = {kind: sorted(n for k, n, dim in results if (k, dim) == (kind, 256)) for kind in INDEX_KINDS}
    costs: dict[str, Callable[[dict[str, Any]], float]] = {
        "disk": lambda r: r["disk"],
        "memory": lambda r: r["search"]["memory"],
        "build": lambda r: r["build cpu"],
        "search": lambda r: r["search"]["all"]["p50"],
    }

    def cost(kind: str, name: str, count: int) -> float:
        first, last = counts[kind][0], counts[kind][-1]
        small, large = (costs[name](results[kind, n, 256]) for n in (first, last))
        position = math.log10 if (kind, name) == ("hnsw", "search") else float
        if first == last:
            return small * position(count) / position(first)
        step = (position(count) - position(first)) / (position(last) - position(first))
        return max(small, small + step * (large - small))

    rows = []
    for count in SIZES:
        for kind in ("exact", "hnsw", "ivf-pq"):
            cells = [_bytes(cost(kind, name, count)) for name in ("disk", "memory")]
            cells += [_duration(cost(kind, name, count)) for name in ("build", "search")]
            about = "" if count in counts[kind] else "≈ "
            rows.append([f"{count:,}", f"`{kind}`", *(f"{about}{cell}" for cell in cells)])
    fits = {kind: _largest(lambda n, kind=kind: cost(kind, "memory", n) <= LARGEST_MEMORY) for kind in INDEX_KINDS}
    quick = _largest(lambda n: cost("exact", "search", n) <= 0.1)
    largest = {kind: results[kind, sizes[-1], 256] for kind, sizes in counts.items() if kind != "exact"}
    recalls = [f"`{kind}` {r['promised']:.3f} at {r['count']:,}" for kind, r in largest.items()]
    wide = [f"{n:,} photos take {_bytes(r['disk'])} in `{kind}`" for (kind, n, dim), r in results.items() if dim == 640]
    wider = f"With dimension 640, {', '.join(wide)}. " if wide else ""
    about = "Dimension 256. Values with ≈ are on a line through the measured sizes"
    lines = "; ".join(f"`{kind}` {' and '.join(f'{n:,}' for n in sizes)}" for kind, sizes in counts.items())
    return "\n\n".join(
        [
            f"{_measured_where(machine, 'python benchmarks/stores.py folder')} {about} ({lines} photos). "
            f"Recall@10: {', '.join(recalls)} photos.",
            table(["photos", "kind", "disk", "memory", "build, CPU time", "search, p50"], rows, left=2),
            f"{wider}On this machine, change from `exact` to `hnsw` or `ivf-pq` at "
            f"about {quick:,} photos, where a search takes 0.1 s. `hnsw` needs more than {_bytes(LARGEST_MEMORY)} of "
            f"memory from about {fits['hnsw']:,} photos on, and `ivf-pq` from about {fits['ivf-pq']:,}: then use "
            "several machines with Milvus.",
        ]
    )


def _largest(fits: Callable[[int], bool]) -> int:
    "The largest number of photos, in one digit, that fits."
    numbers = [digit * 10**power for power in range(5, 12) for digit in range(1, 10)]
    return max((n for n in numbers if fits(n)), default=numbers[0])


BLOCKS: dict[str, Callable[[], str]] = {
    "demo": demo,
    "laptop": partial(methods, "laptop"),
    "laptop-short": partial(methods, "laptop", SHORT, True),
    "catalogue-all": catalogue_all,
    "methods": partial(methods, "methods"),
    "regions": regions,
    "tiny": partial(methods, "tiny"),
    "tiny-grid": partial(methods, "tiny-grid"),
    "garments": partial(methods, "garments"),
    "obedience": obedience,
    "obedience-short": obedience_short,
    "published": published,
    "speed": speed,
    "speed-regions": speed_of_regions,
    "speed-towers": speed_of_towers,
    "sizing": sizing,
    "milvus": milvus,
}


def filled(text: str) -> str:
    "The page's text with every marked block rewritten from its file."
    return BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]()}\n\n{m[3]}", text)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="run folder of make demo")
    parser.add_argument("--obedience", type=Path, help="run folder of ern_eval --obedience")
    for name, preset in TABLES.items():
        parser.add_argument(f"--{name}", type=Path, help=f"run folder of ern_methods with the preset {preset}")
    about = "run folders of ern_methods with --regions grid and --regions crops; may be repeated"
    parser.add_argument("--regions", type=Path, nargs=2, action="append", metavar=("GRID", "CROPS"), help=about)
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    given = parser.parse_args(args)
    if given.demo:
        take_demo(given.demo)
    if given.obedience:
        take_obedience(given.obedience)
    if given.regions:
        take_regions(given.regions)
    for name in TABLES:
        if run := getattr(given, name.replace("-", "_")):
            take_methods(name, run)
    stale = [
        page
        for page in PAGES
        if filled((ROOT / page).read_text(encoding="utf-8")) != (ROOT / page).read_text(encoding="utf-8")
    ]
    for page in stale:
        if not given.check:
            (ROOT / page).write_text(filled((ROOT / page).read_text(encoding="utf-8")), encoding="utf-8")
        print(f"{page}: {'differs from its files; run python docs/figures.py' if given.check else 'written'}")
    return int(bool(stale) and given.check)


if __name__ == "__main__":
    sys.exit(main())
