"""The OpenAPI 3.1 document, made from the table of routes. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode, models_json_schema

from edge_runtime import __version__
from fleet.api.errors import ErrorAnswer
from fleet.api.routes import Route

_REF: Final = "#/components/schemas/{model}"
_Key = tuple[type[BaseModel], JsonSchemaMode]


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """The whole document."""
    schemas, components = models_json_schema(_models(routes), ref_template=_REF)
    found: dict[Any, Any] = dict(schemas)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, found)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "edge-fleet",
            "version": __version__,
            "description": "The control host of a fleet of edge boxes. Times are UTC epoch "
            "seconds. Lists come in pages: give `next` of one as `after` for the following one.",
        },
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components.get("$defs", {}),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _models(routes: Sequence[Route]) -> list[_Key]:
    found: dict[_Key, None] = {(ErrorAnswer, "serialization"): None}
    for route in routes:
        found[(route.query, "validation")] = None
        if route.body is not None:
            found[(route.body, "validation")] = None
        if route.answer is not None:
            found[(route.answer, "serialization")] = None
    return list(found)


def _operation(route: Route, schemas: dict[_Key, Any]) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": route.name,
        "summary": route.summary,
        "tags": [route.tag or "other"],
        "parameters": [*_path_parameters(route), *_query_parameters(route)],
        "responses": {
            str(route.status): _answer(route, schemas),
            "default": {
                "description": "An error.",
                "content": _json(schemas[(ErrorAnswer, "serialization")]),
            },
        },
    }
    if route.permission is None:
        operation["security"] = []
    else:
        operation["description"] = f"Needs the permission `{route.permission}`."
    if route.body is not None:
        operation["requestBody"] = {
            "required": True,
            "content": _json(schemas[(route.body, "validation")]),
        }
    elif route.takes_bytes:
        operation["requestBody"] = {"required": True, "content": _json({"type": "object"})}
    elif route.takes_stream:
        binary = {"schema": {"type": "string", "format": "binary"}}
        content = {"application/octet-stream": binary}
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _answer(route: Route, schemas: dict[_Key, Any]) -> dict[str, Any]:
    if route.answer is None:
        return {"description": "Text.", "content": {route.content_type: {}}}
    schema = schemas[(route.answer, "serialization")]
    return {"description": (route.answer.__doc__ or "").strip(), "content": _json(schema)}


def _path_parameters(route: Route) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}}
        for name in route.parameters
    ]


def _query_parameters(route: Route) -> list[dict[str, Any]]:
    schema = route.query.model_json_schema(ref_template=_REF)
    required = set(schema.get("required", ()))
    return [
        {
            "name": name,
            "in": "query",
            "required": name in required,
            "description": part.pop("description", ""),
            "schema": part,
        }
        for name, part in schema.get("properties", {}).items()
    ]


def _json(schema: Any) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
