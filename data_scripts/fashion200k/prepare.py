"Prepare Fashion200k: label files, test queries and cropped images. See README.md."

import sys
from itertools import product
from pathlib import PurePosixPath

from fashionern.data.datasets.fashion200k import CATEGORIES, SPLITS
from fashionern.data.download.archives import tree
from fashionern.data.download.prepare import Annotation, Source, prepare_dataset
from fashionern.data.images import IMAGE_SUFFIXES

NAMES = (f"{category}_{split}" for category, split in product(CATEGORIES, SPLITS))
LABELS = tuple(Annotation(f"labels/{name}_detect_all.txt") for name in NAMES)
QUERIES = Annotation("test_queries.txt", "https://storage.googleapis.com/image_retrieval_css/test_queries.txt")
FOLDERS = ("dresses", "jackets", "pants", "skirts", "tops")  # of women/


def place(name):
    "Image names start with women/, even if an archive was packed inside that folder."
    target = tree(IMAGE_SUFFIXES, "women", *FOLDERS)(name)
    inside = target and PurePosixPath(target).parts[0] in FOLDERS
    return f"women/{target}" if inside else target


SOURCE = Source(name="fashion200k", annotations=(*LABELS, QUERIES), place=place, images=".")

if __name__ == "__main__":
    sys.exit(prepare_dataset(SOURCE, __doc__))
