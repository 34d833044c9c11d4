"""GET /v1/trunks: through what calls can be placed."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter
from pydantic import BaseModel, ConfigDict, Field

from mediaserver.api.auth import CallsRead
from mediaserver.api.problems import problem_responses
from mediaserver.api.state import State

OURSELVES = "self"

router = APIRouter(tags=["calls"])


class TrunkList(BaseModel):
    """GET /v1/trunks."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"trunks": ["pbx", "self"]}]})

    trunks: Annotated[list[str], Field(description='Of [trunks], and "self": this server calls itself.')]


@router.get("/v1/trunks", summary="List trunks", responses=problem_responses(401, 403, 429))
async def list_trunks(state: State, _token: CallsRead) -> TrunkList:
    """What `trunk` of POST /v1/calls can be."""
    return TrunkList(trunks=[*state.config.trunks, OURSELVES])
