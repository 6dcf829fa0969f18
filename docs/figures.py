"""Write the tables of README and guides between their markers, from files that commands wrote.

python docs/figures.py                               rewrite every marked block from the current files
python docs/figures.py --demo runs/demo              after make demo: use its figures
python docs/figures.py --methods runs/methods …      after ern_methods or ern_ablate: add their rows to the table
python docs/figures.py --obedience runs/demo         after ern_eval --obedience: how often results are as the text asks
python docs/figures.py --laptop runs/methods         after ern_methods --preset catalogue: its table
python docs/figures.py --check                       write nothing; status 1 if a block differs from its file
"""

import argparse
import json
import re
import shlex
import statistics
import sys
import time
from pathlib import Path
from typing import Any, Callable

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "nbs" / "results"
GUIDES = ("03_search", "04_shop", "05_reproducing", "06_catalogue_results", "07_speed")
PAGES = ("README.md", *(f"docs/guides/{name}.md" for name in GUIDES))
BLOCK = re.compile(r"(<!-- figures: (\S+) -->\n).*?(<!-- end of figures -->)", re.S)
DOMINANCE = {"nearest": "ref 1st %", "outranks": "ref > target %", "margin": "Δcos"}
PEERS = (
    "tirg",
    "val",
    "artemis",
    "attention-pooling",
    "combiner",
    "vtf",
    "amc",
    "fame-vil",
    "compodiff",
    "cala",
    "dqu-cir",
)
LABELS = {"published": "reference"}  # implementation in benchmark.json → its label in the table
OURS = "fashionern@mask_padding,by_place,gate_noise=0.3"
SHORT = (
    OURS,
    "dvr@mask_padding,by_place,gate_noise=0.3",
    "dvr@mask_padding,by_place",
    "tme+combiner+refine@by_place,gate_noise=0.3",
    "vtf", "combiner", "sum", "image-only", "text-only",
)  # fmt: skip


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
        name = f"**{r['model']}**" if r["model"] == "fashionern" else r["model"]
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
    examples = ", ".join(f"*{example['text']}* {percent(example['share'])}" for example in made["examples"])
    overall = made["overall"]
    return (
        f"Green: the result is as the text asks. Of {made['sentences']:,} measured sentences, the picture shows the "
        f"one that works best for each attribute, from a typical reference. Share of its first {made['k']} results, "
        f"over all its references, that are as it asks: {examples}. Over all sentences it is "
        f"{percent(overall['share'])}, and {percent(overall['chance'])} for a random ranking "
        f"([by attribute](docs/guides/03_search.md#results-and-the-text))."
    )


def take_obedience(run: Path) -> None:
    "Write obedience.json and demo.png after `ern_eval --obedience` on a run."
    from PIL import Image

    results = {result["model"]: result for result in read(run / "obedience.json")}
    made = results.get("fashionern", list(results.values())[-1])
    measured = time.strftime("%Y-%m-%d", time.gmtime((run / "obedience.json").stat().st_mtime))
    command = f"ern_eval --run-dir {run} --models {made['model']} --obedience {made['drawn']} --seed {made['seed']}"
    write(RESULTS / "obedience.json", {"command": command, "measured": measured, **made})
    with Image.open(run / "obedience.png") as grid:
        small = grid.convert("RGB")
        small.thumbnail((900, 900))
        small.quantize(128).save(RESULTS / "demo.png", optimize=True)


def label(row: dict) -> str:
    name = f"**{row['model']}**" if row["model"] == OURS and not row["variant"] else row["model"]
    return name + (f", {row['variant']}" if row["variant"] else "") + (f": {row['about']}" if row["about"] else "")


def named(rows: list[dict], model: str, variant: str = "") -> dict:
    return next(r for r in rows if (r["model"], r["variant"]) == (model, variant))


def catalogue_rows(rows: list[dict]) -> str:
    heads = ["model", "R@1", "R@10", "R@50", *DOMINANCE.values(), "seeds", "parameters", "seconds"]
    body = []
    for r in rows:
        first, *rest = r.get("seconds", (0,))
        took = " + ".join(f"{t:,}" for t in ((first, *rest) if first else rest))
        body.append(
            [
                label(r),
                *(spread(r["figures"][k]) for k in heads[1:4]),
                *dominance(r["figures"]),
                str(len(r["seeds"])),
                f"{r['parameters']:,}",
                took,
            ]
        )
    return table(heads, body)


def points(first: dict, second: dict, recall: str = "R@10") -> str:
    "The difference between two rows, such as '1.2 points above'."
    by = first["figures"][recall][0] - second["figures"][recall][0]
    return f"{abs(by):.1f} points {'above' if by >= 0 else 'below'}"


def catalogue() -> str:
    "The most important rows, below a summary of what they show."
    made = read(RESULTS / "catalogue.json")
    rows = made["rows"]
    ours = named(rows, OURS)
    best = max((named(rows, peer) for peer in PEERS), key=lambda row: row["figures"]["R@10"][0])
    without, plain = (named(rows, model) for model in SHORT[1:3])
    longer = next((row for row in rows if (row["model"], row["variant"]) == (best["model"], "4 epochs")), None)
    more = ""
    if longer:
        same_work = f"`{best['model']}` trained on as many triplets as both stages of FashionERN"
        more = f" ({points(ours, longer)} {same_work})"
    summary = (
        f"{ranked(made)} FashionERN with `mask_padding`, `by_place` and `gate_noise=0.3` "
        f"is {points(ours, named(rows, 'combiner'))} CLIP4Cir's Combiner in R@10 and "
        f"{points(ours, best)} the best other method, `{best['model']}`{more}. "
        f"The same model without TME is {points(without, ours)} it; "
        f"without TME and with the published gates it is {points(plain, ours)} it."
    )
    return f"{summary}\n\n{catalogue_rows([named(rows, model) for model in SHORT])}"


def catalogue_short() -> str:
    "Four rows for the README: recalls and dominance only."
    made = read(RESULTS / "catalogue.json")
    columns = ("R@1", "R@10", "R@50")
    names = ("nearest", "outranks")
    body = []
    for model in (OURS, "dvr@mask_padding,by_place", "vtf", "combiner", "sum"):
        row = named(made["rows"], model)
        name = f"**{model}**" if model == OURS else model
        body.append([name, *(spread(row["figures"][key]) for key in (*columns, *names))])
    heads = ["model", *columns, *(DOMINANCE[name] for name in names)]
    return f"{ranked(made)}\n\n{table(heads, body)}"


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


def laptop() -> str:
    "Methods with the pretrained encoder `ern-laptop`, best R@10 on new wordings first."
    made = read(RESULTS / "laptop.json")
    by_label: dict[str, list[dict]] = {}
    for outcome in made["outcomes"]:
        by_label.setdefault(outcome["label"], []).append(outcome)
    further = list(made["outcomes"][0]["further"])
    rows = []
    for name, outcomes in by_label.items():
        columns = [[o["mean"][k] for o in outcomes] for k in ("R@1", "R@10")]
        columns += [[o["further"][k] for o in outcomes] for k in further]
        columns += [[o["dominance"][k] for o in outcomes] for k in ("nearest", "outranks")]
        cells = [spread(deviation(values)) for values in columns]
        seconds = statistics.fmean(o["seconds"] for o in outcomes)
        rows.append([name, *cells, str(len(outcomes)), f"{seconds:.0f}"])
    rows.sort(key=lambda row: -float(row[2].split()[0]))
    others = [f"R@10 `{name}`" for name in further]
    heads = ["model", "R@1", "R@10", *others, "ref 1st %", "ref > target %", "seeds", "s"]
    about = f"Protocol `{made['protocol']}` where no other is named. Measured {made['measured']}: `{made['command']}`."
    return f"{about}\n\n{table(heads, rows)}"


def deviation(values: list[float]) -> list[float]:
    "Mean, and the sample standard deviation if there are several values."
    return [statistics.fmean(values), *([statistics.stdev(values)] if len(values) > 1 else [])]


def take_laptop(run: Path) -> None:
    "Write laptop.json from a finished ern_methods with the preset `catalogue`."
    outcomes = read(run / "methods.json")
    methods = dict.fromkeys(o["model"] for o in outcomes)
    seeds = dict.fromkeys(str(o["seed"]) for o in outcomes)
    measured = time.strftime("%Y-%m-%d", time.gmtime((run / "methods.json").stat().st_mtime))
    command = f"ern_methods --preset catalogue --methods {' '.join(methods)} --seeds {' '.join(seeds)}"
    made = {"protocol": outcomes[0]["protocol"], "measured": measured, "command": command, "outcomes": outcomes}
    write(RESULTS / "laptop.json", made)


def take_methods(run: Path) -> None:
    "Add the rows of a finished ern_methods or ern_ablate to catalogue.json; each replaces the row of the same name."
    config = read(run / "config.json")
    outcomes = read(run / "methods.json")
    made = read(RESULTS / "catalogue.json")
    if other := {o["protocol"] for o in outcomes} - {made["protocol"]}:
        sys.exit(
            f"{run} was ranked under {', '.join(sorted(other))}, but the table under {made['protocol']}. "
            "One table cannot hold two protocols."
        )
    rows = {(r["model"], r["variant"]): r for r in made["rows"]}
    measured = time.strftime("%Y-%m-%d", time.gmtime((run / "methods.json").stat().st_mtime))
    for name in dict.fromkeys(o["label"] for o in outcomes):
        new = row_of([o for o in outcomes if o["label"] == name], config) | {"measured": measured}
        key = new["model"], new["variant"]
        rows[key] = {**new, "about": new["about"] or rows.get(key, new)["about"]}
    dates = {r["measured"] for r in rows.values()}
    write(
        RESULTS / "catalogue.json",
        {**made, "notes": {k: v for k, v in made["notes"].items() if k in dates}, "rows": list(rows.values())},
    )


def row_of(
    outcomes: list[dict],  # of one row, one per seed
    config: dict,  # of the run
) -> dict:
    "Mean and sample standard deviation over the seeds, the shortest time, and the command for this row."
    sys.path.insert(0, str(ROOT))
    from fashionern.models.registry import MODELS, parse_model
    from fashionern.training.comparison import ablation_rows

    name, model = outcomes[0]["label"], outcomes[0]["model"]
    base, at, settings = model.partition("@")
    slots = parse_model(model)[0]
    known = next((n for n, s in MODELS.items() if s == slots), base) + at + settings
    variant = name.removeprefix(f"{model}, ") if name.startswith(f"{model}, ") else ""
    about, wanted = "", ["--methods", model, *(["--longer", model] if variant else [])]
    if "rows" in config:
        changed = {r.label for r in ablation_rows(config["model"], config["ablate_clip_lr"]) if r.changes}
        variant, about = (name, "") if name in changed else ("", "" if name == "fashionern" else name)
        wanted = ["--model", config["model"], "--rows", name]
    seeds = [o["seed"] for o in outcomes]
    program = "ern_ablate" if "rows" in config else "ern_methods"
    line = [
        program,
        "--preset",
        "catalogue-tiny",
        "--root",
        "data/catalogue",
        *wanted,
        "--seeds",
        *map(str, seeds),
        *flags(config),
    ]
    numbers = [o["mean"] | o["dominance"] for o in outcomes]
    figures = {
        k: [round(f([n[k] for n in numbers]), 4) for f in (statistics.fmean, statistics.stdev)[: len(seeds)]]
        for k in ("R@1", "R@10", "R@50", *DOMINANCE)
    }
    took = [
        round(min(o[stage] for o in outcomes)) for stage in ("stage1_seconds", "seconds")
    ]  # of the seed that other jobs disturbed least
    row = {
        "model": known,
        "variant": variant,
        "about": about,
        "seeds": seeds,
        "figures": figures,
        "parameters": outcomes[0]["parameters"],
    }
    return row | {"seconds": took, "command": shlex.join(line)}


def flags(config: dict) -> list[str]:
    "Flags whose values differ from the preset's."
    from fashionern.training.config import get_preset

    preset, found = json.loads(json.dumps(get_preset("catalogue-tiny").as_dict())), []
    for key in preset.keys() - {
        "model",
        "compare",
        "seed",
        "root",
        "run_dir",
        "features_dir",
        "resume",
        "device",
        "num_workers",
        "save_every",
        "eval_every",
    }:
        if config[key] != preset[key]:
            flag, value = key.replace("_", "-"), config[key]
            found += (
                [f"--{flag}" if value else f"--no-{flag}"]
                if isinstance(value, bool)
                else [f"--{flag}", *map(str, value if isinstance(value, list) else [value])]
            )
    return found


def published() -> str:
    "The paper's own figures."
    made = read(RESULTS / "published.json")
    rows = []
    for f in made["figures"]:
        recalls = ", ".join(f"{k} {v:.2f}" for k, v in f.items() if k.startswith("R"))
        rows.append([f["dataset"], f["preset"] or "not stated", f"`{f['protocol']}`", f["of"], recalls])
    return f"{made['source']}:\n\n" + table(["dataset", "preset", "protocol", "category", "published"], rows, left=5)


def speed() -> str:
    "Each fast path, compared with its floor and with the reference implementation."
    made = read(RESULTS / "benchmark.json")
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
                f"{rate:,.0f} {c['unit']}/s",
                floor,
                others[0] or (others[1] and f"{others[1]} (against the whole batch)"),
                memory,
            ]
        )
    starts = [
        statistics.median(c["seconds"]["ours"])
        for c in made["cases"]
        if c["section"] == "startup" and c["what"].endswith("--help")
    ]
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
    return f"{where}\n\n{table(heads, rows)}\n\nEvery command shows its help within {max(starts):.2f} s."


BLOCKS: dict[str, Callable[[], str]] = {
    "demo": demo,
    "catalogue": catalogue,
    "catalogue-short": catalogue_short,
    "catalogue-all": catalogue_all,
    "laptop": laptop,
    "obedience": obedience,
    "obedience-short": obedience_short,
    "published": published,
    "speed": speed,
}


def filled(text: str) -> str:
    "The page's text with every marked block rewritten from its file."
    return BLOCK.sub(lambda m: f"{m[1]}\n{BLOCKS[m[2]]()}\n\n{m[3]}", text)


def main(args: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, help="run folder of make demo")
    parser.add_argument("--obedience", type=Path, help="run folder of ern_eval --obedience")
    parser.add_argument("--methods", type=Path, nargs="+", default=[], help="run folders of ern_methods or ern_ablate")
    parser.add_argument("--laptop", type=Path, help="run folder of ern_methods with the preset catalogue")
    parser.add_argument("--check", action="store_true", help="compare and write nothing")
    given = parser.parse_args(args)
    if given.demo:
        take_demo(given.demo)
    if given.obedience:
        take_obedience(given.obedience)
    for run in given.methods:
        take_methods(run)
    if given.laptop:
        take_laptop(given.laptop)
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
