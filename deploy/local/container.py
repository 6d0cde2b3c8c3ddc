"""One server in a Docker container (testcontainers), on loopback ports that stay when it restarts."""

import hashlib
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network

from deploy.local.errors import ControlFailed
from deploy.local.ports import LOOPBACK
from deploy.local.processes import RUN_VARIABLE, checked_output

STOP_SECONDS = 20
DATA_LABEL = "retriever.data"
RUN_LABEL = "retriever.run"


def docker_answers() -> bool:
    """Tell whether a Docker engine can be used from here."""
    try:
        client = docker.from_env(timeout=10)
    except DockerException:
        return False
    try:
        return bool(client.ping())
    except (DockerException, OSError):
        return False
    finally:
        client.close()


def remove_containers_of(beginning: str) -> list[str]:
    """Remove the containers of all runs whose names begin so, where Docker answers; return their names."""
    try:
        client = docker.from_env(timeout=10)
    except DockerException:
        return []
    try:
        chosen = [
            each
            for each in client.containers.list(all=True, filters={"label": RUN_LABEL}, ignore_removed=True)
            if each.labels[RUN_LABEL].startswith(beginning)
        ]
        for container in chosen:
            container.stop(timeout=STOP_SECONDS)
            container.remove(force=True)
        return [f"container {container.name}" for container in chosen]
    except (DockerException, OSError):
        return []
    finally:
        client.close()


@contextmanager
def open_network() -> Iterator[Network]:
    """Yield a network in which containers find each other by host name; removed with all that is in it."""
    network = Network().create()
    try:
        yield network
    finally:
        client = docker.from_env()
        try:
            # Ctrl-C while a container is made leaves one that nobody holds, and Docker keeps used networks.
            for container in client.networks.get(network.id).containers:
                container.remove(force=True, v=True)
        finally:
            client.close()
        network.remove()


class Container:
    """A container with loopback ports; made by `start`, kept by `stop` and `kill`, gone with `remove`."""

    def __init__(
        self,
        image: str,
        *,
        ports: Mapping[int, int],
        environment: Mapping[str, str],
        data_path: str,
        data_dir: Path | None,
        command: str | None = None,
        entry_point: Sequence[str] | None = None,
        host_name: str = "retriever",
        network: Network | None = None,
    ) -> None:
        """Describe the container.

        Args:
            image: Image and tag.
            ports: Port inside to port of 127.0.0.1.
            environment: Variables inside.
            data_path: Folder inside that holds the data.
            data_dir: Names the volume that keeps the data from run to run; None: they go with the container.
            command: Instead of the image's own.
            entry_point: Instead of the image's own, with its arguments.
            host_name: Fixed, because RabbitMQ names its data after it; also its name in the network.
            network: Shared with other containers; None for Docker's own.
        """
        # We remove what we start; the reaper would be one more image to pull.
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        self._container = DockerContainer(image, command=command).with_envs(**environment)
        for inside, outside in ports.items():
            # docker-py takes an (address, port) pair; testcontainers declares numbers only, which would
            # publish to the world.
            self._container.ports[f"{inside}/tcp"] = (LOOPBACK, outside)  # type: ignore[assignment]
        self._container.with_kwargs(
            hostname=host_name,
            entrypoint=entry_point and list(entry_point),
            labels={RUN_LABEL: os.environ.get(RUN_VARIABLE, "")},
        )
        if network is not None:
            self._container.with_network(network).with_network_aliases(host_name)
        self._is_created = False
        if data_dir is not None:
            self._container.with_volume_mapping(_volume(data_dir), data_path, "rw")

    def start(self) -> None:
        """Create and start, or start again; returns at once, the server may not be ready."""
        if self._is_created:
            self._container.get_wrapped_container().start()
        else:
            self._container.start()
            self._is_created = True

    def stop(self) -> None:
        """Ask the server to end and wait; ports and data are kept. A frozen one is thawed first."""
        self.thaw()
        self._container.get_wrapped_container().stop(timeout=STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL; ports and data are kept. Ended already: does nothing."""
        self.thaw()
        if self.is_alive():
            self._container.get_wrapped_container().kill()

    def freeze(self) -> None:
        """Let none of its processes run, while its connections stay open. Twice is once."""
        if self._status() == "running":
            self._container.get_wrapped_container().pause()

    def thaw(self) -> None:
        """Let them run again."""
        if self._status() == "paused":
            self._container.get_wrapped_container().unpause()

    def run_inside(self, command: Sequence[str], *, user: str, timeout_seconds: float) -> str:
        """Run a command in the container and return what it printed. Blocks.

        Raises:
            ControlFailed: It failed, or took too long; the message ends with what it said.
        """
        # Its own `timeout`: Docker cannot end what it runs in a container.
        limited = ["timeout", f"{timeout_seconds:g}", *command]
        try:
            status, (output, complaints) = self._container.get_wrapped_container().exec_run(
                limited, user=user, demux=True
            )
        except (DockerException, OSError) as error:
            raise ControlFailed(f"{' '.join(command)} could not run: {error}") from error
        return checked_output(command, status=status, output=output or b"", complaints=complaints or b"")

    def remove(self) -> None:
        """Remove the container; its data go too, unless they have a folder. Twice is once."""
        if self._is_created:
            self._is_created = False
            self.stop()
        self._container.stop()

    def is_alive(self) -> bool:
        """Tell whether the container runs, frozen or not."""
        return self._status() in {"running", "paused"}

    def read_log(self) -> str:
        """Return what the server has said so far."""
        out, error = self._container.get_logs()
        return (out + error).decode(errors="replace")

    def _status(self) -> str:
        self._container.reload()
        return str(self._container.status)


def _volume(data_dir: Path) -> str:
    """Return the name of the volume that stands for a folder; `make clean` finds it by its label."""
    folder = str(data_dir.resolve())
    name = f"retriever-{hashlib.sha256(folder.encode()).hexdigest()[:12]}"
    client = docker.from_env()
    try:
        client.volumes.create(name, labels={DATA_LABEL: folder})
    finally:
        client.close()
    return name
