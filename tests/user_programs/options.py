"""Options are records: each has its defaults, takes what is named, refuses what is not there, and stays as it is."""

from pydantic import ValidationError

from delayer import CheckOptions, LoadOptions, PlanOptions, ScanOptions, ShrinkOptions, TaskOptions, TuneOptions


def main() -> None:
    """Prints some of them."""
    for options in (
        CheckOptions(),
        LoadOptions(),
        PlanOptions(),
        ScanOptions(),
        ShrinkOptions(remove=2),
        TaskOptions(),
        TuneOptions(),
    ):
        print(type(options).__name__, len(options.model_dump()))
    plan = PlanOptions(remove="blocks=2", refit="sequential", repair="resolve", samples=64)
    tune = TuneOptions(epochs=3, learning_rate=1e-4)
    task = TaskOptions(num_fit=512, batch_size=16)
    print(plan.remove, plan.effort, tune.epochs, task.num_fit)
    try:
        PlanOptions.model_validate({"removes": "blocks=2"})
    except ValidationError as error:
        print(f"{error.error_count()} problem")


if __name__ == "__main__":
    main()
