"""The errors of `deploy.local`; each message says what the person at the keyboard can do.

LocalError
├── ControlFailed     a server's own command failed, or took too long
├── ProgramMissing    a program is not installed and may not be installed from here
└── StartFailed       a server was started but never became ready
"""


class LocalError(RuntimeError):
    """Something this machine must provide is not there."""


class ControlFailed(LocalError):
    """A command that controls a running server failed, or took longer than it may."""


class ProgramMissing(LocalError):
    """A program is not installed and cannot be installed unattended."""


class StartFailed(LocalError):
    """A server ended, or stayed silent, before it was ready."""
