"""Commands to the scorers of a stream, on the control topic: `stream-ad swap` writes them."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stream_ad.errors import ContractError
from stream_ad.io.transport import Record
from stream_ad.io.wire.encode import CONTENT_TYPE, JSON


class SwapCommand(BaseModel):
    """Score with another bundle from now on."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    v: Literal[1] = 1
    kind: Literal["swap"] = "swap"
    stream: str
    """Name of the stream; the others pass over it."""
    bundle: str
    """The bundle's folder, as each scorer sees it."""
    model_id: str
    """Its digest: another bundle in that folder is refused."""


def encode(command: SwapCommand) -> Record:
    """Return a command's record."""
    return Record(
        command.model_dump_json().encode(),
        key=command.stream.encode(),
        headers=((CONTENT_TYPE, JSON.encode()),),
        partition=0,
    )


def decode(value: bytes) -> SwapCommand:
    """Read a command.

    Raises:
        ContractError: it is none that this version knows.
    """
    try:
        return SwapCommand.model_validate_json(value)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"]) or "body"
        raise ContractError(f"command: {where}: {problem['msg']}") from error
