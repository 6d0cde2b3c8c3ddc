"""Ask curl of every exchange and write its verdict beside it: `python -m tests.support.curl_verdicts [WORD]`.

With a word only of those whose name has it; the word `new` means those without a verdict.
"""

import asyncio
import re
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

import yaml

from deploy.local.ports import free_ports
from tests.support.exchange_server import ExchangeServer, exchange_server
from tests.support.exchanges import CURL_VERSION, CurlVerdict, Exchange, exchange_files
from tests.support.tls import Authority

NEW = "new"
TIMEOUT_SECONDS = 2
# curl is another process: what it has read cannot be seen, only that it had time to.
PAUSE_SECONDS = 0.05
ABREAST = 8
# As a person asks whether a URL is good: redirects, cookies and compression as in a browser.
CURL = ("curl", "-q", "-sS", "-L", "--compressed", "-b", "", "--max-redirs", "10", "-o", "/dev/null", "-g")


async def ask(exchange: Exchange, authority: Authority, ca_file: Path) -> CurlVerdict:
    """Return what curl says of the exchange."""
    tls = getattr(authority, exchange.tls)() if exchange.tls else None
    (closed_port,) = free_ports(1)
    async with exchange_server(exchange, pause=_pause, tls=tls, closed_port=closed_port) as server:
        process = await asyncio.create_subprocess_exec(
            *_command(exchange, server, ca_file),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.DEVNULL,
        )
        output, _ = await process.communicate()
    assert process.returncode is not None
    return CurlVerdict(exit=process.returncode, status=int(output))


def _command(exchange: Exchange, server: ExchangeServer, ca_file: Path) -> list[str]:
    job = exchange.job[exchange.kind]
    options = ["-m", str(TIMEOUT_SECONDS), "-w", "%{http_code}", "--cacert", str(ca_file)]
    for name in exchange.names:
        for place in ("{port}", "{tls_port}", "{closed_port}"):
            options += ["--resolve", f"{name}:{server.places[place]}:127.0.0.1"]
    headers = {name: value for name, value in job.get("headers", {}).items() if isinstance(value, str)}
    if job.get("accept"):
        headers["Accept"] = ", ".join(job["accept"])
    for name, value in headers.items():
        options += ["-H", f"{name}: {value}"]
    if job.get("method") == "HEAD":
        options.append("-I")
    if "body" in job:
        options += ["--data-raw", job["body"]]
    return [*CURL, *options, server.filled(exchange.url)]


async def _pause(_port: int, _count: int) -> None:
    await asyncio.sleep(PAUSE_SECONDS)


async def renewed(text: str, word: str, authority: Authority, ca_file: Path) -> str:
    """Return the text of a file with curl's verdicts; the rest of it stays byte for byte."""
    blocks = re.split(r"(?m)^(?=- name:)", text)
    hands = asyncio.Semaphore(ABREAST)

    async def with_verdict(block: str) -> str:
        if not block.startswith("- name:"):
            return block
        exchange = Exchange.model_validate(yaml.load(block, Loader=yaml.CSafeLoader)[0])
        if not (exchange.curl is None if word == NEW else word in exchange.name):
            return block
        async with hands:
            verdict = await ask(exchange, authority, ca_file)
        if exchange.curl not in {None, verdict}:
            sys.stdout.write(f"{exchange.name}: {exchange.curl} became {verdict}\n")
        if verdict.is_good != exchange.is_good and not exchange.differs:
            sys.stdout.write(f"{exchange.name}: argue the difference, {verdict}\n")
        line = f"  curl: {{exit: {verdict.exit}, status: {verdict.status}}}\n"
        if exchange.curl is None:
            return block.rstrip("\n") + "\n" + line + "\n"
        return re.sub(r"(?m)^  curl:.*\n", lambda _: line, block)

    return "".join(await asyncio.gather(*map(with_verdict, blocks))).rstrip("\n") + "\n"


def main(word: str = "") -> None:
    """Renew the files, and say which curl it was."""
    authority = Authority()
    with TemporaryDirectory() as folder:
        ca_file = Path(folder) / "ca.pem"
        ca_file.write_bytes(authority.root())
        for file in exchange_files():
            text = asyncio.run(renewed(file.path.read_text(), word, authority, ca_file))
            file.path.write_text(text)
    version = subprocess.run(["curl", "-V"], capture_output=True, check=True, text=True).stdout
    CURL_VERSION.write_text(version.partition("\n")[0] + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:2])
