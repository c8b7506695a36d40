"""The `nasflow` command. Everything heavy is imported inside the command that needs it, so that help is instant."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from nasflow import cli_bench, terminal
from nasflow.errors import NasflowError

if TYPE_CHECKING:
    from rich.console import Console

    from nasflow.experiment import Experiment

app = typer.Typer(
    name="nasflow",
    help="From your data and your devices to small, fast, certified networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_bench.app)

MISTAKE = 2  # exit code: something the user can mend
OVER_LIMIT = 3  # exit code: the run is done, but what it ships breaks a limit

File = Annotated[str, typer.Argument(metavar="FILE", help="Experiment file, or the name of a shipped one.")]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Another value for a setting: search.trials=50. Repeatable."
    ),
]
Fresh = Annotated[bool, typer.Option("--fresh", help="Forget what is in the run's folder and start anew.")]
Out = Annotated[Path | None, typer.Option("--out", metavar="DIR", help="The run's folder, else runs/NAME.")]
Wait = Annotated[bool, typer.Option("--wait", help="If another process uses the folder, wait for it to end.")]
RunFolder = Annotated[str, typer.Argument(metavar="RUN", help="The run's folder, or its name under runs/.")]


def main() -> None:
    """Run the command line; a mistake the user can mend is told in one message, without a traceback."""
    try:
        app()
    except NasflowError as error:
        terminal.error_console().print(
            f"error: {error}", style="red", markup=False, highlight=False, soft_wrap=True
        )
        sys.exit(MISTAKE)


def _version(asked: bool) -> None:
    if asked:
        from nasflow import __version__

        typer.echo(f"nasflow {__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Options before any command."""


@app.command()
def run(
    file: File = "digits", overrides: Set = None, fresh: Fresh = False, out: Out = None, wait: Wait = False
) -> None:
    """Do an experiment: search, compress, retrain, deploy, report. Run again, it goes on where it stopped."""
    from nasflow import experiment as experiments

    wanted = experiments.load(file, overrides or ())
    _run(wanted, out, fresh=fresh, wait=wait)


@app.command()
def check(file: File = "digits", overrides: Set = None, out: Out = None) -> None:
    """Say what an experiment would do and about how long it would take, without doing it."""
    from nasflow import experiment as experiments
    from nasflow import runs

    wanted = experiments.load(file, overrides or ())
    with terminal.interruptible("nothing was changed"):
        from nasflow import plan, show

        show.plan(plan.plan(wanted, out or runs.RUNS / wanted.name), terminal.console())


@app.command()
def show(
    run: RunFolder,
    as_json: Annotated[bool, typer.Option("--json", help="Print summary.json for programs instead.")] = False,
) -> None:
    """Show what a run found, whatever state it is in."""
    from nasflow import runs

    folder = runs.find(run)
    if as_json:
        typer.echo((folder / "summary.json").read_text(), nl=False)
    else:
        _show(runs.summary(folder), folder, terminal.console())


@app.command()
def compare(
    these: Annotated[
        list[str], typer.Argument(metavar="RUN RUN...", help="Their folders, or their names under runs/.")
    ],
    at: Annotated[
        list[float] | None,
        typer.Option(
            "--at",
            metavar="X",
            help="Say who is best within X ms (or of the first other cost); else its terciles. Repeatable.",
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT", help="Also write all that came of it to this file."),
    ] = None,
    as_html: Annotated[
        Path | None, typer.Option("--html", metavar="OUT", help="Also write a page with the fronts overlaid.")
    ] = None,
) -> None:
    """Put the fronts of several runs beside each other: whose reaches further, and who is best for whom."""
    from nasflow import compare as comparing
    from nasflow import runs, show_compare
    from nasflow.files import write_json, write_text

    found = comparing.compare([runs.find(one) for one in these], at or ())
    show_compare.print_to(terminal.console(), found)
    if as_json is not None:
        write_json(as_json, found.to_json())
    if as_html is not None:
        from nasflow.compare_page import render

        write_text(as_html, render(found))


@app.command()
def report(run: RunFolder) -> None:
    """Write a run's report.html anew and say where it is."""
    from nasflow import runs
    from nasflow.files import write_text
    from nasflow.report import render

    folder = runs.find(run)
    write_text(folder / "report.html", render(runs.summary(folder)))
    typer.echo(folder / "report.html")


@app.command()
def retrain(
    point: Annotated[
        str,
        typer.Option(
            "--point",
            metavar="P",
            help="The network: runs/NAME is what it ships, runs/NAME:12 its trial 12; or a YAML or JSON file.",
        ),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="OTHER",
            help="The data: the name of a format or data set (see also --set...), or an experiment file.",
        ),
    ],
    width: Annotated[float, typer.Option("--width", help="Make it that many times as wide.")] = 1.0,
    depth: Annotated[int, typer.Option("--depth", help="Give every stage that many more blocks.")] = 0,
    overrides: Set = None,
    fresh: Fresh = False,
    out: Out = None,
    wait: Wait = False,
) -> None:
    """Train a network that was found on other data in full, larger if asked, and deploy it."""
    from nasflow import transfer

    wanted = transfer.experiment(point, data, width=width, depth=depth, overrides=overrides or ())
    _run(wanted, out, fresh=fresh, wait=wait)


@app.command()
def compress(
    model: Annotated[
        str,
        typer.Argument(metavar="MODEL", help="A function that returns the network: my_model.py:model."),
    ],
    data: Annotated[
        str,
        typer.Option(
            "--data",
            metavar="DATA",
            help="A data set's name, a folder of images, an .npz file or an experiment file; see also --set.",
        ),
    ],
    target: Annotated[
        list[str] | None,
        typer.Option(
            "--target",
            metavar="T",
            help="What it may cost: latency_ms=0.6x@local-cpu, latency_ms=1.5@local-cpu, flops=0.5x. Repeatable.",
        ),
    ] = None,
    weights: Annotated[
        Path | None,
        typer.Option(
            "--weights", metavar="FILE", help="Its trained weights; without them it is trained first."
        ),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option(
            "--json",
            metavar="OUT",
            help="Write what came of it to this file, the exported networks beside it.",
        ),
    ] = None,
    overrides: Set = None,
    fresh: Fresh = False,
    out: Out = None,
    wait: Wait = False,
) -> None:
    """Make a network of yours smaller and measurably faster: pruned, in int8, taught by what it was."""
    from nasflow import cli_compress, runs

    wanted = cli_compress.experiment(model, data, target or (), weights, overrides or ())
    summary = _carry_out(wanted, out, fresh=fresh, wait=wait)
    if as_json is not None:
        cli_compress.write(summary, out or runs.RUNS / wanted.name, as_json)
        terminal.console().print(f"written: {as_json}", highlight=False)
    _end(summary)


@app.command()
def devices(
    name: Annotated[
        str | None, typer.Argument(metavar="NAME", help="One device, or its profile file: all that is known.")
    ] = None,
) -> None:
    """List the devices that nasflow knows, what each can tell, and which of them answer now."""
    from nasflow import hardware, show_devices
    from nasflow.hardware import answering, store

    named = hardware.profiles() if name is None else [name]
    known = [hardware.load_profile(one) for one in named]
    built = [store.load(profile, Path(one)) for profile, one in zip(known, named, strict=True)]
    with terminal.interruptible("stopped asking"):
        silent = answering.answering(known)
    if name is None:
        show_devices.devices(list(zip(known, built, strict=True)), silent, terminal.console())
    else:
        show_devices.device(known[0], built[0], silent[known[0].name], terminal.console())


@app.command()
def profile(
    device: Annotated[str, typer.Argument(metavar="DEVICE", help="A device's name, or its profile file.")],
    file: Annotated[Path | None, typer.Argument(metavar="FILE.onnx", help="The network to measure.")] = None,
    compare: Annotated[
        tuple[Path, Path] | None,
        typer.Option("--compare", metavar="A B", help="Measure two files in turns and say which is faster."),
    ] = None,
    as_json: Annotated[
        Path | None,
        typer.Option("--json", metavar="OUT", help="Also write all that came of it to this file."),
    ] = None,
    build: Annotated[
        str | None,
        typer.Option(
            "--build",
            metavar="METHOD",
            help="Build a predictor of the device instead: roofline, table, kernels, network or few-shot.",
        ),
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(
            "--like",
            metavar="DEVICE",
            help="A device with a predictor, for few-shot to learn from. Repeatable.",
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option("--minutes", metavar="M", help="How long building may take.")
    ] = 15.0,
    space: Annotated[
        str,
        typer.Option("--space", metavar="NAME", help="The space of networks that a predictor is built for."),
    ] = "mobile",
    shape: Annotated[
        str, typer.Option("--input", metavar="CxHxW", help="The input of those networks.")
    ] = "3x32x32",
) -> None:
    """Measure how long an exported network takes on a device, or build a predictor that foretells it."""
    from nasflow import hardware, show_devices
    from nasflow.files import write_json
    from nasflow.hardware import timing

    if [file, compare, build].count(None) != 2:
        raise NasflowError(
            "expected either one FILE.onnx to measure or --compare A.onnx B.onnx, or --build METHOD"
        )
    if like and build is None:
        raise NasflowError("--like says what few-shot learns from; expected it with --build few-shot")
    if build is not None:
        from nasflow.cli_hardware import build_command

        with terminal.interruptible(
            "stopped; what was measured is kept: run the same command again to go on"
        ):
            build_command(device, build, minutes, space, shape, like or (), as_json)
        return
    for given in [file] if file else compare or ():
        if not given.is_file():
            raise NasflowError(f"{given}: no such file; expected an exported network such as model.onnx")
    connected = hardware.connect(hardware.load_profile(device))
    console = terminal.console()
    measured: hardware.Latency | hardware.Comparison
    with terminal.interruptible("nothing was written"):
        if file is not None:
            with show_devices.watching(device, [file], console) as watch:
                measured = connected.latencies([file], watch)[0]
            show_devices.latency(device, file, measured, console)
        else:
            assert compare is not None
            with show_devices.watching(device, compare, console) as watch:
                measured = connected.compare(*compare, watch)
            show_devices.comparison(device, compare, measured, console)
    if as_json is not None:
        write_json(as_json, timing.answer(measured))


@app.command()
def up(
    detach: Annotated[
        bool, typer.Option("--detach", "-d", help="Return once all is up; it goes on.")
    ] = False,
    host: Annotated[
        str, typer.Option("--host", help="The address to serve the pages on; 0.0.0.0 is for everyone.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", help="The port of Prefect's page.")] = 4200,
    mlflow_port: Annotated[int, typer.Option("--mlflow-port", help="The port of MLflow's page.")] = 5000,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", min=1, help="Runs at a time. More than one spoils latencies of this machine."
        ),
    ] = 1,
) -> None:
    """Bring up Prefect's page with every flow, a worker and MLflow's page. Ends with Ctrl-C or nasflow down."""
    with terminal.interruptible("ended"):
        from flows import up as ups

        ups.bring(host=host, port=port, mlflow_port=mlflow_port, limit=limit, detach=detach, say=typer.echo)


@app.command()
def down() -> None:
    """End what nasflow up started, and nothing else; runs that are cut short go on when they are started again."""
    from flows import up as ups

    if not ups.down(typer.echo):
        typer.echo("nothing is up")


def _run(experiment: Experiment, out: Path | None, *, fresh: bool, wait: bool) -> None:
    _end(_carry_out(experiment, out, fresh=fresh, wait=wait))


def _carry_out(experiment: Experiment, out: Path | None, *, fresh: bool, wait: bool) -> dict[str, Any]:
    """Carry out an experiment, or show its result at once if there is nothing left to do."""
    from nasflow import hardware, runs

    folder, console = out or runs.RUNS / experiment.name, terminal.console()
    summary = None if fresh else runs.finished(experiment, folder)
    if summary is not None and runs.tracked(folder):
        _show(summary, folder, console)
        console.print("\n[bold]Finished already[/]; --fresh starts anew.", highlight=False)
        return summary
    for name in experiment.devices:
        hardware.load_profile(name)  # a slip in a name is told at once, not after all that is slow to start
    with terminal.interruptible("stopped; what is finished is kept: run the same command again to go on"):
        from flows.pipeline import run_pipeline

        summary = run_pipeline(experiment, folder, fresh=fresh, wait=wait, console=console)
    _show(summary, folder, console)
    return summary


def _end(summary: dict[str, Any]) -> None:
    if summary["status"] != "done":
        raise typer.Exit(OVER_LIMIT)


def _show(summary: dict[str, Any], folder: Path, console: Console) -> None:
    from nasflow import show
    from nasflow.experiment import from_mapping, tracking_uri

    experiment = from_mapping(summary["experiment"], str(folder / "summary.json"))
    show.summary(summary, folder, tracking_uri(experiment, folder), console)
