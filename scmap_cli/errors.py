"""Every error a user can cause or meet, each with the exit code it ends the process with.

An error carries two texts: what is wrong (with the name or number) and, as ``hint``, what to do about it.
The terminal prints them on one line each; nothing else in the package chooses an exit code.
"""


class ScmapError(Exception):
    """Base of all errors that scmap raises on purpose; exit code 1 is a bug of ours."""

    exit_code = 1

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


class UsageError(ScmapError):
    """The command or its options make no sense together."""

    exit_code = 2


class OutputExistsError(UsageError):
    """The output is already there and ``--force`` was not given."""


class InputError(ScmapError):
    """An input is unfit or hostile: a missing key, no counts, a corrupt file, too few genes in common."""

    exit_code = 3


class DivergedError(ScmapError):
    """Training met a non-finite loss; the last finite weights were kept."""

    exit_code = 4


class DeviceError(ScmapError):
    """The requested device is absent, or memory ran out."""

    exit_code = 5


class WriteError(ScmapError):
    """The output could not be written: disk full, no permission, no such folder."""

    exit_code = 6


class StoppedError(ScmapError):
    """A signal stopped the run after a checkpoint was saved; the same command goes on from there."""

    exit_code = 75


#: exit code of a second Ctrl-C, which leaves at once and saves nothing
EXIT_INTERRUPTED = 130

#: what each exit code means, for ``scmap -h`` and the README
EXIT_CODES: dict[int, str] = {
    0: "done",
    1: "a bug in scmap",
    2: "wrong usage, or the output exists and --force was not given",
    3: "the input is unfit: missing key, no counts, too few genes in common, corrupt file",
    4: "training diverged",
    5: "device absent or out of memory",
    6: "could not write the output",
    75: "stopped by a signal after saving a checkpoint: run the same command again",
    130: "interrupted twice",
}
