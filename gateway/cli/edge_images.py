"""`twinspan edge offline-images`: what a machine without a registry needs to run Pods."""

from __future__ import annotations

import sys

import click

from edge.pods import sample
from edge.pods.sampleimages import HEARTBEAT

MACHINES = ("x86_64", "aarch64")


@click.command("offline-images", short_help="Write images that need no registry, for ctr.")
@click.option(
    "--pause",
    "pauses",
    multiple=True,
    metavar="NAME",
    help="Name of the sandboxes' image; may be repeated.  [default: containerd's own choice,"
    f" {sample.PAUSE}]",
)
@click.option("--machine", type=click.Choice(MACHINES), help="[default: this machine's]")
def offline_images(pauses: tuple[str, ...], machine: str | None) -> None:
    """Write an OCI archive to standard output: the pause image of sandboxes, and a sample.

    The pause image is made here, under the name that the runtime asks for; 'twinspan doctor' says which that
    is. Both hold one small static program each.

    \b
    twinspan edge offline-images | ctr -n k8s.io images import -
    twinspan edge offline-images --machine aarch64 > images.tar
    """
    if sys.stdout.isatty():
        raise click.UsageError("An archive is no text for a terminal: pipe it, or write a file.")
    names = [*(pauses or (sample.PAUSE,)), HEARTBEAT]
    sys.stdout.buffer.write(sample.images_of(names, machine or ""))
