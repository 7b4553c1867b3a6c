"""`/v1/models`, `/health`, `/ready` and `/metrics`: what the server has, and how it is."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response

from nanochat.serve.error_envelope import ApiError
from nanochat.serve.models import ServedModel
from nanochat.serve.openapi import RESPONSES
from nanochat.serve.serving import Serving, serving_of

router = APIRouter(responses=RESPONSES)


@router.get("/v1/models")
async def list_models(http: HttpRequest) -> dict[str, Any]:
    """All models; the first is the default."""
    serving = serving_of(http)
    return {"object": "list", "data": [_model(serving, model) for model in serving.models.by_name.values()]}


@router.get("/v1/models/{name:path}")
async def get_model(name: str, http: HttpRequest) -> dict[str, Any]:
    """One model."""
    serving = serving_of(http)
    if name not in serving.models.by_name:
        raise ApiError(404, f"There is no model `{name[:100]}`.", param="model", code="model_not_found")
    return _model(serving, serving.models.by_name[name])


@router.get("/health")
async def health(http: HttpRequest) -> dict[str, Any]:
    """200 while the process works: for a liveness probe. Shows the state of every engine."""
    serving = serving_of(http)
    states = [replica.state for replica in serving.models.replicas()]
    status = "ok" if serving.ready and all(state == "ready" for state in states) else "degraded"
    if serving.draining:
        status = "draining"
    elif not all(model.deployment for model in serving.models.by_name.values()):
        status = "loading"
    return {"status": status, "models": [_health(model) for model in serving.models.by_name.values()]}


@router.get("/ready")
async def ready(http: HttpRequest) -> Response:
    """200 if requests are answered, 503 while models are loaded or the server is ending: for a readiness probe."""
    serving = serving_of(http)
    serving.refuse_if_draining()
    if not serving.ready:
        raise ApiError(503, "A model is being loaded.", code="model_loading")
    return JSONResponse({"status": "ready"})


@router.get("/metrics")
async def metrics(http: HttpRequest) -> Response:
    """Metrics in Prometheus's text format."""
    return Response(serving_of(http).metrics.text(), media_type=CONTENT_TYPE_LATEST)


def _model(serving: Serving, model: ServedModel) -> dict[str, Any]:
    manifest = model.artifact.manifest
    return {
        "id": model.name,
        "object": "model",
        "created": int(manifest.producer.ended.timestamp()),
        "owned_by": "nanochat",
        "artifact": f"{manifest.stage}/{manifest.key}",
        "digest": manifest.digest,
        "lineage": f"/lineage/{manifest.stage}/{manifest.key}",
        "max_model_len": model.deployment.context_tokens if model.deployment else None,
        "weights": serving.options.weights,
        "followed": model.follower is not None,
        "ready": model.ready,
    }


def _health(model: ServedModel) -> dict[str, Any]:
    replicas = model.deployment.replicas if model.deployment else []
    return {
        "id": model.name,
        "artifact": f"{model.artifact.stage}/{model.artifact.key}",
        "follow_failing": model.follower is not None and model.follower.failing,
        "replicas": [{"state": each.state, "answers": each.answers, "restarts": each.restarts} for each in replicas],
    }
