"""Every error Retriever raises on purpose, in one tree.

RetrieverError
├── SettingsInvalid            a setting is missing or wrong; the process must not start
├── BrokerError
│   ├── BrokerUnavailable      connection lost, blocked, or no confirm in time: publish again later
│   ├── MessageUnroutable      no queue is bound for it: the topology is not declared or was damaged
│   ├── MessageRefused         a queue said no (full, or without a majority): back off
│   ├── MessageTooLarge        the broker takes none of this size: do not publish it again
│   └── DeliveryLost           its channel is gone: the broker will deliver the message again
├── StaysUnready               the process is of no use as it is; start it anew
├── ApiUnavailable, RequestRefused
│                              what an agent hears of the API (consumer.agent.task_api)
├── DrainGivenUp               broker or API could not be used for too long; there may be work left
├── DrainStopped               it was told to stop before its queue or queues were empty
├── MessageUndecodable         the body is not one of our messages; park it raw
├── ReportDisbelieved          it speaks for a job without the token of its run; leave the job as it is
├── ReportFailed               recording it failed in a way that nobody foresaw; put it aside
├── StoreUnavailable           the database did not answer; try again
├── StoreRefused               the database will not take a value, however often it is tried
├── JobInvalid                 a submitted job breaks a rule; carries where and why
│   └── BatchInvalid           none of a batch's jobs was stored (producer.batch_validation)
├── HttpProblem                what HTTP itself has a status for (producer.api.problems)
├── JobNotFound, BatchNotFound, ScheduleNotFound, OperationNotFound, KeyNotFound, SecretNotFound
│                              no row has this id
├── SecretNameTaken            another secret of the project has this name
├── EncryptionKeysMissing      there is no key to seal with
├── SecretUnreadable           what is sealed does not open, or nothing can be sealed; ends a sentence
├── BodyNotFound               a job has no body, or it is gone
├── OutputNotFound             a job is of a kind that writes no output
├── JobNotParked               only a parked job can be redriven or discarded
├── JobNotPaged                the job fetches one page, or is one of the pages of another
├── RunsExhausted              a job is in the last run that it may have, so nothing begins the next
├── JobEndedAlready            a job that has succeeded or is parked cannot be cancelled
├── NotATask                   the job is of a kind that agents do not pull
├── LeaseLost                  an agent's token is not, or no longer, that of the lease on its task
├── QuotaReached               there are as many of something as there may be; make room first
│   └── ProjectLimitReached    a project has as much of something as the operator lets it have
├── OperationFinished          only a running operation can be cancelled
└── IdempotencyConflict        an idempotency key was used for another request

A job's own failure is not here: it is a value, `shared.outcomes.Failed`.
"""

from collections.abc import Sequence
from dataclasses import dataclass


class RetrieverError(Exception):
    """Anything Retriever raises on purpose."""


class SettingsInvalid(RetrieverError):
    """A setting is missing or wrong; the message names the variable."""


class StaysUnready(RetrieverError):
    """The process could reach all it needs and did not become ready; the message names what fails."""


class DrainGivenUp(RetrieverError):
    """A process that was to do all work could not use broker or API for too long; run it again."""


class DrainStopped(RetrieverError):
    """A process that was to do all work was told to stop before."""


class BrokerError(RetrieverError):
    """RabbitMQ did not take or give a message."""


class BrokerUnavailable(BrokerError):
    """The connection was lost, is blocked by an alarm, or no confirm came in time.

    The message may have been stored all the same: publish it again with the same job id.
    """


class MessageUnroutable(BrokerError):
    """The broker returned the message: no queue is bound for its routing key."""


class MessageRefused(BrokerError):
    """A queue rejected the message (full, or unavailable); back off and publish it again."""


class MessageTooLarge(BrokerError):
    """The broker takes no message of this size; publishing it again would close the channel for all."""


class DeliveryLost(BrokerError):
    """The delivery's channel has closed; the broker has requeued or will requeue the message."""


class MessageUndecodable(RetrieverError):
    """The body of a message is not one that this version understands."""


class ReportDisbelieved(RetrieverError):
    """A message says what became of a stored job, and lacks the token that the job travelled with."""


class ReportFailed(RetrieverError):
    """A report could not be recorded, in a way that nobody foresaw."""


class StoreUnavailable(RetrieverError):
    """The database did not answer, or cannot do its work now.

    The change was not made, unless the connection broke at the very commit.
    """

    def __init__(self, reason: str, *, said: str = "") -> None:
        """Make an error.

        Args:
            reason: A sentence for whoever asked: what is the matter. It names no host, user or row.
            said: The driver's own words, for the log.
        """
        super().__init__(f"{reason} ({said})" if said else reason)
        self.reason = reason


class StoreRefused(RetrieverError):
    """The database refused a value; nothing was changed, and trying again changes nothing."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """One thing wrong with a submitted document: `loc` is a JSON pointer such as `/args/url`."""

    loc: str
    msg: str


class JobInvalid(RetrieverError):
    """A submitted job breaks a rule; `errors` names every field at fault."""

    def __init__(self, errors: Sequence[FieldError]) -> None:
        super().__init__("; ".join(f"{error.loc}: {error.msg}" for error in errors))
        self.errors = tuple(errors)


class JobNotFound(RetrieverError):
    """No job has this id."""


class BatchNotFound(RetrieverError):
    """No batch has this id."""


class ScheduleNotFound(RetrieverError):
    """No schedule has this id."""


class KeyNotFound(RetrieverError):
    """No API key has this id."""


class KeyNameTaken(RetrieverError):
    """Another API key has this name, or had it."""


class KeyEnded(RetrieverError):
    """The API key has expired or was revoked, so nothing new can be made of it."""


class SecretNotFound(RetrieverError):
    """No secret has this id."""


class SecretNameTaken(RetrieverError):
    """Another secret of the project has this name."""


class EncryptionKeysMissing(RetrieverError):
    """This process has no key to seal secrets with; the message says how to make one."""


class SecretUnreadable(RetrieverError):
    """A secret cannot be sealed, or what is sealed does not open; the message ends a sentence with why."""


class OperationNotFound(RetrieverError):
    """No operation has this id."""


class BodyNotFound(RetrieverError):
    """The job has no body: it fetched none, extracted data instead, or the job that had it is deleted."""


class OutputNotFound(RetrieverError):
    """The job is of a kind whose attempts write no output; the message says so."""


class JobNotParked(RetrieverError):
    """The job is not parked, so there is nothing to redrive or discard."""


class RunsExhausted(RetrieverError):
    """The parked job is in its last run: a redrive or a discard would begin the next."""


class JobNotPaged(RetrieverError):
    """The job is not the first of a paged fetch; the message says what it is instead."""


class JobEndedAlready(RetrieverError):
    """The job has succeeded or is parked, so there is nothing to cancel."""


class NotATask(RetrieverError):
    """The job is of another kind than `task`, so no agent holds it."""


class LeaseLost(RetrieverError):
    """The token proves no lease that is held on the task now; the message says why. Nothing changed."""


class OperationFinished(RetrieverError):
    """The operation has done all its jobs, so there is nothing to cancel."""


class QuotaReached(RetrieverError):
    """There are as many of something as there may be; the message says of what, and how to make room."""


class ProjectLimitReached(QuotaReached):
    """A project has as much as it may have; nothing was stored. The message says of what, and what helps."""

    def __init__(self, said: str, *, project: str, name: str, value: int, used: int) -> None:
        """Make an error.

        Args:
            said: A sentence for whoever asked.
            project: Whose limit it is.
            name: Of the limit, such as `stored_jobs`.
            value: How much is allowed.
            used: How much there is.
        """
        super().__init__(said)
        self.project = project
        self.name = name
        self.value = value
        self.used = used


class IdempotencyConflict(RetrieverError):
    """The idempotency key was used before, for a request that said something else."""
