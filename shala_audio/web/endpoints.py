"""The endpoints as a page, from their own description. FastAPI's would load scripts from elsewhere."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any


def endpoints_page(description: Mapping[str, Any]) -> str:
    """HTML of what OpenAPI says of each endpoint: what goes in, what comes out, and refusals."""
    parts = [
        "<!doctype html><html lang='en'><meta charset='utf-8'><meta name='viewport' content='width=device-width'>",
        f"<title>{escape(description['info']['title'])}: endpoints</title><link rel='stylesheet' href='/page.css'>",
        f"<main><h1>Endpoints</h1><p>{escape(description['info']['summary'])} The same for programs: ",
        "<a href='/openapi.json'>openapi.json</a>. <a href='/'>The page</a></p>",
    ]
    for path, methods in description["paths"].items():
        for method, operation in methods.items():
            parts.append(
                f"<h2><code>{method.upper()} {escape(path)}</code></h2><p>{escape(operation['description'])}</p>"
            )
            rows = [(one["name"], one.get("description", ""), one["schema"]) for one in operation.get("parameters", ())]
            rows += _form(description, operation)
            if rows:
                parts.append("<table><tr><th>field</th><th>what</th><th>where not given</th></tr>")
                parts += [
                    f"<tr><td><code>{escape(name)}</code></td><td>{escape(about)}</td>"
                    f"<td>{escape(str(schema.get('default', '')))}</td></tr>"
                    for name, about, schema in rows
                ]
                parts.append("</table>")
            refusals = [(code, one["description"]) for code, one in operation["responses"].items() if code != "200"]
            parts += [f"<p><code>{code}</code> {escape(about)}</p>" for code, about in sorted(refusals)]
    return "".join([*parts, "</main></html>"])


def _form(description: Mapping[str, Any], operation: Mapping[str, Any]) -> list[tuple[str, str, Mapping[str, Any]]]:
    """Fields of an endpoint's form."""
    content = operation.get("requestBody", {}).get("content", {})
    found = []
    for body in content.values():
        name = body["schema"].get("$ref", "").rpartition("/")[2]
        for field, schema in description["components"]["schemas"].get(name, {}).get("properties", {}).items():
            found.append((field, schema.get("description", ""), schema))
    return found
