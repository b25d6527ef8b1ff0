"""One file a verb: plain functions, which are also the Python API."""
