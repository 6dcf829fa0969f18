"Import the modules that register the targets."

from . import of_annotations, of_archives, of_images, of_indexes, of_page, of_rankings, of_runs, of_tables, of_weights  # noqa: F401
