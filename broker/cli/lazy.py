"""Command groups that import a command's module when it is called, so that ``--help`` costs nothing."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup


@dataclass(frozen=True, slots=True)
class Lazy:
    """A command to load later: ``module:attribute`` of a ``typer.Typer`` or of a function, and its line in the help.

    ``extras`` are functions of other modules that become commands of the group.
    """

    target: str
    help: str
    extras: Mapping[str, str] | None = None

    def load(self, name: str) -> TyperGroup | TyperCommand:
        """Imports the command.

        Raises:
            ImportError: its module, or something that it needs, is not installed.
        """
        found = _attribute(self.target)
        app = found if isinstance(found, typer.Typer) else _single(name, found)
        for extra, target in (self.extras or {}).items():
            app.command(extra)(_attribute(target))
        command = typer.main.get_group(app) if isinstance(found, typer.Typer) else typer.main.get_command(app)
        if not isinstance(command, TyperGroup | TyperCommand):
            message = f"{self.target} is no command"
            raise TypeError(message)
        command.name = name
        return command


def _single(name: str, function: Any) -> typer.Typer:  # noqa: ANN401 - any function that Typer takes
    app = typer.Typer(add_completion=False)
    app.command(name)(function)
    return app


def _attribute(target: str) -> Any:  # noqa: ANN401 - what the target names
    module, _, attribute = target.partition(":")
    loaded: ModuleType = importlib.import_module(module)
    return getattr(loaded, attribute)


def lazy_group(commands: Mapping[str, Lazy]) -> type[TyperGroup]:
    """A class of groups that has these commands besides its own."""

    class LazyGroup(TyperGroup):
        def __init__(self, **values: Any) -> None:  # noqa: ANN401 - handed through to Typer
            super().__init__(**values)
            for name, lazy in commands.items():
                self.add_command(TyperCommand(name, help=lazy.help, callback=None), name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:  # noqa: ANN401 - Typer's own, private types
            if args and args[0] in commands:
                self.add_command(commands[args[0]].load(args[0]), args[0])
            return super().resolve_command(ctx, args)

    return LazyGroup
