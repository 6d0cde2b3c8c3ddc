"""The paths of the contract, with the methods and bodies of each: connexion has no public way to ask it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

METHODS = ("get", "put", "post", "delete", "patch")


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the contract; without media types it takes no body."""

    id: str
    media_types: frozenset[str]
    needs_body: bool = True


@dataclass(frozen=True, slots=True)
class Route:
    """One path of the contract.

    Attributes:
        is_internal: Whether it is for agents alone: `x-internal`, which tools for contracts know too.
        refusal: What to say to other methods than its own, beside which those are; empty for nothing.
    """

    operations: Mapping[str, Operation]
    is_internal: bool = False
    refusal: str = ""

    @property
    def allow(self) -> str:
        """The `Allow` header: every method that the path answers to."""
        heads = {"HEAD"} if "GET" in self.operations else set()
        return ", ".join(sorted({*self.operations, *heads, "OPTIONS"}))

    def operation(self, method: str) -> Operation | None:
        """Return the operation of a method; HEAD is GET without the body."""
        return self.operations.get("GET" if method == "HEAD" else method)


class RouteTable:
    """Finds the route of a request's path."""

    def __init__(self, fixed: Mapping[str, Route], patterns: Mapping[re.Pattern[str], Route]) -> None:
        self._fixed = fixed
        self._patterns = patterns

    @classmethod
    def of(cls, contract: Mapping[str, Any]) -> Self:
        """Return the table of a contract's paths."""
        routes = {path: _route(item) for path, item in contract["paths"].items()}
        return cls(
            {path: route for path, route in routes.items() if "{" not in path},
            {_pattern(path): route for path, route in routes.items() if "{" in path},
        )

    def with_pages(self, prefix: str, route: Route) -> Self:
        """Return the table with one more route, of all paths below a prefix."""
        return type(self)(self._fixed, {**self._patterns, re.compile(re.escape(prefix) + ".*"): route})

    def find(self, path: str) -> Route | None:
        """Return the route of a path, or None when the contract has none."""
        if (route := self._fixed.get(path)) is not None:
            return route
        return next((route for pattern, route in self._patterns.items() if pattern.fullmatch(path)), None)


def _route(item: Mapping[str, Any]) -> Route:
    return Route(
        {
            method.upper(): Operation(
                item[method]["operationId"],
                frozenset(item[method].get("requestBody", {}).get("content", ())),
                bool(item[method].get("requestBody", {}).get("required", False)),
            )
            for method in METHODS
            if method in item
        },
        item.get("x-internal", False),
        item.get("x-refusal", ""),
    )


def _pattern(path: str) -> re.Pattern[str]:
    # Only names of ours and no other special characters are in our paths.
    return re.compile(re.sub(r"\{[^}]*\}", "[^/]+", path))
