"""Errors as answers: one form, a 4xx status, what to change, and never a traceback."""

from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from genrec_cli import console
from genrec_cli.errors import GenrecError, InputError
from genrec_cli.serve.batching import Busy
from genrec_cli.serve.schema import Problem
from genrec_cli.serve.served import UnknownNames

JSON = "application/json"
MAX_FAULTS = 3
"""Faults of a body that an error lists."""


def answer(status: int, error: str, **more: Any) -> JSONResponse:
    """The answer of an error; the characters of other people's texts are printable."""
    problem = Problem(error=console.printable(error), **more)
    return JSONResponse(problem.model_dump(exclude_none=True), status)


def install(app: FastAPI) -> None:
    """Handle all errors of an application."""

    @app.exception_handler(GenrecError)
    async def known(request: Request, error: GenrecError) -> JSONResponse:
        names = error.names if isinstance(error, UnknownNames) else None
        in_path = isinstance(error, UnknownNames) and request.method == "GET"
        status = 404 if in_path or isinstance(error, InputError) else 422
        return answer(status, error.message, hint=error.hint, unknown=names)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> JSONResponse:
        faults = error.errors()
        given = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if request.method == "POST" and given != JSON and not given.endswith("+json"):
            what = f"The body has {f'the Content-Type {given}' if given else 'no Content-Type'}, so it is not read."
            return answer(400, what, hint=f"Send the header Content-Type: {JSON}")
        if any(fault["type"] == "json_invalid" for fault in faults):
            what = f"The body is no JSON: {faults[0].get('ctx', {}).get('error', faults[0]['msg'])}."
            return answer(400, what, hint="Check the quotes and the brackets of the body")
        lines = [f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults[:MAX_FAULTS]]
        more = f" And {len(faults) - MAX_FAULTS} more." if len(faults) > MAX_FAULTS else ""
        return answer(
            422, "; ".join(line[:300] for line in lines) + "." + more, hint="The fields are listed at /openapi.json"
        )

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> JSONResponse:
        hint = "The addresses are listed at /openapi.json" if error.status_code in (404, 405) else None
        response = answer(error.status_code, f"{error.detail.rstrip('.')}.", hint=hint)
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Busy)
    async def busy(request: Request, error: Busy) -> JSONResponse:
        response = answer(429, "Too many histories wait.", hint="Ask again in a second")
        response.headers["retry-after"] = "1"
        return response

    @app.exception_handler(Exception)
    async def bug(request: Request, error: Exception) -> JSONResponse:
        return answer(500, "This is a bug in genrec; the log of the service has the details.")
