"A product table and an archive of its photos become a dataset folder; see README.md beside this file."

import argparse
import sys
from pathlib import Path

from fashionern.errors import ErnError, exit_on_error
from fashionern.data.datasets.check import check_dataset, check_sentences
from fashionern.data.catalogue.photos import unpack_images
from fashionern.data.download.prepare import conclude, unpack_archives
from fashionern.data.catalogue.table import triplets_from_table


def amount(text: str) -> float | int | None:
    "A number of products, a share below 1, or 'rest'."
    return None if text == "rest" else float(text) if "." in text else int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    "The options; the defaults are those for a catalogue with the columns of the README."
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    p.add_argument("--table", type=Path, required=True, help="CSV or Parquet file, a product a row")
    p.add_argument("--images", type=Path, help="ZIP or TAR of the photos; without it they must lie in ROOT/images already")
    p.add_argument("--root", type=Path, default=Path("data/catalogue"), help="folder to write")
    p.add_argument("--id-column", default="id", help="column that names the photo")
    p.add_argument("--name-column", default="productDisplayName", help="column with the name for people; '' for none")
    p.add_argument(
        "--attributes",
        nargs="+",
        default=["articleType", "baseColour", "gender", "usage"],
        help="columns a query may change",
    )
    p.add_argument("--where", nargs="*", default=["masterCategory=Apparel,Footwear"], help="rows to keep, as COLUMN=VALUE,VALUE; alone: all")
    p.add_argument("--train", type=amount, default=16000, help="products: a number, a share such as 0.8, or 'rest'")
    p.add_argument("--val", type=amount, default=3970, help="the same for validation")
    p.add_argument("--test", type=amount, default=0, help="the same for test")
    p.add_argument("--per-product", type=int, default=4, help="training triplets with the same reference")
    p.add_argument("--queries", type=int, help="at most so many val (and test) queries, otherwise one a product")
    p.add_argument("--same-name", action="store_true", help="keep products of one name on one side too")
    p.add_argument("--max-gb", type=float, default=20, help="refuse an archive that unpacks to more GB")
    p.add_argument("--seed", type=int, default=42, help="of splits, pairs and sentences")
    return p.parse_args(argv)


def conditions(where: list[str]) -> dict[str, list[str]]:
    "Column → values, from COLUMN=VALUE,VALUE."
    for text in where:
        if "=" not in text:
            raise ErnError(f"--where {text!r} has no '='; write COLUMN=VALUE,VALUE.")
    return {column: values.split(",") for column, values in (text.split("=", 1) for text in where)}


def rows(report: dict) -> list[tuple[str, object]]:
    "What was found, left out and made, a line each."
    lines = [(f"found: {k}", v) for k, v in report["found"].items()]
    lines += [(f"left out: {k}", v) for k, v in report["left out"].items()] + [
        ("photos without a row", report["photos without a row"])
    ]
    lines += [(f"usable: {k}", v) for k, v in report["usable"].items()]
    for split, made in report["splits"].items():
        lines += [(f"{split}: {k}", made[k]) for k in ("products", "references", "triplets")]
        lines += [(f"{split}: changed {k}", v) for k, v in made["changed"].items()]
        lines += [(f"{split}: right answers to a question, {k}", v) for k, v in made["right answers"].items()]
    return lines


def main(argv: list[str] | None = None) -> int:
    "Unpack, make, tell; 0 where all is there, 1 where not, 2 where the input is wrong."
    o = parse(argv)
    with exit_on_error():
        if o.images and o.images.is_dir():
            raise ErnError(f"--images {o.images} is a folder; put it, or a link to it, at {o.root / 'images'} and leave --images out.")
        where, max_bytes = conditions(o.where), int(o.max_gb * 1e9)
        archives = unpack_archives([o.images] if o.images else [], lambda path: unpack_images(path, o.root / "images", max_bytes))
        report = triplets_from_table(
            o.table, o.id_column, o.attributes, o.root, o.name_column or None, where, o.train, o.val, o.test,
            o.per_product, o.queries, o.same_name, o.seed,
        )  # fmt: skip
        for name, value in rows(report):
            print(f"{name:50} {value:>10,}")
        found = check_dataset("folder", o.root, read_images=False)  # making the triplets has read them
        print(*check_sentences(found), sep="\n")
        print(f"Train on it with ern_train --preset catalogue --root {o.root} --run-dir runs/{o.root.resolve().name}")
        print(f"From Python: create_dataset('folder', {str(o.root)!r}, 'train')")
        done = {"archives": archives if any(a["unpacked now"] for a in archives.values()) else {}}
        return conclude(o.root, {"dataset": "folder", "check": found.as_dict()}, done, found.complete)


if __name__ == "__main__":
    sys.exit(main())
