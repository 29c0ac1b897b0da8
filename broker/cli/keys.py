"""``broker keys``: keys that people sign with. Made and kept here alone: no broker is asked, and none ever gets one."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from broker.cli.call_view import print_fields, say
from broker.cli.output import OutputModel, console, emit
from broker.cli.remote import JsonOption, Remote
from broker.cli.voter import PassphraseOption, Person, keys_folder, new_passphrase
from broker.domain.ids import NAME_PATTERN
from broker.domain.statement import key_id
from broker.errors import FieldViolation, InvalidArgumentError
from broker.signing import new_key_file, read_public_key
from broker.tlog.note import VerifierKey

app = typer.Typer(no_args_is_help=True, help="Make and show the keys that people sign with.")

NameArgument = Annotated[str, typer.Argument(help="Your name, as the broker knows you.")]


class KeyOutput(OutputModel):
    """A key's public half. ``vkey`` is the text that is handed over to be enrolled."""

    name: str
    id: str
    vkey: str
    file: Path


@app.command()
def new(
    *,
    name: NameArgument,
    out: Annotated[
        Path | None, typer.Option("--out", help="Where to write it. Default: NAME.pem in your keys folder.")
    ] = None,
    passphrase: PassphraseOption = "",
    as_json: JsonOption = False,
) -> None:
    """Make a signing key of your own, encrypted under a passphrase; print its public half, to be enrolled.

    Example: broker keys new ada
    """
    if NAME_PATTERN.fullmatch(name) is None:
        why = f"{name[:80]!a} is no name: 1 to 63 of a-z, 0-9 and -, starting with a letter"
        raise InvalidArgumentError(f"NAME: {why}", reason="NAME_INVALID", violations=(FieldViolation("NAME", why),))
    path = out if out is not None else keys_folder() / f"{name}.pem"
    signer = new_key_file(path, new_passphrase(passphrase), name=name)
    emit(_output(signer.vkey(name), signer.id, path), as_json=as_json, render=_render_new)


@app.command()
def show(
    *,
    name: NameArgument,
    key: Annotated[
        Path | None, typer.Option("--key", help="The key file. Default: NAME.pem in your keys folder.")
    ] = None,
    passphrase: PassphraseOption = "",
    as_json: JsonOption = False,
) -> None:
    """Show the public half of your signing key. The passphrase is needed only for a file that another program made.

    Example: broker keys show ada
    """
    path = key if key is not None else keys_folder() / f"{name}.pem"
    found = read_public_key(path)
    if found is None:
        found = Person(name, path, passphrase).signer(Remote()).vkey(name)
    emit(_output(found, key_id(found.public_key), path), as_json=as_json, render=_render)


def _output(key: VerifierKey, identifier: str, path: Path) -> KeyOutput:
    return KeyOutput(name=key.name, id=identifier, vkey=str(key), file=path)


def _render(item: KeyOutput) -> None:
    # Alone on its line, so that a script can take it.
    console.print(item.vkey, soft_wrap=True, markup=False)
    if console.is_terminal:
        print_fields({"name": item.name, "key id": item.id, "file": str(item.file)})


def _render_new(item: KeyOutput) -> None:
    _render(item)
    say(
        f"the key is in {item.file}, encrypted; without its passphrase nobody can use it, nor can you: there is no other way"
    )
    say("hand the line above to the operator, or to an approver once the rule is in force: broker approvers enroll")
