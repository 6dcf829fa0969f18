"All targets, by importing the modules that register them."

from . import of_annotations, of_archives, of_images, of_tables  # noqa: F401
