"""scmap: single-cell embeddings, gene programs and markers from raw files, one command a stage."""

__version__ = "0.1.0"
