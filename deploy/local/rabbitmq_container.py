"""A RabbitMQ in a Docker container: its settings go in as variables, `rabbitmqctl` runs inside."""

from pathlib import Path

from testcontainers.core.network import Network

from deploy.local.container import Container
from deploy.local.rabbitmq_node import SERVER_ARGUMENTS

IMAGE = "rabbitmq:4.3-management"
# The last file that is read, so that it overrides the image's own. Written by root before the image's own
# entry point, which hands the folder to the server's user.
ENTRY_POINT = (
    "mkdir -p /etc/rabbitmq/conf.d"
    ' && printf "%s\\n" "$RETRIEVER_CONFIGURATION" > /etc/rabbitmq/conf.d/90-retriever.conf'
    " && exec docker-entrypoint.sh rabbitmq-server"
)


class RabbitMQContainer(Container):
    """One node in a container."""

    def __init__(
        self,
        data_dir: Path | None,
        *,
        amqp_port: int,
        management_port: int,
        host_name: str = "retriever",
        network: Network | None = None,
        cookie: str | None = None,
        configuration: str = "",
        erlang_arguments: str = "",
    ) -> None:
        """Describe the container.

        Args:
            data_dir: Names the volume that keeps the data from run to run; None: they go with the container.
            amqp_port: Of 127.0.0.1.
            management_port: Of 127.0.0.1.
            host_name: How other nodes of the network find it; the node is `rabbit@<host_name>`.
            network: Of the other nodes of its cluster.
            cookie: The secret that the nodes of a cluster share; None for one of its own.
            configuration: More lines of rabbitmq.conf.
            erlang_arguments: More arguments of the Erlang machine.
        """
        environment = {
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{SERVER_ARGUMENTS} {erlang_arguments}",
            "RETRIEVER_CONFIGURATION": configuration,
        }
        if cookie is not None:
            environment["RABBITMQ_ERLANG_COOKIE"] = cookie
        super().__init__(
            IMAGE,
            ports={5672: amqp_port, 15672: management_port},
            environment=environment,
            data_path="/var/lib/rabbitmq",
            data_dir=data_dir,
            entry_point=["sh", "-c", ENTRY_POINT],
            host_name=host_name,
            network=network,
        )
        self.node_name = f"rabbit@{host_name}"

    def control(self, *arguments: str, timeout_seconds: float) -> str:
        """Run `rabbitmqctl` inside and return what it printed.

        Raises:
            ControlFailed: It failed, or took too long; the message ends with what it said.
        """
        # As the server's user, who may read the cookie.
        command = ["rabbitmqctl", "--silent", *arguments]
        return self.run_inside(command, user="rabbitmq", timeout_seconds=timeout_seconds)
