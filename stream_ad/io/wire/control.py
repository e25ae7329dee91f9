"""Commands to a stream's scorers on the control topic, written by `stream-ad swap`."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stream_ad.errors import ContractError
from stream_ad.io.transport import Record
from stream_ad.io.wire.encode import JSON_HEADERS, first_problem


class SwapCommand(BaseModel):
    """Score with another bundle from now on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    kind: Literal["swap"] = "swap"
    stream: str
    """Name of the stream; other streams ignore the command."""
    bundle: str
    """The bundle's folder, as each scorer sees it."""
    model_id: str
    """The bundle's digest; a different bundle in the folder is refused."""


def encode(command: SwapCommand) -> Record:
    """Return a command as a record."""
    return Record(
        command.model_dump_json().encode(),
        key=command.stream.encode(),
        headers=JSON_HEADERS,
        partition=0,
    )


def decode(value: bytes) -> SwapCommand:
    """Decode a command.

    Raises:
        ContractError: not a command of this version.
    """
    try:
        return SwapCommand.model_validate_json(value)
    except ValidationError as error:
        raise ContractError(f"command: {first_problem(error)}") from error
