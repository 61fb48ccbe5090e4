"""The API key of the server."""

import hmac

from fastapi import HTTPException, Request
from fastapi.security import HTTPBearer


class ApiKey(HTTPBearer):
    """FastAPI dependency that requires `Authorization: Bearer KEY`; /docs shows a field for the key.

    Raises:
        HTTPException: 401 if the key is missing or wrong.
    """

    def __init__(self, key: str):
        super().__init__(scheme_name="HTTPBearer")
        self.key = key.encode()

    async def __call__(self, request: Request) -> None:
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not hmac.compare_digest(token.encode("latin-1"), self.key):
            raise HTTPException(401, "send the header Authorization: Bearer KEY", {"WWW-Authenticate": "Bearer"})
