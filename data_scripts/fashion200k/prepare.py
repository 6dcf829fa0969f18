"Fashion200k: label files, the test queries, and the cropped images; see README.md beside this file."

import sys
from pathlib import PurePosixPath

from fashionern.data.download.archives import tree
from fashionern.data.datasets.check import check_dataset, check_sentences, check_table
from fashionern.data.images import IMAGE_SUFFIXES
from fashionern.data.datasets.fashion200k import CATEGORIES, SPLITS
from fashionern.data.download.prepare import Annotation, Source, run

LABELS = tuple(Annotation(f"labels/{c}_{s}_detect_all.txt") for c in CATEGORIES for s in SPLITS)
QUERIES = Annotation("test_queries.txt", "https://storage.googleapis.com/image_retrieval_css/test_queries.txt")
FOLDERS = ("dresses", "jackets", "pants", "skirts", "tops")  # of women/


def place(name):
    "Image names begin with women/, also where an archive was packed inside that folder."
    target = tree(IMAGE_SUFFIXES, "women", *FOLDERS)(name)
    return f"women/{target}" if target and PurePosixPath(target).parts[0] in FOLDERS else target


SOURCE = Source(name="fashion200k", annotations=(*LABELS, QUERIES), place=place, images=".")

if __name__ == "__main__":
    sys.exit(run(SOURCE, check_dataset, check_table, check_sentences, __doc__))
