"""One server in a Docker container (testcontainers), on loopback ports that stay when it restarts."""

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path

import docker
from docker.errors import DockerException
from testcontainers.core.container import DockerContainer

from deploy.local.ports import LOOPBACK

STOP_SECONDS = 20
DATA_LABEL = "retriever.data"


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
    ) -> None:
        """Describe the container.

        Args:
            image: Image and tag.
            ports: Port inside to port of 127.0.0.1.
            environment: Variables inside.
            data_path: Folder inside that holds the data.
            data_dir: Names the volume that keeps the data from run to run; None: they go with the container.
            command: Instead of the image's own.
        """
        # We remove what we start; the reaper would be one more image to pull.
        os.environ.setdefault("TESTCONTAINERS_RYUK_DISABLED", "true")
        self._container = DockerContainer(image, command=command).with_envs(**environment)
        for inside, outside in ports.items():
            # docker-py takes an (address, port) pair; testcontainers declares numbers only, which would
            # publish to the world.
            self._container.ports[f"{inside}/tcp"] = (LOOPBACK, outside)  # type: ignore[assignment]
        # A fixed host name: RabbitMQ names its data after it.
        self._container.with_kwargs(hostname="retriever")
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
        """Ask the server to end and wait; ports and data are kept."""
        self._container.get_wrapped_container().stop(timeout=STOP_SECONDS)

    def kill(self) -> None:
        """End it with SIGKILL; ports and data are kept."""
        self._container.get_wrapped_container().kill()

    def remove(self) -> None:
        """Remove the container; its data go too, unless they have a folder. Twice is once."""
        if self._is_created:
            self._is_created = False
            self.stop()
        self._container.stop()

    def is_alive(self) -> bool:
        """Tell whether the container runs."""
        self._container.reload()
        return self._container.status == "running"

    def read_log(self) -> str:
        """Return what the server has said so far."""
        out, error = self._container.get_logs()
        return (out + error).decode(errors="replace")


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
