"""The page of a run."""

from collections.abc import Callable

from mfkd.errors import MfkdError
from mfkd.report import classes, looks, told, words
from mfkd.report.folder import RunFolder
from mfkd.report.networks import ask, open_networks
from mfkd.report.parts import Page, Section, Text


def run_page(run: RunFolder, say: Callable[[str], None]) -> Page:
    """Everything that a run says, from its records and, where they are there, its images and networks.

    Args:
        run: from `read_run`.
        say: gets a line a step.
    """
    teacher, student = run.models
    sections: list[Section | None] = [told.cost_section(run), told.curves_section(run)]
    say("Opening the networks")
    networks, missing = open_networks(run)
    if networks is not None and any(networks.students.values()):
        say("Asking them about the test images")
        found = ask(networks)
        sections += [classes.classes_section(networks, found), classes.calibration_section(found)]
        say("Looking at their maps")
        try:
            sections += [looks.fusion_section(run, networks, found), looks.cka_section(networks)]
        except MfkdError as error:
            missing.append(f"The maps of these networks cannot be read: {error}")
    if missing:
        sections.append(Section("missing", "What is missing here", [Text(line) for line in missing]))
    sections.append(told.settings_section(run))
    record = run.first
    finished = str(record.environment.get("finished", ""))[:10]
    version, commit = record.environment.get("versions", {}).get("mfkd", ""), record.environment.get("commit")
    return Page(
        title=f"{teacher} teaches {student}" if run.distilled else f"{student} on its own",
        kicker=f"Distillation on {run.data}" if run.distilled else f"Training on {run.data}",
        asked=words.asked(run),
        gained=words.gained(run),
        tiles=words.tiles(run),
        warnings=words.warnings(run),
        first=told.gain_figure(run),
        sections=[section for section in sections if section is not None],
        foot=f"Trained {finished} with mfkd {version}, commit {commit or 'unknown'}; recipe {record.config_hash}",
    )
