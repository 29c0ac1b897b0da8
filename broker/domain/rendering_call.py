"""The parts of the approvers' text that say what a call does, how, and with what."""

from __future__ import annotations

from collections.abc import Callable

from broker.domain.canonical import canonical, digest
from broker.domain.envelope import FORMAT
from broker.domain.reading import Members
from broker.domain.sheet import Sheet

_SIZES = frozenset({"memory_bytes", "output_bytes", "disk_bytes"})
_LIMITS = (
    ("CPU cores", "cpu_cores"),
    ("Memory", "memory_bytes"),
    ("Processes", "processes"),
    ("Seconds", "wall_s"),
    ("Output, each stream", "output_bytes"),
    ("Disk", "disk_bytes"),
    ("Files on disk", "inodes"),
    ("Open files", "open_files"),
)


class CallSections:
    """The sections of one call.

    Args:
        call: the call's envelope.
        sheet: where they are written.
        person: writes who a person or agent is, under a label.
        runbook: whether the call isn't made yet, and so has no id and no lineage.
    """

    def __init__(self, call: Members, sheet: Sheet, person: Callable[[str, str], None], *, runbook: bool) -> None:
        self._call = call
        self._sheet = sheet
        self._person = person
        self._runbook = runbook

    def what(self) -> None:
        """Which tool, of which version, from which image."""
        call, sheet = self._call, self._sheet
        sheet.heading("WHAT")
        if call.text("format") != FORMAT:
            call.refuse("format", f"must be {FORMAT}")
        tool = call.members("tool")
        sheet.field("Tool", tool.text("name"))
        sheet.field("Version", tool.text("spec_digest"))
        sheet.field("Image", call.text("image_digest"))
        sheet.field("Workspace", call.text("workspace"))
        sheet.field("Tier", str(call.whole("tier")))
        if self._runbook and call.nothing("call_id"):
            sheet.words("Call", "made later")
        else:
            sheet.field("Call", call.text("call_id"))

    def who(self) -> None:
        """Who stands behind it."""
        call = self._call
        if self._runbook and call.nothing("lineage"):
            self._sheet.words("Lineage", "that of the call which uses it")
            return
        lineage = call.members("lineage")
        for label, member in (
            ("Agent", "agent"),
            ("Its owner", "owner"),
            ("Registered by", "registrar"),
            ("Started by", "starter"),
            ("On behalf of", "on_behalf_of"),
        ):
            self._person(label, lineage.text(member))
        for proof in lineage.texts("proofs"):
            self._sheet.field("Proved by", proof)

    def how(self, files: list[Members]) -> None:
        """Arguments, files, run and hosts."""
        self._arguments()
        self._files(files)
        self._workspace()
        self._run()
        self._hosts()

    def _arguments(self) -> None:
        call, sheet = self._call, self._sheet
        sheet.heading("ARGUMENTS")
        arguments = call.any("arguments")
        if not isinstance(arguments, dict):
            call.refuse("arguments", "must be an object")
        if call.text("arguments_digest") != digest(canonical(arguments)):
            call.refuse("arguments_digest", "is not that of the arguments")
        sheet.field("Workflow, by the agent", call.text("workflow"))
        sheet.field("Digest", call.text("arguments_digest"))
        sheet.tree("Arguments", arguments)

    def _files(self, files: list[Members]) -> None:
        call, sheet = self._call, self._sheet
        sheet.heading("FILES")
        bound = {mine.text("path"): _file(mine) for mine in call.objects("files")}
        if not len(bound) == len(call.items("files")) == len(files):
            call.refuse("files", "are not those that are shown")
        if not files:
            sheet.words("Files", "none")
        for shown in files:
            path, (file_digest, size, executable) = shown.text("path"), _file(shown)
            if bound.get(path) != (file_digest, size, executable):
                shown.refuse("path", "is not a file of the call, or not of this digest and size")
            sheet.field("File", path)
            sheet.field("Digest", file_digest)
            sheet.field("Bytes", str(size))
            sheet.words("May be executed", "yes" if executable else "no")
            self._content(shown, size, file_digest)

    def _content(self, shown: Members, size: int, file_digest: str) -> None:
        text = "" if shown.nothing("text") else shown.text("text")
        if shown.text("shown") == "text":
            data = text.encode("utf-8")
            if digest(data) != file_digest or len(data) != size:
                shown.refuse("text", "is not what the file's digest is of")
            self._sheet.block("Content", text)
        elif shown.text("shown") == "no":
            if text:
                shown.refuse("text", "must be empty where it isn't shown")
            self._sheet.words("Content", "NOT SHOWN: know it by its digest, or don't approve")
        else:
            shown.refuse("shown", "must be text or no")

    def _workspace(self) -> None:
        if not self._call.has("tree"):
            return
        sheet, tree = self._sheet, self._call.members("tree")
        sheet.heading("FILES OF THE WORKSPACE")
        sheet.field("Their state", tree.text("base"))
        sheet.field("What the tool is given", tree.text("selection"))
        for call in tree.texts("undoes"):
            sheet.field("Takes back the call", call)

    def _run(self) -> None:
        call, sheet = self._call, self._sheet
        sheet.heading("HOW IT RUNS")
        run = call.members("run")
        sheet.field("Kind", run.text("kind"))
        for argument in run.texts("argv"):
            sheet.field("Argument", argument)
        sheet.field("Code", run.text("code_digest"))
        environment = run.members("environment")
        for variable in environment.texts("names"):
            sheet.field("Environment", variable)
        sheet.field("Environment's digest", environment.text("digest"))
        outputs = run.members("outputs")
        for pattern in outputs.texts("patterns"):
            sheet.field("Result files", pattern)
        sheet.value("Most result files", outputs.any("max_files"))
        self._size("Their bytes", outputs.whole("max_bytes"))
        sheet.words("Result as JSON", "yes" if run.flag("wants_result") else "no")
        sheet.words("HTTP proxy", "yes" if run.flag("proxy") else "no")
        sheet.value("Forwarded ports", run.items("forwards"))
        self._tree(run)
        runtime = call.text("runtime")
        if runtime:
            sheet.field("Runtime", runtime)
        else:
            sheet.words("Runtime", "the engine's own choice")
        limits = call.members("limits")
        for label, member in _LIMITS:
            if member in _SIZES:
                self._size(label, limits.whole(member))
            else:
                sheet.value(label, limits.any(member))
        self._container()
        if call.has("job_frame_digest"):
            sheet.field("Job's frames", call.text("job_frame_digest"))
        decision = call.members("decision")
        sheet.field("Policy's effect", decision.text("effect"))
        sheet.field("Policy's rule", decision.text("rule"))
        sheet.field("Ready until (UTC)", call.text("expires"))
        sheet.field("Envelope's salt", call.text("salt"))

    def _tree(self, run: Members) -> None:
        if run.nothing("tree"):
            return
        sheet, tree = self._sheet, run.members("tree")
        for pattern in tree.texts("patterns"):
            sheet.field("May change the tree at", pattern)
        if not tree.items("patterns"):
            sheet.words("May change the tree at", "no path: it reads it only")
        sheet.field("Most changed paths", str(tree.whole("max_changes")))
        self._size("Bytes of changed files", tree.whole("max_bytes"))
        sheet.field("Files of the tree", str(tree.whole("files")))
        sheet.field("Links of the tree", str(tree.whole("links")))
        sheet.field("Digest of what goes in", tree.text("digest"))

    def _container(self) -> None:
        # All of it is shown; user and network first, as they matter most.
        if not self._call.has("container"):
            return
        container = self._call.any("container")
        if not isinstance(container, dict):
            self._call.refuse("container", "must be an object")
        for label, member in (("User", "user"), ("Network", "network_mode")):
            if member in container:
                self._sheet.value(label, container[member])
        self._sheet.tree("Container", container)

    def _size(self, label: str, size: int) -> None:
        self._sheet.field(label, f"{size} bytes")

    def _hosts(self) -> None:
        sheet = self._sheet
        sheet.heading("WHERE IT MAY REACH")
        rules = self._call.objects("egress")
        if not rules:
            sheet.words("Hosts", "none: it has no network")
        for rule in rules:
            sheet.field("Host", rule.text("host"))
            sheet.field("Port", str(rule.whole("port")))
            sheet.field("By", rule.text("kind"))
            if login := rule.has("database"):
                sheet.field("Database", rule.text("database"))
                sheet.field("As its user", rule.text("user"))
                sheet.words("Statements", "any that this user may send: the broker doesn't look at them")
            self._requests(rule, login=login)
            if rule.has("record_bytes"):
                sheet.words("Answers", "kept encrypted with the call, so that it can be run again without the host")
                self._size("Kept at most", rule.whole("record_bytes"))
            sheet.value("Port inside", rule.whole("listen"))
            if rule.nothing("secret"):
                sheet.words("Secret", "none")
            else:
                self._secret(rule.members("secret"), login=login)

    def _requests(self, rule: Members, *, login: bool) -> None:
        sheet = self._sheet
        methods, paths = rule.texts("methods"), rule.texts("paths")
        for method in methods:
            sheet.field("Method", method)
        if not methods and not login:
            sheet.words("Methods", "GET and HEAD, where the broker sees them")
        for path in paths:
            sheet.field("Path begins with", path)
        if not paths and not login:
            sheet.words("Paths", "every path")

    def _secret(self, secret: Members, *, login: bool) -> None:
        sheet = self._sheet
        sheet.field("SECRET that goes there", secret.text("name"))
        header, prefix = secret.text("header"), secret.text("prefix")
        if login and not header and not prefix:
            sheet.words("In the login", "the user's password: the broker logs in with it, outside the sandbox")
            return
        sheet.field("In the header", header)
        sheet.field("Behind", prefix)


def _file(members: Members) -> tuple[str, int, bool]:
    return members.text("digest"), members.whole("size"), members.flag("executable")
