"""Names of every AnnData slot scmap reads or writes, in one place."""

COUNTS_LAYER = "counts"
"""Layer searched for raw counts when ``--layer`` is not given."""

LOG1P_LAYER = "log1p"
"""Layer written by ``preprocess rna --normalize``: log(1 + counts per 10,000)."""

MAGIC_LAYER = "magic"
"""Layer written by ``preprocess gene-scores --smooth``."""

DEVIATIONS_LAYER = "deviations"
"""Layer written by ``preprocess motifs``: bias-corrected deviations, whose z-scores are in ``X``."""

WITHHELD_LAYER = "scmap_withheld"
"""Layer written by ``evaluate imputation --withhold``: 1 where an expressed entry was hidden."""

WITHHELD_RECORD = "scmap_withheld"
"""``uns`` of that file and of what is imputed from it: one JSON string with the share, the seed and the digest of the
entries."""

PROGRAMS_VARM = "scmap_programs"
"""``varm``: genes x programs membership, CSC of 0/1."""

PROGRAM_NAMES = "scmap_program_names"
"""``uns``: program names, in the column order of ``varm["scmap_programs"]``."""

HISTORY = "scmap_history"
"""``uns``: one JSON string, a list of records (verb, version, parameters, input digests, seed)."""

UMAP = "X_umap"
"""``obsm``: two-dimensional UMAP of the embedding, under scanpy's name."""

TSNE = "X_tsne"
"""``obsm``: two-dimensional t-SNE of the embedding, under scanpy's name."""

REFERENCE = "X_rna"
"""``obsm`` of multiome files: embedding of each cell's RNA, float32, NaN in the rows of cells without RNA."""

REFERENCE_ID = "scmap_reference"
"""``uns`` of multiome files: digest of the reference as it was made, so that a model knows its own."""

HAS_RNA, RNA_DEPTH, ATAC_DEPTH = "has_rna", "rna_depth", "atac_depth"
"""``obs`` of multiome files: whether a cell has RNA, its RNA counts (NaN without), its counts in all peaks read."""

ORIGIN_SET = "scmap_set"
"""``obs`` of multiome files made of several ATAC inputs: the input that a cell is from."""

BULK, BULK_OPEN = "scmap_bulk", "scmap_bulk_open"
"""``varm`` of simulated scATAC: peaks x types signal of the bulk profiles, and where they are open (0 or 1)."""

FRAGMENT_LENGTHS, TSS_PROFILE = "scmap_fragment_lengths", "scmap_tss_profile"
"""``uns`` of ``preprocess atac``, by sample: fragments of 0, 1, ... bases; cuts at each base about start sites."""

LABEL, CONFIDENCE = "scmap_label", "scmap_label_confidence"
"""``obs``: label carried over from a reference, and its probability (0 to 1)."""

LABEL_ENTROPY, NOVELTY = "scmap_label_entropy", "scmap_novelty"
"""``obs``: how spread the label's probabilities are (0 to 1), and how unlike the reference a cell is (0 to 1)."""

ORIGIN = "scmap_origin"
"""``obs`` of joined files: ``reference`` or ``query``."""

BATCH = "scmap_batch"
"""``obs``: the condition that a model took each cell for."""

MARKER, MARKER_RANK = "scmap_marker", "scmap_marker_rank"
"""``var``: whether a gene was chosen as a marker, and its place from 1 (0 for the others)."""

MARKER_SCORE, MARKER_CLASS = "scmap_marker_score", "scmap_marker_class"
"""``var``: score of a marker by its method (NaN for the others), and the class it speaks for (empty for none)."""


def embedding_key(model: str) -> str:
    """``obsm`` key of a model's posterior means (float32)."""
    return f"X_{model}"


def variance_key(model: str) -> str:
    """``obsm`` key of a model's posterior variances (float32)."""
    return f"X_{model}_var"


def latent_names_key(model: str) -> str:
    """``uns`` key of the names of a model's latent dimensions, for expiMap the programs."""
    return f"{model}_names"


def cluster_key(model: str) -> str:
    """``obs`` key of the clusters found on a model's embedding."""
    return f"{model}_cluster"
