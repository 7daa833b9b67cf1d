"""Files that are written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path

from delayer.errors import StudyError

UNFINISHED = ".unfinished-"
"""How names of files begin that are being written; one that was killed leaves them."""


def clear_unfinished_(folder: Path) -> None:
    """Take away what writers that were killed left in a folder and in the folders inside. Nobody may be writing there."""
    for path in folder.rglob(f"{UNFINISHED}*"):
        path.unlink(missing_ok=True)


def share_(path: str | Path) -> None:
    """Give a file the permissions that new files have here; temporary and safetensors files are the owner's alone."""
    mask = os.umask(0)
    os.umask(mask)
    Path(path).chmod(0o666 & ~mask)


def sync_folder(folder: Path) -> None:
    """Bring a folder's list of names to the disk, so that a rename in it survives when the power fails."""
    there = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(there)
    except OSError as error:  # some network file systems know no such thing
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(there)


def write_atomically(path: Path, text: str | bytes) -> None:
    """Write a file so that a reader, or a crash, sees the old one or the new one and nothing between.

    Raises StudyError when the disk is full or the folder cannot be written; the old file then stays as it was.
    """
    data = text.encode() if isinstance(text, str) else text
    draft = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=f"{UNFINISHED}{path.name}.", delete=False) as file:
            draft = Path(file.name)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        share_(draft)
        draft.replace(path)
        sync_folder(path.parent)
    except OSError as error:
        raise StudyError(
            f"{path} could not be written ({error.strerror or error}); what stood there before is untouched. "
            "Free some space or choose another --out folder."
        ) from error
    finally:
        if draft:
            draft.unlink(missing_ok=True)
