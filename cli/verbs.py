"""A group of verbs that answers a mistyped verb with the nearest one."""

from __future__ import annotations

from typing import Any

import typer
from typer.core import TyperGroup

from cafe.cli.problems import WRONG, InterruptedVerbError
from cafe.errors import unknown_name


class Verbs(TyperGroup):
    """Like Typer's own group, but with this project's message for a verb that is not there."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Find the verb, or raise InputError with the nearest."""
        if args and not args[0].startswith("-") and args[0] not in self.commands and not ctx.resilient_parsing:
            raise unknown_name("verb", args[0], self.commands)
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the verb; what an interrupted one says of itself is kept, which Typer would drop."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as error:
            raise InterruptedVerbError(str(error)) from error


def help_without_verb(context: typer.Context) -> None:
    """Show the help page on stderr, and leave with the code of wrong usage, where a verb is missing."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help(), err=True)
        raise typer.Exit(WRONG)
