"Prepare Shoes: annotation files, and the shoes of the Attribute Discovery Dataset. See README.md."

import sys

from fashionern.data.download.archives import tree
from fashionern.data.download.prepare import Annotation, Source, prepare_dataset
from fashionern.data.images import IMAGE_SUFFIXES

REPOSITORY = "https://raw.githubusercontent.com/XiaoxiaoGuo/fashion-retrieval/master/dataset"

FILES = (  # path, entries, sha256
    ("relative_captions_shoes.json", 10751, "717d815ca134f166d1a6e12a2b2e86b94dfdf22f3a45c3b984b59bfd89d91cdf"),
    ("train_im_names.txt", 10000, "dd7f58d8d65f95c17c585cd62efd3038a8a6ed4d8ee0d6153287f75b76d1c64f"),
    ("eval_im_names.txt", 4658, "f1fd756f9c9841119c2d601994f16338f4e9b8f2846aaec0748ba873654548f3"),
)  # fmt: skip


def place(name):
    "Only shoes: the archive also contains bags, earrings and ties."
    return tree(IMAGE_SUFFIXES, "attributedata")(name) if name.name.startswith("img_womens_") else None


SOURCE = Source(
    name="shoes",
    annotations=tuple(Annotation(path, f"{REPOSITORY}/{path}", entries, sha256) for path, entries, sha256 in FILES),
    place=place,
    images=".",
)

if __name__ == "__main__":
    sys.exit(prepare_dataset(SOURCE, __doc__))
