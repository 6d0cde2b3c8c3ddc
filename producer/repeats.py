"""Jobs of a batch that ask the same: which one asks for all, and what its answer says of the others. Pure.

The job that asks is the **original**, the others are its **repeats**. Only checks are joined: the same URL
but for its fragment, which no server sees (RFC 9110 section 4.2.5), with all other arguments equal.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any
from uuid import UUID

import orjson

from producer.records import NewJob
from producer.submission import JobTemplate, ValidArgs
from shared.identity import new_id
from shared.kinds.check import (
    ASSERTION_FAILED,
    MAX_FRAGMENT_LENGTH,
    MAX_FRAGMENTS,
    MAX_FRAGMENTS_LENGTH,
    AssertionResult,
    Verdict,
    success_words,
    unmet_words,
)
from shared.urls import url_fragment

_CHECK = "check"
# What is remembered of a batch is bounded, to some 50 MB: of what comes later each job asks by itself.
_MAX_REQUESTS = 200_000
_MAX_CHARACTERS = 16_000_000

Args = Mapping[str, Any]
_UNKNOWN = (None, None)


class RepeatFinder:
    """Finds the repeats among the jobs of a batch, which it is shown in their order, numbered from 0."""

    def __init__(self, template: JobTemplate | None = None, *, dedupe: bool = False) -> None:
        """Begin a batch; without `dedupe`, and for other kinds than checks, no job repeats another."""
        self.repeats = 0
        self._is_wanted = dedupe and template is not None and template.kind.name == _CHECK
        self._seen = 0
        self._originals: dict[int, int] = {}
        # By the numbers of jobs that have repeats: the fragments of all, the original's first.
        self._fragments: dict[int, dict[str, None]] = {}
        # By the numbers of all that may have: their own fragment, where the page is searched for it.
        self._own: dict[int, str] = {}
        self._characters = 0

    def find(self, args: Args) -> int | None:
        """Return the number of the original that the next job repeats; None when it asks by itself."""
        number, self._seen = self._seen, self._seen + 1
        if not self._is_wanted:
            return None
        key = _key(args)
        original = self._originals.get(key)
        fragment = fragment_of(args) if is_searched(args) else None
        if original is None:
            if len(self._originals) >= _MAX_REQUESTS:
                return None
        elif self._join(original, fragment, args):
            self.repeats += 1
            return original
        if fragment is None or self._has_room(fragment, ()):
            self._originals[key] = number
            if fragment is not None:
                self._own[number] = fragment
        return None

    def jobs(
        self,
        template: JobTemplate,
        found: Iterable[tuple[ValidArgs, int | None]],
        *,
        batch_id: UUID,
        known: Iterator[tuple[bytes | None, UUID | None]] | None = None,
    ) -> Iterator[NewJob]:
        """Yield the jobs of a batch: all arguments in their order, each with what was found for it.

        Args:
            template: Of the batch.
            found: The arguments, and the number of the original that was found.
            batch_id: Of the batch.
            known: Of each job the key of what it asks, and the job that has the answer already.
        """
        ids: dict[int, UUID] = {}
        for number, (args, original) in enumerate(found):
            key, answered_by = next(known, _UNKNOWN) if known else _UNKNOWN
            job_id, asked, same_as = new_id(), args, None
            if original is not None:
                same_as = ids[original]
            elif answered_by is not None:
                # Its repeats get the same answer.
                same_as = ids[number] = answered_by
            elif (fragments := self._fragments.get(number)) is not None:
                same_as = ids[number] = job_id
                asked = args._replace(document=_searching(args.document, fragments))
            job = template.job(asked, job_id=job_id, batch_id=batch_id, same_as=same_as)
            yield job if key is None else replace(job, unique_key=key)

    def _join(self, original: int, fragment: str | None, args: Args) -> bool:
        """Return whether a repeat could be joined to an original, which takes so many fragments only."""
        own = self._own.get(original)
        fragments = self._fragments.get(original, {} if own is None else {own: None})
        if fragment is not None and fragment not in fragments:
            if not self._has_room(fragment, [*fragments, *args.get("fragments", ())]):
                return False
            fragments[fragment] = None
        self._fragments[original] = fragments
        return True

    def _has_room(self, fragment: str, others: Iterable[str]) -> bool:
        lengths = [len(fragment), *map(len, others)]
        self._characters += lengths[0]
        return (
            self._characters <= _MAX_CHARACTERS
            and lengths[0] <= MAX_FRAGMENT_LENGTH
            and sum(lengths) <= MAX_FRAGMENTS_LENGTH
            and len(lengths) <= MAX_FRAGMENTS
        )


def _key(args: Args) -> int:
    """Return a number that is the same for checks that ask the same, and no other: 64 bits of SipHash.

    A digest of more bits takes five times as long, for every line of every batch. Of 200,000 requests two are
    mistaken for one in one of a billion batches; whoever sends a batch cannot know the key of the hash.
    """
    asked = str(args["url"]).partition("#")[0]
    if len(args) == 1:
        return hash(asked)
    return hash(orjson.dumps({**args, "url": asked}, option=orjson.OPT_SORT_KEYS))


def fragment_of(args: Args) -> str:
    """Return the fragment of a check's URL, as it stands there; empty when there is none."""
    return url_fragment(args["url"])


def successor_args(original: Args, successor: Args) -> dict[str, Any]:
    """Return the arguments of the repeat that asks from now on, in the place of its original."""
    return _searching(successor, [fragment_of(original), *original.get("fragments", ())])


def answer_of(result: Mapping[str, Any], *, original: Args, repeat: Args) -> dict[str, Any]:
    """Return the result of a repeat: that of its original, with its own fragment.

    Args:
        result: That of the original, a `CheckResult`.
        original: The arguments of the original.
        repeat: The arguments of the repeat.
    """
    answer = dict(result)
    found: Mapping[str, Any] = answer.pop("fragments", None) or {}
    if found and (own := repeat.get("fragments")):
        answer["fragments"] = {name: found[name] for name in own if name in found}
    if _end(original) == _end(repeat):
        return answer
    ends = _end(original), _end(repeat)
    answer["final_url"] = _moved(answer.get("final_url"), *ends)
    answer["hops"] = [
        {**hop, **{name: _moved(hop.get(name), *ends) for name in ("url", "location")}}
        for hop in answer.get("hops") or ()
    ]
    fragment = fragment_of(repeat)
    return _judged(answer, found[fragment]) if is_searched(repeat) and fragment in found else answer


def _judged(answer: dict[str, Any], fragment: Mapping[str, Any]) -> dict[str, Any]:
    """Return the result of a check with the verdict that its assertions give with another fragment."""
    assertions = [fragment if each["assertion"] == "fragment" else each for each in answer["assertions"]]
    results = [AssertionResult.model_validate(each) for each in assertions]
    verdict, reason, words = Verdict.OK, "ok", success_words(results)
    if unmet := [each for each in results if each.passed is False]:
        verdict, reason = Verdict.BROKEN, ASSERTION_FAILED
        words = unmet_words(unmet[0].assertion, unmet[0].expected, others=len(unmet) - 1)
    return {
        **answer,
        "assertions": assertions,
        "verdict": verdict.value,
        "reason": reason,
        "explanation": words,
    }


def is_searched(args: Args) -> bool:
    """Return whether the page is searched for the fragment of the URL."""
    return bool((args.get("assertions") or {}).get("fragment"))


def _searching(args: Args, fragments: Iterable[str]) -> dict[str, Any]:
    """Return arguments that also ask for these fragments, where the page is searched for any."""
    names = dict.fromkeys([*args.get("fragments", ()), *fragments])
    if not is_searched(args):
        return dict(args)
    names.pop(fragment_of(args), None)
    return {**args, "fragments": list(names)} if names else dict(args)


def _end(args: Args) -> str:
    """Return the end of a check's URL, from `#` on; a fragment that is there may be empty."""
    return "".join(str(args["url"]).partition("#")[1:])


def _moved(url: str | None, before: str, after: str) -> str | None:
    """Return a URL with another end, unless a redirect has brought one of its own."""
    if url is None:
        return None
    rest, mark, fragment = url.partition("#")
    return rest + after if mark + fragment == before else url
