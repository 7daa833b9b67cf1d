"""A network, its data and its study folder, opened; and which stages stand finished in the folder."""

import datetime
import importlib.metadata
import platform
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from delayer.errors import DelayerError
from delayer.families import chain_of
from delayer.measure import num_params
from delayer.network.calling import example_of, first_tensor
from delayer.network.chain import Chain
from delayer.network.mapped import is_mapped
from delayer.network.precision import Precision, faster_precision, multiply_in_, precision_of
from delayer.observing.processes import own_folder
from delayer.progress import Reporter
from delayer.search.footprint import footprint
from delayer.search.options import ScanOptions
from delayer.search.subject import Remember, Subject
from delayer.stages.journal import Journal
from delayer.stages.options import LoadOptions, SaveOptions
from delayer.store import load, read_artefact
from delayer.store.weights import Stored
from delayer.study import Asked, BlockInfo, ChainInfo, Grade, Provenance, Scan, Score, Study, StudyInfo
from delayer.study.version import __version__
from delayer.tasks import Task, TaskOptions, open_task


@dataclass(kw_only=True)
class Work(Subject):
    """A network and its data, with its study folder: what stages found out stands in the folder, and is not done again."""

    study: Study
    data: tuple[str, ...]
    options: dict[str, Any]
    task_options: TaskOptions
    dtype: Stored = "keep"
    """What the smaller network is saved in."""
    reported: set[str] = field(default_factory=set)
    """Stages that this process did itself, or has said to be there already."""

    def scored(self, name: str) -> Score:
        """What one metric says on the first data set, as the stage `score` wrote it."""
        from delayer.stages.score import score_stage

        return next(one for one in score_stage(self).scores if one.name == name)

    def scanned(self, options: ScanOptions) -> Scan:
        """The held-out error of every operator on every span, as the stage `scan` wrote it."""
        from delayer.stages.scan import scan_stage

        return scan_stage(self, options)

    def memory(self, *decides: Any) -> tuple[dict[str, Grade], Remember]:
        """The grades in the search's journal, and what adds one, so that a killed search goes on where it stood."""
        from delayer.stages.artefacts import stage_key

        key = stage_key(self, "measure", *decides, self.task_options)
        journal = Journal(self.study.path(".measured.jsonl"), key)
        known = journal.read()
        if journal.damage and journal.damage not in self.warnings:
            self.warnings.append(journal.damage)
            self.reporter.line(journal.damage)
        return known, journal.append

    def save_as_(self, asked: SaveOptions) -> "Work":
        """Save networks as asked, or where nothing was, as the study was asked to when it was made."""
        stated = SaveOptions.model_validate({"dtype": self.options.get("dtype") or "keep"})
        self.dtype = (stated if asked.dtype == "keep" else asked).dtype
        return self

    def say_finished(self, stage: str) -> None:
        """Say once that a stage stands finished in the folder."""
        if stage not in self.reported:
            self.reporter.line(f"{stage.capitalize()}: already there.")
            self.reported.add(stage)

    def open(self, folder: Path) -> nn.Module:
        """A network that this study saved."""
        stays = is_mapped(self.model) and bool(read_artefact(folder).ordinary)
        return load(str(folder), by_block="yes" if stays else "no").to(self.device)

    def provenance(self) -> Provenance:
        """Hashes, versions and seed that results travel with."""
        names = ("torch", "timm", "torchvision", "transformers", "onnxruntime", "safetensors")
        versions = {"python": platform.python_version()}
        for name in names:
            try:
                versions[name] = importlib.metadata.version(name)
            except importlib.metadata.PackageNotFoundError:
                continue
        return Provenance(
            delayer=__version__,
            versions=versions,
            machine=f"{platform.system()} {platform.machine()}",
            device=device_name(self.device),
            threads=torch.get_num_threads(),
            seed=self.seed,
            model_hash=self.model_hash,
            data_hash=self.task.hash,
            created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
            precision=precision_of(self.model),
        )


def open_work(
    model: str,
    data: Sequence[str],
    *,
    out: str | Path,
    load_options: LoadOptions = LoadOptions(),
    task_options: TaskOptions = TaskOptions(),
    test: str | None = None,
    options: dict[str, Any] | None = None,
    reporter: Reporter | None = None,
    arguments: dict[str, Any] | None = None,
) -> Work:
    """Load a network and its data and open the study folder.

    model: a name that `load` takes. data: task names; the first is the one that is cut for.
    Raises ModelError, DataError, StudyError.
    """
    reporter = reporter or Reporter()
    device = torch.device(pick_device(load_options.device))
    torch.manual_seed(task_options.seed)
    network = load(model, weights=load_options.weights, by_block=load_options.by_block, **(arguments or {})).to(device)
    task = open_task(data[0], network, task_options, test_spec=test)
    study = Study(own_folder(Path(out)))
    before = study.read_or_none("study")
    so_far = before.provenance.precision if before and before.provenance.device == device_name(device) else None
    for note in task.notes + multiply_as_asked_(network, load_options.compute, task, device, so_far):
        reporter.line(note)
    chain = chain_of(network, example_of(task.batches("fit")[0].to(device).inputs), blocks=load_options.blocks)
    reporter.line(f"{model}: {chain!r}")
    if is_mapped(network) and task.kind == "causal-lm":
        task.notes.append(about_memory(chain, task))
        reporter.line(task.notes[-1])
    work = Work(
        name=model,
        chain=chain,
        task=task,
        study=study,
        data=tuple(data),
        device=device,
        seed=task_options.seed,
        reporter=reporter,
        options=options or {},
        task_options=task_options,
    )
    work.notes += task.notes
    return work


def about_memory(chain: Chain, task: Task) -> str:
    """What a run takes whose network's weights stay in their files, in one line."""
    fit, validation = (task.batches(split) for split in ("fit", "validation"))
    tokens = [split.num_samples * first_tensor(split[0].inputs).shape[1] for split in (fit, validation)]
    blocks = [chain.module(index) for index in range(chain.num_blocks)]
    return footprint(chain.model, blocks, fit_tokens=tokens[0], validation_tokens=tokens[1]).line


def multiply_as_asked_(
    network: nn.Module, asked: str, task: Task, device: torch.device, so_far: Precision | None = None
) -> list[str]:
    """Have passes over data multiply as asked for, by default as fast as is known to be safe; what the user should know.

    so_far: what the study's earlier results were made in on this device, which is kept: two measurements may differ.
    """
    if asked != "auto":
        multiply_in_(network, "bfloat16" if asked == "bfloat16" else "float32")
        return []
    if task.kind not in ("causal-lm", "seq2seq"):
        return []
    if so_far == "bfloat16":
        multiply_in_(network, so_far)
        return ["Passes over data multiply in bfloat16, as this study's earlier ones did (--compute float32 for that)."]
    found, ratio = (so_far, 1.0) if so_far else faster_precision(device)
    multiply_in_(network, found)
    if found == "float32":
        return []
    return [
        f"Passes over data multiply in bfloat16, {ratio:.1f} times as fast here as float32 (--compute float32 for that); test "
        "grades are held against float32."
    ]


def device_name(device: torch.device) -> str:
    """What results say that they were made on."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else str(device)


def pick_device(name: str) -> str:
    """The accelerator where there is one, for "auto". Raises DelayerError for one that is not there."""
    if name == "auto":
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        return "cpu" if found is None else found.type
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DelayerError(f"Device {name!r} cannot be used here ({str(error).splitlines()[0]}). Use --device cpu.") from error
    return name


def write_study(work: Work) -> StudyInfo:
    """study.json: what was asked, of which network."""
    chain = work.chain
    blocks = tuple(
        BlockInfo(
            index=i,
            path=b.path,
            kind=b.kind,
            params=num_params(chain.module(i)),
            macs=work.block_macs[i],
            in_width=b.in_width,
            out_width=b.out_width,
            removable=b.removable,
        )
        for i, b in enumerate(chain.blocks)
    )
    info = StudyInfo(
        asked=Asked(model=work.name, data=work.data, options=work.options),
        chain=ChainInfo(
            family=chain.family.name,
            blocks=blocks,
            points=chain.point_labels,
            segments=tuple((s.start, s.stop) for s in chain.segments),
        ),
        params=num_params(work.model),
        macs=work.macs,
        provenance=work.provenance(),
    )
    before = work.study.read_or_none("study")
    then, now = (one and (one.provenance.model_hash, one.provenance.data_hash) for one in (before, info))
    if then and then != now:
        what = "another network" if then[0] != now[0] else "other data, or other samples of it,"
        work.reporter.line(f"{work.study.folder} was about {what} so far; its stages are done again as they are needed.")
    work.study.write("study", info)
    return info
