"""Files: every format scmap reads or writes. Imports no torch."""
