"""`retriever check` and `retriever links`: the links of documents, and what became of them."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from io import StringIO
from itertools import islice
from pathlib import Path
from typing import Any, Final, TextIO

import click

from retriever_client import Invalid as ApiInvalid
from retriever_client import Retriever
from retriever_client.cli.baseline import read_baseline, write_baseline
from retriever_client.cli.collecting import (
    NOTHING_NAMED,
    Collected,
    Inputs,
    input_options,
    name_of,
    shown_target,
)
from retriever_client.cli.configuration import Configuration
from retriever_client.cli.exit_codes import ExitCode
from retriever_client.cli.link_store import Ask, LinkStore, Position, places_of_ref
from retriever_client.cli.links.document import Link
from retriever_client.cli.links.inputs import Unread
from retriever_client.cli.links.targets import File, FileChecks, Invalid, Skipped, Target, Web, is_top
from retriever_client.cli.local import local_service
from retriever_client.cli.outcomes import (
    FAILING,
    Answer,
    Outcome,
    Redirects,
    answer_of_file,
    answer_of_job,
)
from retriever_client.cli.output import Output, say
from retriever_client.cli.parameters import Choices, Duration, Pair, ReportTarget
from retriever_client.cli.reports.found import FoundLink, write_links
from retriever_client.cli.reports.junit import write_junit
from retriever_client.cli.reports.records import write_csv, write_json, write_ndjson
from retriever_client.cli.reports.run import Run
from retriever_client.cli.reports.sarif import write_sarif
from retriever_client.cli.reports.words import (
    sentences,
    write_github,
    write_markdown,
    write_plain,
    write_table,
)
from retriever_client.cli.session import Session, pass_session
from retriever_client.cli.watching import Interrupted, how_to_come_back, wait_for
from retriever_client.errors import RetrieverError
from retriever_client.models import Batch

WRITERS: Final[dict[str, Callable[[Run, TextIO], None]]] = {
    "table": write_table,
    "plain": write_plain,
    "json": write_json,
    "ndjson": write_ndjson,
    "csv": write_csv,
    "junit": write_junit,
    "markdown": write_markdown,
    "github": write_github,
    "sarif": write_sarif,
}
# The service takes a million jobs and 256 MiB for a batch, and asks once for what is the same of 200,000.
_BATCH_URLS: Final = 200_000
_FAIL_ON: Final = tuple(each.value for each in Outcome if each not in {Outcome.OK, Outcome.REDIRECT})
_LINE: Final = re.compile(r"/lines/(\d+)")


@dataclass(frozen=True, slots=True)
class Sent:
    """A batch, and which asks are its lines: from `first` on, `count` of them."""

    batch: Batch
    first: int
    count: int


@click.command()
@input_options
@click.option("-o", "--output", type=click.Choice(list(WRITERS)), help="What goes to stdout.")
@click.option(
    "--report",
    "reports",
    type=ReportTarget(tuple(WRITERS)),
    multiple=True,
    help="One more report of the same run, in a file. May be repeated.",
)
@click.option("--query", metavar="JMESPATH", help="Print this of the JSON document, such as 'links[].url'.")
@click.option(
    "--fail-on",
    type=Choices(_FAIL_ON),
    default=",".join(each.value for each in FAILING),
    show_default=True,
    help="What makes the exit code 1.",
)
@click.option(
    "--redirects",
    type=click.Choice([each.value for each in Redirects]),
    default=Redirects.ALLOW.value,
    show_default=True,
    help="Whether good links that lead elsewhere are listed, or fail.",
)
@click.option("--fragments", is_flag=True, help="Look for the fragments of URLs in their pages.")
@click.option(
    "--max-age", type=Duration(), help="Take a good answer of that time, such as 1d, for an answer."
)
@click.option(
    "--baseline", type=click.Path(path_type=Path, dir_okay=False), help="Fail only on what it has not."
)
@click.option("--update-baseline", is_flag=True, help="Write what fails now to the file of --baseline.")
@click.option("--offline", is_flag=True, help="Only links to files; no service is needed.")
@click.option("--local", is_flag=True, help="Start a service on this machine, and stop it afterwards.")
@click.option(
    "--local-data",
    type=click.Path(path_type=Path, file_okay=False),
    help="What --local keeps from run to run. Default: a folder of the user's cache.",
)
@click.option("--detach", is_flag=True, help="Hand the links in, and do not wait.")
@click.option(
    "--attach", multiple=True, metavar="BATCH_ID", help="See what became of batches handed in before."
)
@click.option("--wait", type=Duration(), help="For how long at most, such as 10m; then the exit code is 5.")
@click.option("--detach-on-interrupt", is_flag=True, help="Ctrl-C cancels nothing where nobody can be asked.")
@click.option(
    "--progress", type=click.Choice(["auto", "bar", "plain", "none"]), default="auto", show_default=True
)
@click.option(
    "--status", "statuses", multiple=True, metavar="STATUS", help="Good ones, such as 200-299 or 401."
)
@click.option("--header", "headers", type=Pair(":"), multiple=True, metavar="NAME:VALUE", help="Sent along.")
@click.option("--attempts", type=click.IntRange(min=1), help="How often a URL is tried that may recover.")
@click.option("--retry-delay", type=Duration(), help="How long the first wait between two tries is.")
@click.option("--label", "labels", type=Pair("="), multiple=True, metavar="NAME=VALUE", help="Of the batch.")
@click.option("--lane", type=click.Choice(["interactive", "bulk"]), help="Where the batch waits its turn.")
@click.option("--index-file", multiple=True, help="What must be in a folder that a link leads to.")
@pass_session
@click.pass_context
def check(ctx: click.Context, session: Session, /, **given: Any) -> None:
    """Check the links of documents: files, folders, patterns, URLs, - for stdin.

    Each distinct URL is asked for once, and reported at every place where it is written.

    Exit codes: 0 good, 1 found what --fail-on names, 2 usage or no link, 3 unreachable, 4 not allowed,
    5 not finished in time, 130 interrupted.
    """
    names = {each.name for each in fields(Inputs)}
    inputs = Inputs(**{name: value for name, value in given.items() if name in names})
    options = Options(**{name: value for name, value in given.items() if name not in names})
    options.insist(inputs)
    ctx.exit(_Check(session, inputs, options).run())


@click.command("links")
@input_options
@click.option("-o", "--output", type=click.Choice(["table", "plain", "json", "ndjson", "csv"]))
@pass_session
@click.pass_context
def list_links(ctx: click.Context, session: Session, /, output: str | None, **given: Any) -> None:
    """Show the links of documents, and ask nobody about them."""
    inputs = Inputs(**given)
    if inputs.is_empty:
        raise click.UsageError(NOTHING_NAMED)
    collected = Collected()
    unread = 0
    rules = inputs.rules()

    def found() -> Iterator[FoundLink]:
        nonlocal unread
        for source in inputs.sources(sys.stdin.buffer):
            if isinstance(source, Unread):
                unread += 1
                say(f"{name_of(source)}: {source.reason}")
                continue
            for place, link, target in collected.links_of(source, rules):
                collected.links += 1
                yield FoundLink(place, link, target)

    write_links(found(), output or session.output.format, sys.stdout)
    if unread:
        ctx.exit(ExitCode.FOUND)
    ctx.exit(ExitCode.GOOD if collected.links or inputs.allow_empty else ExitCode.USAGE)


@dataclass(frozen=True, slots=True)
class Options:
    """How links are checked, and what is said of it."""

    output: str | None
    reports: tuple[tuple[str, Path], ...]
    query: str | None
    fail_on: tuple[str, ...]
    redirects: str
    fragments: bool
    max_age: float | None
    baseline: Path | None
    update_baseline: bool
    offline: bool
    local: bool
    local_data: Path | None
    detach: bool
    attach: tuple[str, ...]
    wait: float | None
    detach_on_interrupt: bool
    progress: str
    statuses: tuple[str, ...]
    headers: tuple[tuple[str, str], ...]
    attempts: int | None
    retry_delay: float | None
    labels: tuple[tuple[str, str], ...]
    lane: str | None
    index_file: tuple[str, ...]

    def insist(self, inputs: Inputs) -> None:
        """Refuse what makes no sense together.

        Raises:
            UsageError: It does not.
        """
        if inputs.is_empty and not self.attach:
            raise click.UsageError(NOTHING_NAMED)
        for is_wrong, words in (
            (self.attach and not inputs.is_empty, "--attach looks at no documents: name none."),
            (self.attach and (self.detach or self.offline or self.local), "--attach goes alone."),
            (self.offline and (self.detach or self.local), "--offline asks no service."),
            (self.local and self.detach, "A service of --local stops with the command: it cannot --detach."),
            (self.update_baseline and not self.baseline, "--update-baseline needs --baseline FILE."),
            (self.max_age == 0, "--max-age must be more than nothing."),
        ):
            if is_wrong:
                raise click.UsageError(words)

    @property
    def failing(self) -> tuple[Outcome, ...]:
        """By which outcomes the run fails."""
        chosen = tuple(Outcome(word) for word in self.fail_on)
        return (*chosen, Outcome.REDIRECT) if self.redirects == Redirects.ERROR else chosen


class _Check:
    """One run of `retriever check`, from documents to reports."""

    def __init__(self, session: Session, inputs: Inputs, options: Options) -> None:
        self._session = session
        self._inputs = inputs
        self._options = options
        self._collected = Collected()
        if options.local and session.url:
            raise click.UsageError("--url names a service, and --local starts another.")
        if options.query is not None:
            session.output.set_query(options.query)
        self._query = session.output.query
        if self._query is not None and self._output != "json":
            raise click.UsageError("--query reads -o json alone.")
        self._known = (
            [] if options.update_baseline or not options.baseline else read_baseline(options.baseline)
        )

    def run(self) -> ExitCode:
        """Run it."""
        with LinkStore() as store:
            try:
                return self._attach(store) if self._options.attach else self._check(store)
            except Interrupted:
                return ExitCode.INTERRUPTED

    def _check(self, store: LinkStore) -> ExitCode:
        self._collect(store)
        if not self._collected.links:
            say(f"There is no link in any input; documents read: {self._collected.documents:,}.")
            if not self._inputs.allow_empty:
                say("That is an error unless you say --allow-empty.")
                return ExitCode.USAGE
        if not store.count_asked():
            return self._report(store, [], is_finished=True)
        with self._service() as retriever:
            sent = _submit(retriever, store, self._options, self._session.configuration)
            ids = [each.batch.id for each in sent]
            for each in sent:
                say(f"Batch {each.batch.id} at {retriever.url}: {each.batch.total:,} URLs.")
            if self._options.detach:
                return self._leave(store, ids)
            is_finished = self._wait(retriever, ids)
            _gather(retriever, store, sent, Redirects(self._options.redirects))
        return self._report(store, sent, is_finished=is_finished)

    def _attach(self, store: LinkStore) -> ExitCode:
        retriever = self._session.retriever
        sent = [Sent(retriever.batches.get(each), 0, 0) for each in self._options.attach]
        is_finished = self._wait(retriever, [each.batch.id for each in sent])
        redirects = Redirects(self._options.redirects)
        for each in sent:
            _gather_by_ref(retriever, store, each.batch.id, redirects)
        self._collected.links = store.count_links()
        return self._report(store, sent, is_finished=is_finished)

    def _collect(self, store: LinkStore) -> None:
        rules, checks = self._inputs.rules(), FileChecks(index_files=self._options.index_file)
        for source in self._inputs.sources(sys.stdin.buffer):
            if isinstance(source, Unread):
                answer = Answer(Outcome.UNREAD, "unread", source.reason)
                name = name_of(source)
                say(f"{name}: {source.reason}")
                store.add_answered(Position(name, 1, 1), "document", name, name, answer)
                continue
            for place, link, target in self._collected.links_of(source, rules):
                self._add(store, checks, place, link, target)

    def _add(self, store: LinkStore, checks: FileChecks, place: Position, link: Link, target: Target) -> None:
        match target:
            case Skipped():
                self._collected.skipped[target] += 1
                return
            case Web() if self._options.offline:
                self._collected.skipped["offline"] += 1
                return
            case Web() if self._session.configuration.host_of(target.url).skip:
                self._collected.skipped["host"] += 1
                return
            case Web():
                judged = self._options.fragments and not is_top(target.fragment)
                store.add_asked(place, link.kind, link.raw, target.url, target.fragment, judged=judged)
            case File():
                answer = answer_of_file(checks.check(target))
                store.add_answered(place, link.kind, link.raw, shown_target(target), answer)
            case Invalid():
                answer = Answer(Outcome.REJECTED, "invalid_url", target.reason)
                store.add_answered(place, link.kind, link.raw, link.url, answer)
        self._collected.links += 1

    def _service(self) -> AbstractContextManager[Retriever]:
        if self._options.local:
            return local_service(self._options.local_data)
        return nullcontext(self._session.retriever)

    def _wait(self, retriever: Retriever, batch_ids: Sequence[str]) -> bool:
        is_finished = wait_for(
            retriever,
            batch_ids,
            seconds=self._options.wait,
            progress=self._options.progress,
            detach_on_interrupt=self._options.detach_on_interrupt,
        )
        if not is_finished:
            say(f"Not finished in time; the service goes on. {how_to_come_back(batch_ids)}")
        return is_finished

    def _leave(self, store: LinkStore, batch_ids: Sequence[str]) -> ExitCode:
        for batch_id in batch_ids:
            click.echo(batch_id)
        if batch_ids:
            say(how_to_come_back(batch_ids))
        store.mark_known(self._known)
        failures = Run(store, 0, 0, self._options.failing).summary().failures
        if failures:
            say(f"{failures:,} links fail already.")
        return ExitCode.FOUND if failures else ExitCode.GOOD

    def _report(self, store: LinkStore, sent: Sequence[Sent], *, is_finished: bool) -> ExitCode:
        options = self._options
        if options.baseline and options.update_baseline and is_finished:
            fails = ((link.place.file, link.url) for link in store.links(options.failing, options.failing))
            self._known = write_baseline(options.baseline, fails)
            say(f"{options.baseline}: {len(self._known):,} links.")
        elif options.update_baseline:
            say(f"{options.baseline} stays as it is: not all links were checked.")
        store.mark_known(self._known)
        run = Run(
            store=store,
            documents=self._collected.documents or store.count_files(),
            urls=sum(each.batch.total for each in sent),
            failing=options.failing,
            batch_ids=[each.batch.id for each in sent],
            skipped=self._collected.skipped,
            ignored=self._collected.ignored,
            answered_before=sum(each.batch.repeats for each in sent) if options.max_age else 0,
            has_baseline=bool(options.baseline),
        )
        _write_reports(run, options, self._output, self._query)
        summary = run.summary()
        if summary.outcomes[Outcome.UNFINISHED]:
            return ExitCode.UNFINISHED
        return ExitCode.FOUND if summary.failures else ExitCode.GOOD

    @property
    def _output(self) -> str:
        return self._options.output or ("json" if self._query else self._session.output.format)


def _submit(
    retriever: Retriever, store: LinkStore, options: Options, configuration: Configuration
) -> list[Sent]:
    """Hand all URLs in, each once, and return their batches."""
    total, asks = store.count_asked(), store.asks()
    sent = []
    for first in range(1, total + 1, _BATCH_URLS):
        count = min(_BATCH_URLS, total + 1 - first)
        try:
            batch = retriever.batches.submit(
                "check",
                (_item(ask, configuration) for ask in islice(asks, count)),
                defaults=_defaults(options),
                lane=options.lane,
                labels=dict(options.labels) or None,
                retry=_retry(options),
                reuse_within_seconds=options.max_age,
            )
        except ApiInvalid as error:
            if not any(_LINE.match(loc) for loc, _ in error.problem.errors):
                raise
            # None of them is a URL that can be asked for: each is bad, and the run goes on.
            for loc, msg in error.problem.errors:
                if number := _LINE.match(loc):
                    store.record(first - 1 + int(number[1]), Answer(Outcome.REJECTED, "invalid_url", msg))
            rest = Answer(Outcome.REJECTED, "invalid_url", error.problem.detail)
            store.record_the_rest(first, first - 1 + count, rest)
        else:
            sent.append(Sent(batch, first, count))
    return sent


def _item(ask: Ask, configuration: Configuration) -> dict[str, Any]:
    item: dict[str, Any] = {"url": ask.url, **configuration.host_of(ask.url).args}
    if ask.ref:
        item["ref"] = ask.ref
    if ask.fragments:
        item["fragments"] = list(ask.fragments)
    return item


def _defaults(options: Options) -> dict[str, Any] | None:
    defaults: dict[str, Any] = {}
    if options.statuses:
        defaults["statuses"] = [int(each) if each.isdecimal() else each for each in options.statuses]
    if options.headers:
        defaults["headers"] = dict(options.headers)
    return defaults or None


def _retry(options: Options) -> dict[str, Any] | None:
    retry = {"max_attempts": options.attempts, "first_delay_seconds": options.retry_delay}
    return {name: value for name, value in retry.items() if value is not None} or None


def _gather(retriever: Retriever, store: LinkStore, sent: Sequence[Sent], redirects: Redirects) -> None:
    """Keep what was found out about the lines of batches."""
    for each in sent:
        before = each.first - 1
        for job in retriever.batches.results(each.batch):
            if job.line is not None:
                store.record(before + job.line, answer_of_job(job, redirects))
        if each.batch.rejected.count:
            for line in retriever.batches.rejected(each.batch):
                store.record(before + line.number, Answer(Outcome.REJECTED, "invalid_url", line.msg))
            # Of very many the service lists the first alone.
            rest = Answer(Outcome.REJECTED, "invalid_url", "It is no URL that can be asked for.")
            store.record_the_rest(each.first, before + each.count, rest)


def _gather_by_ref(retriever: Retriever, store: LinkStore, batch_id: str, redirects: Redirects) -> None:
    """Keep the links that the jobs of a batch say they are for, and what was found out about them."""
    for job in retriever.batches.results(batch_id):
        url = job.url or job.id
        unknown: list[tuple[Position, str | None]] = [(Position(f"batch {batch_id}", job.line or 1, 1), None)]
        for place, fragment in places_of_ref(job.ref or "") or unknown:
            store.add_asked(place, "link", url, url, fragment, judged=fragment is not None)
        store.record_url(url, answer_of_job(job, redirects))
    for line in retriever.batches.rejected(batch_id):
        url = line.given or line.loc
        place = next(
            iter(places_of_ref(line.ref or "")), (Position(f"batch {batch_id}", line.number, 1), None)
        )[0]
        store.add_answered(place, "link", url, url, Answer(Outcome.REJECTED, "invalid_url", line.msg))


def _write_reports(run: Run, options: Options, output: str, query: Callable[[Any], Any] | None) -> None:
    """Write what was asked for: to stdout, and each further report to its file.

    Raises:
        RetrieverError: A file cannot be written.
    """
    if query is not None:
        text = StringIO()
        write_json(run, text)
        Output("json", query).one(json.loads(text.getvalue()), ())
    else:
        WRITERS[output](run, sys.stdout)
    for name, path in options.reports:
        try:
            with path.open("w", encoding="utf-8", newline="") as file:
                WRITERS[name](run, file)
        except OSError as error:
            raise RetrieverError(f"{path}: {error.strerror or error}") from error
    summary = os.environ.get("GITHUB_STEP_SUMMARY")
    if summary and "github" in {output, *(name for name, _ in options.reports)}:
        with Path(summary).open("a", encoding="utf-8") as file:
            write_markdown(run, file)
    if output != "table":
        for line in sentences(run):
            say(line)
