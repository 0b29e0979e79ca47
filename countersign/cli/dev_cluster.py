"""`countersign dev-cluster …`: a Kubernetes control plane on this machine, with simulated nodes, to try releases on."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from countersign.cli.exits import HELP, Exit
from countersign.cli.record_commands import AsJson, Data
from countersign.cli.session import cache_folder, run, settings_of

if TYPE_CHECKING:
    from countersign.adapters.kubernetes.devcluster import DevCluster  # its import costs more than some commands

dev_cluster = typer.Typer(
    name="dev-cluster",
    help="A real Kubernetes control plane on the loopback, whose pods are simulated: to try releases on. Nothing of it is kept.",
    no_args_is_help=True,
    epilog=HELP,
    rich_markup_mode="rich",
)
Tools = Annotated[
    Path | None, typer.Option("--tools", help="Folder of its programs; else where `make tools` puts them.", show_default=False)
]


def add_to(app: typer.Typer) -> None:
    app.add_typer(dev_cluster, rich_help_panel="Service")


@dev_cluster.command("up")
def dev_cluster_up(
    data: Data = None, tools: Tools = None, nodes: Annotated[int, typer.Option("--nodes", min=1, max=20)] = 2, as_json: AsJson = False
) -> None:
    """Start it, unless it runs, and say where its kubeconfig is. It goes on until `down`, whatever becomes of this shell."""
    run(_up(data, tools, nodes, as_json=as_json), as_json=as_json)


@dev_cluster.command("down")
def dev_cluster_down(data: Data = None, tools: Tools = None, as_json: AsJson = False) -> None:
    """End it and remove everything of it."""
    run(_down(data, tools, as_json=as_json), as_json=as_json)


@dev_cluster.command("kubeconfig")
def dev_cluster_kubeconfig(data: Data = None, tools: Tools = None, as_json: AsJson = False) -> None:
    """Print the path of its kubeconfig, an administrator's. Ends with 1 where it does not run."""
    run(_kubeconfig(data, tools, as_json=as_json), as_json=as_json)


async def _up(data: Path | None, tools: Path | None, nodes: int, *, as_json: bool) -> Exit:
    from dataclasses import replace

    from countersign.cli.output import console, emit

    cluster = replace(_cluster(data, tools), nodes=nodes)
    seconds = await cluster.up()
    if as_json:
        emit({"kubeconfig": str(cluster.kubeconfig), "seconds": round(seconds, 2)})
    else:
        took = f"ready after {seconds:.1f} s" if seconds else "runs already"
        console().print(f"{took}; its kubeconfig is {cluster.kubeconfig}", highlight=False, soft_wrap=True)
    return Exit.OK


async def _down(data: Path | None, tools: Path | None, *, as_json: bool) -> Exit:
    from countersign.cli.output import console, emit

    ran = await _cluster(data, tools).down()
    if as_json:
        emit({"ran": ran})
    else:
        console().print("ended" if ran else "it did not run")
    return Exit.OK


async def _kubeconfig(data: Path | None, tools: Path | None, *, as_json: bool) -> Exit:
    from countersign.cli.output import console, emit
    from countersign.core.errors import FailedPrecondition

    cluster = _cluster(data, tools)
    if not await cluster.answers():
        raise FailedPrecondition("no cluster runs; start it with `countersign dev-cluster up`")
    if as_json:
        emit({"kubeconfig": str(cluster.kubeconfig)})
    else:
        console().print(str(cluster.kubeconfig), highlight=False, soft_wrap=True)
    return Exit.OK


def _cluster(data: Path | None, tools: Path | None) -> "DevCluster":
    from countersign.adapters.kubernetes.devcluster import DevCluster

    folder = settings_of(data).data / "dev-cluster"
    return DevCluster(folder=folder, tools=(tools or cache_folder() / "tools" / "kube").expanduser().absolute())
