"""`offdyn data`: list, info, build, verify, download, publish, import, export, identify.

`dev ship` and `diagnose gap` are written here too.
"""

from pathlib import Path
from typing import Annotated, Literal

import typer

from offdyn_envs.commands.options import Filter, Json, RobotOption, ShiftOption, TrackOption, examples
from offdyn_envs.datasets.identifying.command import identify

app = typer.Typer(help="Datasets: list, inspect, build, import and verify them.", no_args_is_help=True)


@app.command("list", epilog=examples("offdyn data list --robot hopper --available", "offdyn data list --track core-12"))
def list_datasets(
    robot: RobotOption = None,
    track: TrackOption = None,
    shift: ShiftOption = None,
    available: Annotated[bool, typer.Option("--available", help="Only datasets that are built or shipped.")] = False,
    json_output: Json = False,
) -> None:
    """List datasets: built, shipped, known to the manifest, and, without a filter, imported."""
    from offdyn_envs.datasets.describing.show import TO_BUILD, inventory, print_inventory
    from offdyn_envs.datasets.importing.exchange import imported_rows

    wanted = Filter(robot, shift, track)
    rows = [row for row in inventory() if not (available and row["where"] == TO_BUILD)]
    # Of a robot that only another program registers nothing is known here but the name.
    shown = rows + imported_rows() if wanted == Filter() else wanted.rows(rows)
    print_inventory(shown, json_output)


@app.command("info", epilog=examples("offdyn data info hopper-gravity-0.5-medium"))
def info(
    name: Annotated[str, typer.Argument(help="A task, or for instance offdyn/hopper/gravity-0p5/medium-5k-v0.")],
    png: Annotated[Path | None, typer.Option(help="Plot returns and lengths of a dataset's episodes.")] = None,
    json_output: Json = False,
) -> None:
    """Describe a dataset, or both datasets of a task: returns, score, shift size, statistics, how to rebuild it."""
    from offdyn_envs.datasets.collecting.build import resolve
    from offdyn_envs.datasets.describing.pictures import draw_card
    from offdyn_envs.datasets.describing.show import card_of, print_card
    from offdyn_envs.datasets.importing.exchange import print_imported, split_imported
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.report import print_record, print_table

    if split_imported([name])[1]:
        print_imported(name, json_output, png)
        return
    chosen = [str(dataset) for dataset in resolve([name])]
    if png is not None and len(chosen) > 1:
        raise OffDynError(f"--png draws one dataset; '{name}' has two: {', '.join(chosen)}")
    cards = [card_of(dataset) for dataset in chosen]
    if png is not None:
        draw_card(cards[0], png)
    if json_output and len(cards) > 1:
        print_table(name, cards, True)
    elif json_output:
        print_record(name, cards[0], True)
    else:
        for card in cards:
            print_card(card)


@app.command(
    "build", epilog=examples("offdyn data build hopper-gravity-0.5-medium", "offdyn data build --track core-6")
)
def build(
    names: Annotated[list[str] | None, typer.Argument(help="Tasks (source and target) or ids of datasets.")] = None,
    track: Annotated[str | None, typer.Option(metavar="TRACK", help="All tasks of a track, too.")] = None,
    seed: Annotated[int, typer.Option(help="Random seed; the same seed gives the same arrays.")] = 0,
    threads: Annotated[int | None, typer.Option(min=1, help="Simulation threads; all cores when left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing datasets.")] = False,
    behaviours: Annotated[Path | None, typer.Option(help="Folder of policies instead of the shipped ones.")] = None,
    record: Annotated[bool, typer.Option("--record", help="Put the cards into the repository's manifest.")] = False,
    json_output: Json = False,
) -> None:
    """Build datasets from the behaviour policies in the package, offline, one after the other.

    Existing datasets are kept. Repeat the command to resume an interrupted build.
    """
    from offdyn_envs.datasets.collecting.build import build as build_one
    from offdyn_envs.datasets.collecting.build import ingredients, resolve
    from offdyn_envs.datasets.describing.show import print_built
    from offdyn_envs.datasets.sharing.ship import checkout, record_built
    from offdyn_envs.errors import OffDynError
    from offdyn_envs.tasks import get_track

    if record:
        checkout()  # Refuse before building, not after.
    chosen = resolve([*(names or []), *(get_track(track) if track is not None else [])])
    if not chosen:
        raise OffDynError("nothing to build: name a task, for instance hopper-gravity-0.5-medium, a dataset or --track")
    for dataset in chosen:
        ingredients(dataset, behaviours)  # A policy that is missing is named now, not after the first million rows.
    built = [
        build_one(dataset, seed=seed, num_threads=threads, behaviours=behaviours, force=force) for dataset in chosen
    ]
    if record:
        record_built(built)
    print_built(built, json_output)


@app.command("ship", hidden=True)
def ship(
    names: Annotated[
        list[str] | None, typer.Argument(help="Ids of datasets of up to 5,000 rows; all when left out.")
    ] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Simulation threads; all cores when left out.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Rebuild them even if they are up to date.")] = False,
    json_output: Json = False,
) -> None:
    """For maintainers: update a checkout's datasets/, with its manifest, pictures and README.md.

    Builds the 5,000-row medium dataset of every behaviour policy where it is missing or its policy has changed.
    """
    from offdyn_envs.datasets.collecting.build import resolve
    from offdyn_envs.datasets.describing.show import print_built
    from offdyn_envs.datasets.sharing.ship import ship as ship_all

    print_built(ship_all(resolve(names or []) or None, force=force, num_threads=threads), json_output)


@app.command("verify")
def verify(
    datasets: Annotated[list[str], typer.Argument(help="Ids of datasets, or tasks.")],
    rows: Annotated[int, typer.Option(min=1, help="Random rows to simulate again.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Chooses the rows.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Simulation threads.")] = 1,
    json_output: Json = False,
) -> None:
    """Check checksums, schema and values, simulate random rows again, and compare with the manifest."""
    from dataclasses import asdict

    from offdyn_envs.datasets.checking.check import verify as verify_one
    from offdyn_envs.datasets.collecting.build import resolve
    from offdyn_envs.datasets.describing.show import place_of, print_reports, refuse_different
    from offdyn_envs.datasets.importing.exchange import split_imported, verify_all

    own, imported = split_imported(datasets)
    others = verify_all(imported, json_output)
    folders = [place_of(str(dataset)) for dataset in resolve(own)]
    reports = [asdict(verify_one(folder, rows=rows, seed=seed, num_threads=threads)) for folder in folders]
    print_reports(others + reports if json_output else reports, json_output)
    refuse_different(reports)


@app.command("download")
def download(
    names: Annotated[list[str], typer.Argument(help="Tasks (source and target), or ids of datasets.")],
    url: Annotated[
        str | None,
        typer.Option(help="http(s)://... or Minari remote hf://...; else $OFFDYN_DATA_URL or $MINARI_REMOTE."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace existing datasets.")] = False,
    json_output: Json = False,
) -> None:
    """Download and verify datasets. Existing ones are kept, interrupted downloads resume."""
    from offdyn_envs.datasets.sharing.download import download_all, print_downloaded

    print_downloaded(download_all(names, url=url, force=force), json_output)


@app.command("publish")
def publish(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New, empty, or published before.")],
    names: Annotated[list[str] | None, typer.Argument(help="Tasks or ids of datasets; all here when left out.")] = None,
    json_output: Json = False,
) -> None:
    """Write the files and the manifest that an HTTP server or a Minari remote needs to offer datasets for download."""
    from offdyn_envs.datasets.collecting.build import resolve
    from offdyn_envs.datasets.sharing.publish import print_published
    from offdyn_envs.datasets.sharing.publish import publish as publish_all

    print_published(folder, publish_all(folder, resolve(names or [])), json_output)


@app.command("import")
def import_data(
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help="npz, CSV, parquet, HDF5, or folder of LeRobot v3 or Minari.")
    ],
    robot: Annotated[
        str | None, typer.Option(help="HDF5: whose data it holds, where the file does not say; none for any other.")
    ] = None,
    dynamics: Annotated[str | None, typer.Option(help="Where it was collected, for instance gravity-0.5.")] = None,
    quality: Annotated[str | None, typer.Option(help="random, medium, medium-replay, medium-expert, expert.")] = None,
    out: Annotated[str | None, typer.Option(help="Id of the result: imported/NAME.")] = None,
    layout: Annotated[
        Literal["d4rl", "odrl", "minari"] | None, typer.Option(help="By default what its keys show.")
    ] = None,
    contact_forces: Annotated[
        bool, typer.Option("--contact-forces", help="Accept Ant's contact forces, dropped, and their cost in rewards.")
    ] = False,
    no_fall_bonus: Annotated[
        bool, typer.Option("--no-fall-bonus", help="Take the alive bonus off falls, which versions before v5 pay.")
    ] = False,
    clip_actions: Annotated[
        bool, typer.Option("--clip-actions", help="Clip actions outside their bounds, and count them.")
    ] = False,
    sha256: Annotated[str | None, typer.Option(help="Refuse the file unless this is its checksum.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace an imported dataset of the same id.")] = False,
    spec: Annotated[Path | None, typer.Option(help="YAML or JSON file that says what the columns are.")] = None,
    observations: Annotated[str | None, typer.Option(help="Columns: a name, a prefix such as obs_, or a,b,c.")] = None,
    actions: Annotated[str | None, typer.Option(help="Columns of the actions, likewise.")] = None,
    rewards: Annotated[str | None, typer.Option(help="Column of the rewards.")] = None,
    next_observations: Annotated[
        str | None, typer.Option(help="Columns; none: the next row of the same episode.")
    ] = None,
    terminations: Annotated[
        str | None, typer.Option(help="Column that is true where the episode ended for good.")
    ] = None,
    truncations: Annotated[str | None, typer.Option(help="Column that is true where the episode was cut off.")] = None,
    done: Annotated[str | None, typer.Option(help="Column that is true where the episode ended either way.")] = None,
    done_means: Annotated[
        Literal["termination", "truncation"] | None, typer.Option(help="For files with done only.")
    ] = None,
    episode: Annotated[str | None, typer.Option(help="Column with the number of the episode.")] = None,
    action_low: Annotated[str | None, typer.Option(help="Smallest action, of all or of each: -2 or -1,-2.")] = None,
    action_high: Annotated[str | None, typer.Option(help="Largest action, likewise.")] = None,
    time_step: Annotated[float | None, typer.Option(help="Seconds between two rows.")] = None,
    reward_function: Annotated[
        str | None, typer.Option(help="module:function of observations, actions and next observations.")
    ] = None,
    json_output: Json = False,
) -> None:
    """Import transitions of any robot as imported/NAME. Invalid rows are dropped and counted.

    Columns are found under the usual names; the options from --spec on say where else they are.
    """
    from offdyn_envs.datasets.importing.exchange import run_import

    given = {"robot": robot, "dynamics": dynamics, "quality": quality, "out": out, "layout": layout, "sha256": sha256}
    columns = {
        "observations": observations,
        "actions": actions,
        "rewards": rewards,
        "next_observations": next_observations,
        "terminations": terminations,
        "truncations": truncations,
        "done": done,
        "done_means": done_means,
        "episode": episode,
        "action_low": action_low,
        "action_high": action_high,
        "time_step": time_step,
        "reward_function": reward_function,
    }
    flags = {"contact_forces": contact_forces, "no_fall_bonus": no_fall_bonus, "force": force}
    flags["clip_actions"] = clip_actions
    run_import(file, json_output, spec=spec, columns=columns, **flags, **given)


@app.command("export")
def export_data(
    dataset: Annotated[str, typer.Argument(help="Id of a dataset, also imported/NAME.")],
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The HDF5 file to write.")],
    layout: Annotated[Literal["d4rl", "odrl"], typer.Option(help="Which layout.")],
    unpadded: Annotated[
        bool, typer.Option("--unpadded", help="Ant: 27 columns, without the 84 zeros of those layouts.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace an existing file.")] = False,
) -> None:
    """Export a dataset in the layout of D4RL or ODRL."""
    from offdyn_envs.datasets.importing.exchange import run_export

    run_export(dataset, file, layout, force=force, unpadded=unpadded)


@app.command("gap", hidden=True)
def gap(
    task: Annotated[str, typer.Argument(help="A task, for instance hopper-gravity-0.5-medium.")],
    rows: Annotated[int, typer.Option(min=1, help="Number of evenly spaced source rows.")] = 100_000,
    source: Annotated[str | None, typer.Option(help="Id of another source dataset than the task's.")] = None,
    units: Annotated[
        Literal["observation", "step"], typer.Option(help="Whose standard deviations are the units.")
    ] = "observation",
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Plot the gap into this file.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Simulation threads; all cores when left out.")] = None,
    json_output: Json = False,
) -> None:
    """Measure the dynamics gap of source rows by simulating them in the target. For diagnosis, never for training."""
    from offdyn_envs.datasets.gap.report import draw_gap, gap_record, print_gap, task_gap
    from offdyn_envs.figures import refuse_other_than_png
    from offdyn_envs.report import print_record

    if plot is not None:
        refuse_other_than_png(plot)  # Now, not after minutes of simulation.
    found = task_gap(task, rows, source=source, units=units, num_threads=threads)
    if plot is not None:
        draw_gap(task, found, plot)
    if json_output:
        print_record(task, gap_record(task, found), True)
    else:
        print_gap(task, found)


app.command("identify")(identify)
