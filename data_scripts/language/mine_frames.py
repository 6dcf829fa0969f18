"Print the sentences in which people ask for a colour, with the colour as a slot: candidates for data/language/frames."

import argparse
import json
import re
import sys
from collections import Counter
from pathlib import Path

from fashionern.data.language.frames import SPLITS, frames, signature
from fashionern.data.language.parser import normalised
from fashionern.errors import ErnError, FlagParser, exit_on_error

VALUES = {
    "colour": "red blue green black white pink purple yellow orange grey brown beige navy teal gold silver".split(),
    "pattern": "striped floral checked plaid dotted printed paisley".split(),
}
SEVERAL = re.compile(r"\b(and|with|less|but|without)\b")  # words of sentences that say more than one thing


def mine(captions: list[str], values: list[str]) -> Counter[str]:
    "Sentences with one value, which is replaced by {word}, and how often they occur."
    value = re.compile(rf"\b(?:{'|'.join(values)})\b")
    found: Counter[str] = Counter()
    for caption in captions:
        text = " ".join(normalised(caption))
        if len(value.findall(text)) == 1 and not SEVERAL.search(text):
            found[value.sub("{word}", text)] += 1
    return found


def construction(text: str) -> str:
    "A frame with one kind of slot and British spelling."
    return re.sub(r"{\w+}", "{word}", text.replace("color", "colour"))


def read_captions(folder: Path) -> list[str]:
    "The captions of FashionIQ's training files in a folder; never those of validation, which test the grammar."
    files = sorted(folder.glob("cap.*.train.json"))
    if not files:
        raise ErnError(f"{folder} has no cap.*.train.json. Give the folder of FashionIQ's captions.")
    captions: list[str] = []
    for file in files:
        for entry in json.loads(file.read_text(encoding="utf-8")):
            captions += entry["captions"]
    return captions


@exit_on_error()
def main(argv: list[str] | None = None) -> None:
    parser = FlagParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--captions", type=Path, required=True, help="folder with FashionIQ's captions")
    parser.add_argument("--kind", choices=list(VALUES), default="colour", help="kind of attribute")
    parser.add_argument("--min-count", type=int, default=5, help="fewest occurrences of a sentence")
    args = parser.parse_args(argv)
    known = {signature(construction(frame.text)) for split in SPLITS for frame in frames(split)}
    for text, count in mine(read_captions(args.captions), VALUES[args.kind]).most_common():
        if count >= args.min_count and signature(construction(text)) not in known:
            print(f"{count:5}  {text}")


if __name__ == "__main__":
    main(sys.argv[1:])
