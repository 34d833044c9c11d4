"""The operator page: what this node does now, for whoever looks after it; docs/control-api.md."""

from fastapi import APIRouter

from mediaserver.api.page import assets, levels, trunks

router = APIRouter()
router.include_router(assets.router)
router.include_router(levels.router)
router.include_router(trunks.router)

__all__ = ["router"]
