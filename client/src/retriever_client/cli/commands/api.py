"""`retriever api`: any request."""

import json
from typing import Any

import click

from retriever_client.cli.session import Session, SessionCommand, pass_session


@click.command(
    cls=SessionCommand,
    epilog="""\b
Examples:
  retriever api GET /stats
  retriever api GET /jobs -f state=parked -f limit=5 --query 'items[].reason'
  echo '{"kind": "check", "args": {"url": "https://example.com/"}}' | retriever api POST /jobs --input -""",
)
@click.argument("method", type=click.Choice(["GET", "POST", "PUT", "DELETE"], case_sensitive=False))
@click.argument("path")
@click.option("-f", "--field", multiple=True, metavar="NAME=VALUE", help="Of the query. May be repeated.")
@click.option("--input", "body", type=click.File("rb"), help="The JSON body; - reads it from stdin.")
@pass_session
def api(session: Session, method: str, path: str, field: tuple[str, ...], body: Any) -> None:
    """Send any request, and print the answer.

    Your key goes with it, and it is sent again where that helps.
    """
    params: dict[str, list[str]] = {}
    for each in field:
        name, _, value = each.partition("=")
        params.setdefault(name, []).append(value)
    document = None
    if body is not None:
        try:
            document = json.loads(body.read())
        except ValueError as error:
            raise click.UsageError(f"The body is not JSON: {error}") from None
    answer = session.retriever.request(method.upper(), f"/{path.lstrip('/')}", params=params, json=document)
    output = session.output
    if output.query is not None:
        output.one(answer.json(), ())
    elif answer.content:
        click.echo(answer.text.rstrip("\n"))
