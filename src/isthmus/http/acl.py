"""``/v1/acl`` of an agent without access control: every endpoint says so.

Clients find out by it that they need no token. Source: protocol/http-api.md §3, §6.
"""

from typing import Final

from isthmus.errors import RequestError
from isthmus.http.context import Context
from isthmus.http.request import Request
from isthmus.http.response import Response
from isthmus.http.routing import Route

_DISABLED: Final = "ACL support disabled"
_ONE: Final = ("GET", "PUT", "DELETE")
_METHODS: Final[dict[str, tuple[str, ...]]] = {
    "acl/bootstrap": ("PUT",),
    "acl/login": ("POST",),
    "acl/logout": ("POST",),
    "acl/replication": ("GET",),
    "acl/policies": ("GET",),
    "acl/policy": ("PUT",),
    "acl/policy/": _ONE,
    "acl/policy/name/": ("GET",),
    "acl/roles": ("GET",),
    "acl/role": ("PUT",),
    "acl/role/name/": ("GET",),
    "acl/role/": _ONE,
    "acl/binding-rules": ("GET",),
    "acl/binding-rule": ("PUT",),
    "acl/binding-rule/": _ONE,
    "acl/auth-methods": ("GET",),
    "acl/auth-method": ("PUT",),
    "acl/auth-method/": _ONE,
    "acl/rules/translate": ("POST",),
    "acl/rules/translate/": ("GET",),
    "acl/tokens": ("GET",),
    "acl/token": ("PUT",),
    "acl/token/self": ("GET",),
    "acl/token/": _ONE,
    "acl/create": ("PUT",),
    "acl/update": ("PUT",),
    "acl/destroy/": ("PUT",),
    "acl/info/": ("GET",),
    "acl/clone/": ("PUT",),
    "acl/list": ("GET",),
    "agent/token/": ("PUT",),
}


async def refuse(context: Context, request: Request) -> Response:
    """Say that there is no access control.

    Raises:
        RequestError: Always.
    """
    raise RequestError(_DISABLED, status=401)


ROUTES: Final = tuple(
    Route(f"/v1/{path}", dict.fromkeys(methods, refuse)) for path, methods in _METHODS.items()
)
