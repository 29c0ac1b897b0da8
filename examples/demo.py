"""The broker's main job, start to end, on a real data file: `make demo`.

A broker starts with its embedded defaults; an agent calls tools on the airports of the world (the `airportsdata`
package); one call is refused by policy and one for its arguments; one run is cut by time and one by memory; the ledger
is printed and verified, and a copy with one changed byte is not; an auditor checks a bundle of it with one file. Between
these, a tool that changes a real service outside waits for two people (``two_people.py``), and a clean-up that two people
agreed to removes the wrong files, and the wrong rows of a database, and is taken back (``clean_up.py``, ``clean_rows.py``);
afterwards that is found in the record, shown, run again in a sealed sandbox, tried under a stricter policy, and packed
(``incident.py``).
Every step checks what it shows: exit code 0 means that all of it happened.
"""

from __future__ import annotations

import asyncio
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import airportsdata
from clean_rows import CleanRows
from clean_up import CleanUp
from incident import Incident
from price_service import price_service
from rich.syntax import Syntax
from stage import ROOT, WAIT_S, DemoError, Stage, check, console, elapsed_s, step
from two_people import TwoPeople

from broker.client import AsyncBroker, CallContext, InputFile
from broker.client.models import Stdout
from broker.domain.run import EndCause
from broker.errors import InvalidArgumentError, PermissionDeniedError

AIRPORTS = Path(airportsdata.__file__).with_name("airports.csv")
HIGHEST = "SELECT country, count(*) AS airports, max(elevation) AS highest_ft FROM airports GROUP BY 1 ORDER BY 2 DESC"


class Demo(Stage):
    """What one agent does, and what its record is worth afterwards."""

    def prepare(self) -> None:
        """State directory, identities, an operator's own tool and the rule for it."""
        step("A state directory: database and ledger, a local CA, the first human, the shipped policy")
        self.broker("init", "--operator", "olivia")
        step("Olivia registers an agent of hers, and adds a tool of her own with a rule for it")
        self.broker("identity", "issue", "agent", "scout", "--owner", "olivia")
        own = self.state / "tool_specs"
        own.mkdir()
        shutil.copy(ROOT / "examples" / "tool_specs" / "demo.quick.yaml", own)
        self.add_rules(
            "p, demo-quick, role:agent, demo, demo.quick, call, 0, allow, small programs in the demo workspace\n"
        )

    @contextmanager
    def serving(self) -> Iterator[str]:
        """Runs `broker serve`; gives its address."""
        step("The broker starts: mutual TLS, SQLite, the local container engine")
        with self.running("serve", name="the broker", ready="address") as ready:
            console.print(
                f"takes calls at {ready['address']}, {ready['tools']} tools, policy {ready['policy_digest'][:19]}"
            )
            yield ready["address"]

    def session(self) -> str:
        """Olivia starts the agent's session under her own certificate."""
        step("Olivia starts a session for the agent: from now on it is proved who stands behind its calls")
        arguments = ("sessions", "start", "--agent", "scout", "--workspace", "demo", "--identity", "human/olivia")
        answer = self.answer(*arguments)
        console.print(f"{answer['name']}, for scout in demo, started by {answer['starter']}")
        return str(answer["name"])

    async def agent(self, address: str, session: str) -> None:
        """What the agent does, through the Python client."""
        context = CallContext(
            workspace="demo", session=session, purpose="which country has the most airports?", model="demo-model"
        )
        identity = self.state / "identities" / "agent" / "scout"
        ca = self.state / "ca" / "ca.pem"
        async with AsyncBroker.connect(address, identity=identity, ca=ca, context=context) as client:
            await self._real_work(client)
            await self._refusals(client)
            await self._limits(client)

    async def _real_work(self, client: AsyncBroker) -> None:
        step("The agent lists its tools")
        async for tool in client.list_tools():
            console.print(f"  {tool.name:22} tier {int(tool.tier)}  {tool.description.split('. ')[0][:88]}")
        step(f"data.query: SQL over a real file, {AIRPORTS.name} ({AIRPORTS.stat().st_size:,} bytes)")
        console.print(Syntax(HIGHEST, "sql", background_color="default"))
        call = await client.run(
            "data.query", {"sql": HIGHEST, "max_rows": 5}, files=[InputFile("airports.csv", AIRPORTS)]
        )
        check(call.succeeded, f"data.query ended as {call.state}: {call.stderr.decode()}")
        console.print(call.stdout.decode().rstrip(), markup=False)
        step("text.search: the same file, another tool")
        arguments = {"pattern": "Reykjavik", "max_matches": 3}
        call = await client.run("text.search", arguments, files=[InputFile("airports.csv", AIRPORTS)])
        check(call.succeeded, f"text.search ended as {call.state}: {call.stderr.decode()}")
        console.print(call.stdout.decode().rstrip(), markup=False)
        step("python.run: output streams while the program runs")
        code = "import time\nfor n in range(1, 4):\n    print('line', n, flush=True)\n    time.sleep(0.4)\n"
        times = []
        async with client.stream("python.run", {"code": code}) as events:
            async for event in events:
                if isinstance(event, Stdout):
                    times.append(time.monotonic())
                    console.print(f"  after {times[-1] - times[0]:.1f} s: {event.data.decode().strip()}")
        check(len(times) >= 2 and times[-1] - times[0] > 0.3, "the output came all at once")

    async def _refusals(self, client: AsyncBroker) -> None:
        step("shell.run is refused by policy, and the refusal names the rule")
        try:
            await client.run("shell.run", {"script": "id"})
        except PermissionDeniedError as error:
            console.print(f"  {error.reason}: {error.message}\n  rule: {error.metadata['rule']}", markup=False)
            check(error.metadata["rule"] == "demo-no-shell", "another rule refused")
        else:
            raise DemoError("shell.run was not refused")
        step("Bad arguments are refused, and the refusal points to the field")
        try:
            await client.run("data.query", {"sql": "SELECT 1", "max_rows": "many"})
        except InvalidArgumentError as error:
            for item in error.violations:
                console.print(f"  {error.reason}: {item.field} {item.description}", markup=False)
            check(error.violations[0].field == "arguments/max_rows", "another field was named")
        else:
            raise DemoError("bad arguments were not refused")

    async def _limits(self, client: AsyncBroker) -> None:
        step("One run is cut by its time limit, one by its memory limit; the outcome says which and by whose evidence")
        programs = {
            EndCause.TIME: "while True: pass",
            EndCause.MEMORY: "b = bytearray(512 << 20)\nfor i in range(0, len(b), 4096): b[i] = 1",
        }
        for cause, code in programs.items():
            call = await client.run("demo.quick", {"code": code})
            outcome = call.outcome
            check(outcome is not None, "the call has no outcome")
            if outcome is not None:
                console.print(
                    f"  {call.state}, {outcome.cause} by {outcome.cause_source}: {outcome.detail}", markup=False
                )
                check(outcome.cause is cause, f"the cause is {outcome.cause}, not {cause}")

    def record(self) -> None:
        """The ledger, shown, verified, and verified again after a change."""
        step("The ledger holds it all; it is read from the file alone, the broker is down")
        self.broker("ledger", "show", "--limit", "100")
        self.broker("ledger", "verify")
        step("One byte of a copy is changed, and the verifier finds the place")
        copy = self.folder / "doctored.db"
        with closing(sqlite3.connect(self.state / "broker.db")) as source, closing(sqlite3.connect(copy)) as target:
            source.backup(target)
        data = bytearray(copy.read_bytes())
        place = data.index(b'"cause":"MEMORY"')
        data[place + len('"cause":"')] ^= 0x20
        copy.write_bytes(data)
        self.broker("ledger", "verify", str(copy), expect=10)

    def evidence(self) -> None:
        """A bundle, checked by the verifier inside it, which has nothing of the broker's."""
        step("An auditor gets a bundle, and checks it with one file and a key that came by another way")
        bundle = self.folder / "evidence.zip"
        self.broker("ledger", "export", str(bundle))
        key = self.answer("ledger", "keys")["items"][0]["key"]
        with zipfile.ZipFile(bundle) as archive:
            verifier = Path(archive.extract("verify_bundle.py", self.folder))
        self._check_bundle(verifier, bundle, key, expect=0)
        step("One entry is left out of a copy")
        doctored = self.folder / "doctored.zip"
        with zipfile.ZipFile(bundle) as source, zipfile.ZipFile(doctored, "w") as target:
            for item in source.infolist():
                data = source.read(item)
                if item.filename == "entries.jsonl":
                    data = b"".join(data.splitlines(keepends=True)[:-1])
                target.writestr(item, data)
        self._check_bundle(verifier, doctored, key, expect=None)

    def check_incident(self, bundle: Path, doctored: Path) -> None:
        """The incident's bundle, and one in which fewer files were removed."""
        step("The same stand-alone verifier on the incident's bundle, and on one in which nothing was removed")
        key, verifier = self.answer("ledger", "keys")["items"][0]["key"], self.folder / "verify_bundle.py"
        self._check_bundle(verifier, bundle, key, expect=0)
        self._check_bundle(verifier, doctored, key, expect=None)

    def _check_bundle(self, verifier: Path, bundle: Path, key: str, *, expect: int | None) -> None:
        console.print(f"[dim]$ python {verifier.name} {bundle.name} --key {key}[/]", markup=True)
        # Away from this project, so that nothing of it can be imported.
        command = [sys.executable, "-I", str(verifier), str(bundle), "--key", key]
        result = subprocess.run(command, cwd=bundle.parent, capture_output=True, text=True, timeout=WAIT_S, check=False)
        console.print(result.stdout.rstrip(), markup=False)
        fine = result.returncode == expect if expect is not None else result.returncode not in {0, 1, 2}
        check(fine, f"the verifier ended with {result.returncode}: {result.stderr}")

    def clean(self) -> None:
        """Nothing of it is left on the engine."""
        step("Nothing is left behind")
        left = self.answer("sandbox", "gc", "--dry-run")["items"]
        check(not left, f"containers are left: {left}")
        console.print("no container, volume or network of this broker is on the engine")


def main() -> int:
    """Runs the demo; 0 when everything that it shows has happened."""
    with tempfile.TemporaryDirectory(prefix="broker-demo-") as folder, price_service() as prices:
        # The service is on this machine: only so may a tool reach it, and only where its specification lists it.
        demo = Demo(Path(folder) / "state", {"BROKER_EGRESS_NETWORKS": '["127.0.0.0/8"]'})
        people = TwoPeople(demo, prices)
        clean_up = CleanUp(demo, people, AIRPORTS)
        clean_rows = CleanRows(demo, people, clean_up, AIRPORTS)
        incident = Incident(demo)
        try:
            demo.prepare()
            people.prepare()
            clean_up.prepare()
            clean_rows.prepare(clean_up.folder)
            with demo.serving() as address:
                session = demo.session()
                asyncio.run(demo.agent(address, session))
                people.decide(address)
                clean_up.go()
                clean_rows.go()
            demo.record()
            people.record()
            demo.evidence()
            incident.go()
            demo.check_incident(incident.bundle, incident.doctored())
            demo.clean()
        except DemoError as error:
            console.print("\n[bold red]the demo failed:[/]", end=" ")
            console.print(str(error), markup=False)
            return 1
    console.print(f"\n[bold green]done[/] in {elapsed_s():.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
