"""`etcd-steward completion`: the script that makes a shell complete verbs, flags and keys."""

import click
from click.shell_completion import get_completion_class

from etcd_steward.cli import completion_shells  # noqa: F401  # it tells click of our scripts
from etcd_steward.cli.framework import Verb

PROGRAM = "etcd-steward"
VARIABLE = "_ETCD_STEWARD_COMPLETE"
"""click's own name for the variable by which the script asks this program."""


@click.command(
    "completion",
    cls=Verb,
    examples="""
source <(etcd-steward completion bash)
etcd-steward completion bash > /etc/bash_completion.d/etcd-steward
etcd-steward completion zsh > "${fpath[1]}/_etcd-steward"
etcd-steward completion fish > ~/.config/fish/completions/etcd-steward.fish
""",
)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(ctx: click.Context, shell: str) -> None:
    """Print the completion script of a shell."""
    made = get_completion_class(shell)
    if made is None:  # pragma: no cover  # click has these three built in
        raise click.UsageError(f"no completion for {shell}")
    click.echo(made(ctx.find_root().command, {}, PROGRAM, VARIABLE).source(), nl=False)
