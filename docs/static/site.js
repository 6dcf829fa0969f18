// Excerpts under search results are read from the pages found, which a browser does not allow a page opened from disk.
DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = location.protocol !== "file:";
