"""`retriever config`: what this command has been told, and by whom."""

import click

from retriever_client.cli.session import Session, SessionGroup, pass_session


@click.group(cls=SessionGroup)
def config() -> None:
    """What this command has been told, and by whom."""


@config.command("show")
@pass_session
def show_config(session: Session) -> None:
    """Show the settings in force, and who says so; a key is shown by its beginning alone."""
    said = session.configuration
    told = {
        **session.where_from(),
        **{f"check.{name}": (value, str(said.path)) for name, value in said.check.items()},
        **{f'hosts."{host}"': (each.shown, str(said.path)) for host, each in said.hosts.items()},
    }
    session.output.many(
        [{"setting": name, "value": value, "from": source} for name, (value, source) in told.items()],
        ("setting", "value", "from"),
        is_whole=True,
    )


@config.command("path")
@pass_session
def show_path(session: Session) -> None:
    """Print the path of the file that counts here."""
    if session.configuration.path is None:
        raise click.UsageError("There is no retriever.toml, and no [tool.retriever], from here upwards.")
    click.echo(session.configuration.path)
