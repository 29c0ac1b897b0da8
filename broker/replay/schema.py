"""The tables of a casebook. Words (ids, names of types, hosts, ...) are kept once, in ``word``, and named by number.

Times are microseconds since 1970 in UTC. ``0`` is the empty word, no call and no approval.
"""

from __future__ import annotations

VERSION = 6
"""Of the tables. A casebook of another version is made anew: it holds nothing that the ledger doesn't."""

TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE word (id INTEGER PRIMARY KEY, text TEXT NOT NULL UNIQUE);
CREATE TABLE entry (
    seq INTEGER PRIMARY KEY, type INTEGER NOT NULL, ts INTEGER NOT NULL, leaf BLOB NOT NULL, agent INTEGER NOT NULL,
    call INTEGER NOT NULL, approval INTEGER NOT NULL
);
CREATE TABLE body (seq INTEGER PRIMARY KEY, data BLOB NOT NULL);
CREATE TABLE boot (id INTEGER PRIMARY KEY, first INTEGER NOT NULL, ts INTEGER NOT NULL);
CREATE TABLE path (
    id INTEGER PRIMARY KEY, workspace INTEGER NOT NULL, workflow INTEGER NOT NULL, version INTEGER NOT NULL,
    model INTEGER NOT NULL, prompt INTEGER NOT NULL, feature INTEGER NOT NULL, team INTEGER NOT NULL,
    agent INTEGER NOT NULL, owner INTEGER NOT NULL, starter INTEGER NOT NULL, on_behalf INTEGER NOT NULL,
    tool INTEGER NOT NULL, tool_version INTEGER NOT NULL, image INTEGER NOT NULL, tier INTEGER NOT NULL,
    classes INTEGER NOT NULL
);
CREATE TABLE touches (path INTEGER NOT NULL, class INTEGER NOT NULL, PRIMARY KEY (class, path)) WITHOUT ROWID;
CREATE TABLE call (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, path INTEGER NOT NULL, session INTEGER NOT NULL, ts INTEGER NOT NULL,
    first INTEGER NOT NULL, decision INTEGER, plan INTEGER, intent INTEGER, outcome INTEGER, ended INTEGER,
    state INTEGER NOT NULL, cause INTEGER NOT NULL, exit_code INTEGER, approval INTEGER NOT NULL,
    reversibility INTEGER NOT NULL, effect INTEGER NOT NULL, added INTEGER NOT NULL, changed INTEGER NOT NULL,
    removed INTEGER NOT NULL
);
CREATE TABLE undo (call INTEGER NOT NULL, target INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (target, call))
    WITHOUT ROWID;
CREATE TABLE question (
    id INTEGER PRIMARY KEY, subject INTEGER NOT NULL, workspace INTEGER NOT NULL, object INTEGER NOT NULL,
    action INTEGER NOT NULL, tier INTEGER NOT NULL, roles INTEGER NOT NULL
);
CREATE TABLE decision (
    seq INTEGER PRIMARY KEY, ts INTEGER NOT NULL, question INTEGER NOT NULL, allowed INTEGER NOT NULL,
    rule INTEGER NOT NULL, policy INTEGER NOT NULL, reason INTEGER NOT NULL, agent INTEGER NOT NULL,
    tool INTEGER NOT NULL, call INTEGER NOT NULL, times INTEGER NOT NULL
);
CREATE TABLE egress (
    seq INTEGER NOT NULL, ts INTEGER NOT NULL, call INTEGER NOT NULL, host INTEGER NOT NULL, port INTEGER NOT NULL,
    kind INTEGER NOT NULL, verdict INTEGER NOT NULL, times INTEGER NOT NULL, sent INTEGER NOT NULL,
    received INTEGER NOT NULL
);
CREATE TABLE approval (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, kind INTEGER NOT NULL, subject INTEGER NOT NULL,
    workspace INTEGER NOT NULL, object INTEGER NOT NULL, requester INTEGER NOT NULL, tier INTEGER NOT NULL,
    call INTEGER NOT NULL, requested INTEGER, ts INTEGER NOT NULL, closed INTEGER, closed_ts INTEGER,
    state INTEGER NOT NULL, requirement TEXT NOT NULL, excluded TEXT NOT NULL
);
CREATE TABLE vote (
    seq INTEGER PRIMARY KEY, ts INTEGER NOT NULL, approval INTEGER NOT NULL, person INTEGER NOT NULL,
    decision INTEGER NOT NULL, channel INTEGER NOT NULL, key INTEGER NOT NULL
);
CREATE TABLE used (approval INTEGER NOT NULL, seq INTEGER NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (approval, seq))
    WITHOUT ROWID;
CREATE TABLE counted (
    seq INTEGER NOT NULL, vote INTEGER NOT NULL, approval INTEGER NOT NULL, call INTEGER NOT NULL, PRIMARY KEY (seq, vote)
) WITHOUT ROWID;
CREATE TABLE act (
    seq INTEGER PRIMARY KEY, ts INTEGER NOT NULL, type INTEGER NOT NULL, by INTEGER NOT NULL, subject INTEGER NOT NULL,
    object INTEGER NOT NULL, workspace INTEGER NOT NULL
);
CREATE TABLE gone (item INTEGER NOT NULL, seq INTEGER NOT NULL, PRIMARY KEY (item, seq)) WITHOUT ROWID;
"""
"""``used`` and ``counted``: entry ``seq`` says that it was agreed to by this approval, and by which votes (their entries).
``decision.call`` is 0 for a refused request, of which no call came; ``times`` counts its repetitions too.
``gone`` says which entry erased what was kept under a name, such as a call's."""

INDEXES = """
CREATE INDEX entry_type ON entry (type, ts);
CREATE INDEX entry_call ON entry (call) WHERE call != 0;
CREATE INDEX entry_approval ON entry (approval) WHERE approval != 0;
CREATE INDEX entry_agent ON entry (agent) WHERE agent != 0;
CREATE INDEX entry_ts ON entry (ts);
CREATE INDEX call_path ON call (path, ts, decision, intent, plan, approval);
CREATE INDEX call_effect ON call (ts) WHERE effect = 1;
CREATE INDEX call_back ON call (reversibility, ts) WHERE reversibility != 0;
CREATE INDEX path_agent ON path (agent);
CREATE INDEX call_session ON call (session) WHERE session != 0;
CREATE INDEX call_ts ON call (ts);
CREATE INDEX decision_question ON decision (question, allowed, rule, policy, ts, times, seq);
CREATE INDEX decision_policy ON decision (policy, rule, allowed, tool, agent, ts, seq, times);
CREATE INDEX decision_refused ON decision (agent, tool, reason, rule, ts, seq, times) WHERE allowed = 0;
CREATE INDEX egress_host ON egress (host, ts);
CREATE INDEX egress_call ON egress (call);
CREATE INDEX approval_call ON approval (call) WHERE call != 0;
CREATE INDEX vote_approval ON vote (approval);
CREATE INDEX vote_person ON vote (person, ts);
CREATE INDEX used_seq ON used (seq);
CREATE INDEX act_subject ON act (subject);
CREATE INDEX act_type ON act (type, ts);
CREATE INDEX act_by ON act (by);
"""
"""Made once the first entries are filed: that takes half the time."""
