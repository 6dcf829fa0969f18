"Prepare CIRR: annotation files, and the images of NLVR2. See README.md."

import sys

from fashionern.data.download.archives import tree
from fashionern.data.download.prepare import Annotation, Source, prepare_dataset
from fashionern.data.images import IMAGE_SUFFIXES

REPOSITORY = "https://raw.githubusercontent.com/Cuberick-Orion/CIRR/cirr_dataset"

FILES = (  # path, entries, sha256
    ("captions/cap.rc2.train.json", 28225, ""),  # no copy was available for a checksum
    ("captions/cap.rc2.val.json", 4181, "a85c3a1aa464f1af7229918e8018d08b8b20ce5dab479ffdf39d61113140f919"),
    ("captions/cap.rc2.test1.json", 4148, "26a2b2e7a5c96c903491aefc7d5f237f03d3cca97712e1b6bb3b231db5ff8001"),
    ("image_splits/split.rc2.train.json", 16939, "7b3f2211ff67e527190754ab778321a3c83f0baa6150d1e6c19646ec25c3bcb9"),
    ("image_splits/split.rc2.val.json", 2297, "de36f7a7219c8bb06347a67748cfc68405be7dad62853a1e31846c98e491235b"),
    ("image_splits/split.rc2.test1.json", 2315, "bf2bb9ed0659c4aae35de72350652b9ab75d36a060211f826bec15c58ec12566"),
)  # fmt: skip

SOURCE = Source(
    name="cirr",
    annotations=tuple(Annotation(path, f"{REPOSITORY}/{path}", entries, sha256) for path, entries, sha256 in FILES),
    place=tree(IMAGE_SUFFIXES, "train", "dev", "test1"),
    images="img_raw",
)

if __name__ == "__main__":
    sys.exit(prepare_dataset(SOURCE, __doc__))
