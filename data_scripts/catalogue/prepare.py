"Build a dataset folder from a product table and its photos. See README.md."

import argparse
import sys
from pathlib import Path

from fashionern.data.catalogue.prepare import check_and_record, parse_where, take_photos
from fashionern.data.catalogue.table import triplets_from_table
from fashionern.errors import FlagParser, exit_on_error


def amount(text: str) -> float | int | str | None:
    "A number of products, a share below 1, None for 'rest', or 'unused'."
    if text in ("rest", "unused"):
        return None if text == "rest" else text
    return float(text) if "." in text else int(text)


def parse(argv: list[str] | None) -> argparse.Namespace:
    "The options. The defaults fit a catalogue with the columns in README.md."
    p = FlagParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add = p.add_argument
    attributes = ["articleType", "baseColour", "gender", "usage"]
    where = ["masterCategory=Apparel,Footwear"]
    add("--table", type=Path, required=True, help="CSV, Parquet or JSON Lines, or a shop's export")
    add("--images", type=Path, help="photos: ZIP or TAR file, or a folder; without it they must be in ROOT/images")
    add("--root", type=Path, default=Path("data/catalogue"), help="folder to write")
    add("--id-column", default="id", help="column that names the photo")
    add("--name-column", default="productDisplayName", help="column with the name for people; '' for none")
    add("--attributes", nargs="+", default=attributes, help="columns that a query may change")
    add("--where", nargs="*", default=where, help="rows to keep, as COLUMN=VALUE,VALUE; without a value: all")
    add("--train", type=amount, default=16000, help="products: a number, a share such as 0.8, or 'rest'")
    add("--val", type=amount, default=3970, help="the same for validation")
    add("--test", type=amount, default="unused", help="the same for test; unused: all that no other split takes")
    add("--per-product", type=int, default=4, help="max training triplets with the same reference")
    add("--two-changes", type=int, default=1, help="the same for triplets that change two attributes; 0: none")
    add("--queries", type=int, help="max val (and test) queries; without it one per product")
    add("--same-name", action="store_true", help="keep products with the same name in one split")
    add("--group-by", help="column that photos of one product share (default: the product of a shop's export)")
    add("--max-gb", type=float, default=20, help="refuse an archive that unpacks to more GB")
    add("--seed", type=int, default=42, help="of splits, pairs and texts")
    return p.parse_args(argv)


def build(o: argparse.Namespace, where: dict[str, list[str]]) -> dict:
    "Write the dataset folder and return its report."
    unused = 0 if None in (o.train, o.val) else None
    return triplets_from_table(
        o.table,
        o.id_column,
        o.attributes,
        o.root,
        o.name_column or None,
        where,
        train=o.train,
        val=o.val,
        test=unused if o.test == "unused" else o.test,
        per_product=o.per_product,
        two_changes=o.two_changes,
        queries=o.queries,
        same_name=o.same_name,
        group_by=o.group_by,
        seed=o.seed,
    )


def rows(report: dict) -> list[tuple[str, object]]:
    "The numbers of the report, with a label each."
    lines = [(f"found: {key}", value) for key, value in report["found"].items()]
    lines += [(f"left out: {key}", value) for key, value in report["left out"].items()]
    lines.append(("photos without a row", report["photos without a row"]))
    lines += [(f"photos left out: {key}", value) for key, value in report.get("photos left out", {}).items()]
    lines += [(f"usable: {key}", value) for key, value in report["usable"].items()]
    for split, numbers in report["splits"].items():
        lines += [(f"{split}: {key}", numbers[key]) for key in ("products", "references", "triplets")]
        lines += [(f"{split}: queries, {key}", value) for key, value in numbers["query sets"].items()]
        lines += [(f"{split}: changed {key}", value) for key, value in numbers["changed"].items()]
        lines += [(f"{split}: targets per query, {key}", value) for key, value in numbers["right answers"].items()]
    return lines


def main(argv: list[str] | None = None) -> int:
    "Unpack, build and check. Returns 0 if complete, else 1. Wrong input exits with status 2."
    o = parse(argv)
    with exit_on_error():
        where = parse_where(o.where)  # first, so that an error is reported before a large archive is unpacked
        archives = take_photos(o.images, o.root, o.max_gb) if o.images else {}
        for name, value in rows(build(o, where)):
            print(f"{name:50} {value:>10,}")
        hints = (
            f"Train on it: ern_train --preset catalogue --root {o.root} --run-dir runs/{o.root.resolve().name}",
            f"From Python: create_dataset('folder', {str(o.root)!r}, 'train')",
        )
        return check_and_record(o.root, archives, hints)


if __name__ == "__main__":
    sys.exit(main())
