"""`parquet:PATH`: a parquet file, or a folder of them, with an image or text column."""

from torch import nn

from delayer.errors import DataError
from delayer.tasks.options import TaskOptions
from delayer.tasks.sources import Samples, existing, fingerprint_of_files, no_part, sources
from delayer.tasks.sources._columns import from_dataset


@sources.register("parquet")
def parquet(path: str, part: str | None, options: TaskOptions, model: nn.Module) -> Samples:
    """Rows read from disk when they are touched (by the datasets library, which keeps an Arrow copy in its cache).

    Columns are recognised as for `hf:`; class names and image columns that the file's metadata states are
    known. Raises DataError when there is no parquet file, or one that cannot be read.
    """
    from datasets import Dataset
    from datasets.exceptions import DatasetGenerationError

    no_part(part, path)
    root = existing(path)
    files = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
    if not files:
        raise DataError(f"{path} holds no .parquet file. Give a file, or the folder that holds them.")
    try:
        dataset = Dataset.from_parquet([str(file) for file in files])
    except (DatasetGenerationError, ValueError, OSError) as error:
        raise DataError(f"{path} is not readable as parquet ({error}). Write it again.") from error
    return from_dataset(dataset, path, fingerprint_of_files(root.parent, files), options, model)
