"""The pages, as one Flask application: which path is which page, and what stands where one goes wrong."""

import json
from http import HTTPStatus

import flask
from starlette.exceptions import HTTPException as StarletteException
from werkzeug.exceptions import HTTPException

from producer.api.parameters import Parameters
from producer.api.problems import problem_response
from producer.api.web_pages import WsgiApp
from producer.dashboard.batches import BatchPages
from producer.dashboard.drawing import add_words, page, see_other, visit
from producer.dashboard.jobs import JobPages
from producer.dashboard.mount import PREFIX, is_own_path
from producer.dashboard.overview import OverviewPages
from producer.dashboard.parking import ParkingPages
from producer.dashboard.service import ServicePages
from producer.dashboard.sessions import Session
from producer.keys import start_of
from producer.store.database import Database


def draw_pages(database: Database, parameters: Parameters) -> WsgiApp:
    """Return the application that draws the pages."""
    app = flask.Flask(__name__, static_folder=None)
    # `/dashboard//x` is no page, and not another name of one.
    app.url_map.merge_slashes = False
    app.url_map.strict_slashes = False
    add_words(app)
    app.before_request(_check_visit)
    app.register_error_handler(Exception, _show_error)
    app.add_url_rule(f"{PREFIX}login", "login", _login)
    app.add_url_rule(f"{PREFIX}login", "sign_in", _sign_in, methods=["POST"])
    app.add_url_rule(f"{PREFIX}logout", "sign_out", _sign_out, methods=["POST"])
    app.add_url_rule(f"{PREFIX}help", "help", lambda: page("help.html"))
    OverviewPages(database).add_to(app)
    JobPages(database, parameters).add_to(app)
    ParkingPages(database).add_to(app)
    BatchPages().add_to(app)
    ServicePages(database).add_to(app)
    return app.wsgi_app


def _check_visit() -> None:
    if (error := visit().error) is not None:
        raise error


def _login() -> flask.Response:
    here = _wanted()
    if visit().caller is not None:
        return see_other(here)
    has_ended = "ended" in flask.request.args
    return page("login.html", next=here, has_ended=has_ended)


def _sign_in() -> flask.Response:
    here, text = visit(), visit().fields.get("key", "").strip()
    if not here.knows_key(text):
        return page("login.html", status=HTTPStatus.FORBIDDEN, next=_wanted(), is_refused=True)
    # Another session: whoever knew the cookie before does not know this one.
    here.session = Session.new(start_of(text))
    return see_other(_wanted())


def _sign_out() -> flask.Response:
    visit().session = Session.new()
    return see_other(f"{PREFIX}login")


def _wanted() -> str:
    """Return the page that somebody wanted to see before they were asked who they are."""
    path = visit().fields.get("next") or flask.request.args.get("next", "")
    return path if is_own_path(path) else PREFIX


def _show_error(error: Exception) -> flask.Response:
    """Return a page that says what the API would say."""
    if isinstance(error, HTTPException):
        error = StarletteException(error.code or HTTPStatus.INTERNAL_SERVER_ERROR, error.description)
    response = problem_response(error)
    problem = json.loads(bytes(response.body))
    shown = page("error.html", status=HTTPStatus(response.status_code), problem=problem)
    for name in ("Retry-After", "Allow"):
        if name in response.headers:
            shown.headers[name] = response.headers[name]
    return shown
