"Prepare FashionIQ: annotation files, and images from archives or from the listed addresses. See README.md."

import sys

from fashionern.data.download.archives import flat
from fashionern.data.download.prepare import Annotation, Source, prepare_dataset
from fashionern.data.images import IMAGE_SUFFIXES

REPOSITORY = "https://raw.githubusercontent.com/XiaoxiaoGuo/fashion-iq/master"
ADDRESSES = "https://raw.githubusercontent.com/hongwang600/fashion-iq-metadata/master"

FILES = (  # path, entries, sha256
    ("captions/cap.dress.train.json", 5985, "1691bd52e5bbda755b0c1f14d1024000be2c57a0cc29511a327af1372636a946"),
    ("captions/cap.dress.val.json", 2017, "5e5117d45695df9c3ca91fac3e0bc49e6422ae9c8b3793f0ac9b3ab83adb7de9"),
    ("captions/cap.dress.test.json", 2024, "190240b3b4d115cd4f80de65ab78ca18a3f8581c041cbeea6f5a1f57ee4f5a48"),
    ("captions/cap.shirt.train.json", 5988, "0999ce5da01a38f0cef1547941b738f4c56e225fdd9b8e03e2a6edaf292f94c3"),
    ("captions/cap.shirt.val.json", 2038, "7b7ca3797b85dddfd83e74cdb4454cb63e3e7c09acef2590155efbacea6d7feb"),
    ("captions/cap.shirt.test.json", 2038, "27c7551b005d4befa53135a7ddee5e31c97821eafd3ceb3fec514e7ac0ad83a7"),
    ("captions/cap.toptee.train.json", 6027, "6daa171a9e744823087780a3b69b8b697bd05526adb6dd55a38ee6c4904ab348"),
    ("captions/cap.toptee.val.json", 1961, "b4e09f428e6c255cc4b4ec46e77908305ab83075d82840c960be81af15cdc5eb"),
    ("captions/cap.toptee.test.json", 2056, "db822aa52340ce1f09c3000064f79b60b6c476b50b98bf34200dd2996c06e146"),
    ("image_splits/split.dress.train.json", 11452, "dcb1c7329003e85e39a3010147a620cee4b7de6a5ddf2626f253bc9a2cdd78e5"),
    ("image_splits/split.dress.val.json", 3817, "21ff91d53c23859da91bfd49f3acc139b7f3a3dc944fc4e4a80194468cf14bab"),
    ("image_splits/split.dress.test.json", 3818, "1d1d3af24b9ec4ed3f7805c53a870148df9b51e232b32912505d8ae54718353d"),
    ("image_splits/split.shirt.train.json", 19036, "1552c05d866d31b43321a719b2cb8a65f02c53e9a6bc355861fe1d62498b9983"),
    ("image_splits/split.shirt.val.json", 6346, "b82effbf7352a6f828b38c45eb32e53d726bd4d6fd81d6290c81eeb2c68e3234"),
    ("image_splits/split.shirt.test.json", 6346, "8d243830e80e77c23c8dc9a85db87813230d38da146f0706082db812f591968b"),
    ("image_splits/split.toptee.train.json", 16121, "aa9b3a55332340f21360fb6a3fe174badd27ce389fe7d78d890bf2b9032ffe05"),
    ("image_splits/split.toptee.val.json", 5373, "ee42b2505275dd7a19b11ddb88c9264aab2d77f4e59b075fb1c7c3095d02f412"),
    ("image_splits/split.toptee.test.json", 5374, "25a30d4f4013a04026585399b10980db7cba39dfaad0d97a0671a62e2125ddbf"),
)  # fmt: skip

URL_LISTS = ("image_url/asin2url.dress.txt", "image_url/asin2url.shirt.txt", "image_url/asin2url.toptee.txt")

SOURCE = Source(
    name="fashioniq",
    annotations=tuple(Annotation(path, f"{REPOSITORY}/{path}", entries, sha256) for path, entries, sha256 in FILES),
    place=flat(IMAGE_SUFFIXES),
    url_lists=tuple(Annotation(path, f"{ADDRESSES}/{path}") for path in URL_LISTS),
    first_wins=True,  # an archive with a folder per category contains an image of two categories twice
)

if __name__ == "__main__":
    sys.exit(prepare_dataset(SOURCE, __doc__))
