"""What this project promises, each with an id that tests claim.

`@requirement("id")` stands over a test that would fail if the promise were broken. `tests/unit/test_requirements.py` checks
both directions: what is listed is claimed somewhere below tests/, and what is claimed is listed here. To add one, write a line
below and use its id; nothing else is needed.

Ids: `I1` … `I8` are the invariants of design §2; everything else reads `area:what`.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, TypeVar

import pytest

Test = TypeVar("Test", bound=Callable[..., Any])


class Requirement(NamedTuple):
    sentence: str
    source: str


def requirement(*ids: str) -> Callable[[Test], Test]:
    """Say which behaviours a test proves. Ids are text in place: the check reads the source, it does not run it."""

    def mark(test: Test) -> Test:
        marked: Test = pytest.mark.requirement(*ids)(test)
        return marked

    return mark


_INVARIANTS = {
    "I1": "No apply without a live approval of that document, or a policy decision recorded as one, checked at the claim.",
    "I2": "One live writer per state, by fencing epoch.",
    "I3": "A plan is claimed at most once, ever, by any workflow, retry, reset or caller.",
    "I4": "Interrupted never becomes errored or applied without evidence.",
    "I5": "A lock is broken only if id, owner and time are those our own attempt recorded, and that attempt is fenced and dead.",
    "I6": "Plan bytes, plan JSON and secrets never enter history.",
    "I7": "The requester does not approve where policy says so; agents never count as people.",
    "I8": "Approvals expire, after 24 hours at most.",
}

_PROMISES = {
    "promise:approved-is-what-runs": "Apply claims exactly the plan that people approved, through the queue, a crash and a re-plan.",
    "promise:crash-costs-nothing": "After any kill a run learns what happened and goes on, or asks a person.",
    "promise:one-writer": "At most one writer per state, by fencing and not by timeouts.",
    "promise:asking-twice": "The same request with the same key is one run, and the receipt says so.",
    "promise:destroying-asks": "Destroying takes the plan digest, the typed name and a person, whatever a model filled in.",
    "promise:no-secrets": "Secrets stay out of workflow history, logs, tool results and error texts.",
    "promise:one-command": "One command starts everything on a laptop.",
}

_QUEUE = {
    "queue:scale": "Two hundred runs wait on one state, and a thousand stacks have open runs: every turn comes, every run is looked after.",
    "queue:fair": "Who asked for many runs at once does not keep another requester waiting for all of them.",
}

_COMPOSITE = {
    "composite:one-approval": "Several runs are one plan with one approval, which names the plan of each, and are applied in order.",
    "composite:ordered": "A step of a composite begins only when every step before it is done.",
    "composite:asks-again": "A step that could not be planned before, or means something else by then, is asked for again; else it is not.",
    "composite:honest-end": "A composite ends as its steps did: applied only if all are, and never as if nothing had changed if one is.",
    "composite:policy": "Policy weighs each step in its own environment; the whole waits for what the most demanding one asks.",
    "composite:claim": "Nobody decides about a step by itself, and it is claimed only in its turn, under what was said to the whole.",
    "composite:survives": "A composite survives kill -9 of whoever leads it, and an emptied Temporal, without a step done twice.",
    "composite:cancel": "A cancel reaches the step that runs, no other begins, and what was done is told.",
    "composite:resume": "Resuming a partially applied composite is a new, linked run of what is left, and repeats nothing.",
    "composite:asked-for": "A composite needs the right to each step's own tool; what is wrong with one refuses all.",
}

_BAD_INPUT = {
    "bad:unknown-stack": "An unknown stack is refused by name, with what there is.",
    "bad:external-data-source": "An external data source is refused before anything of the configuration runs.",
    "bad:foreign-provider": "A provider outside the operator's list is refused before init.",
    "bad:malformed-signal": "A signal with an empty, an extra or an undecodable payload changes nothing and is shown as refused.",
    "bad:malformed-update": "An update with an empty, an extra or an undecodable payload changes nothing and is answered with why.",
    "bad:approval-of-another-run": "An approval sent to another run is refused there.",
    "bad:reset-after-approval": "A workflow reset after the approval applies nothing a second time.",
    "bad:reset-mid-apply": "A workflow reset in mid-apply finds the attempt that runs and starts no other.",
    "bad:apply-by-hand": "The apply step called by hand, without a live approval, starts nothing.",
    "bad:broken-hcl": "A broken configuration is answered with file and line.",
    "bad:missing-variable": "A missing or undeclared variable is named in the answer.",
    "bad:failing-plan": "A failing plan ends the run as errored with the engine's own words.",
    "bad:wrong-digest": "An approval of another digest does not count and says which one is current.",
    "bad:finished-run": "A decision about a finished run is refused.",
    "bad:expired-run": "A decision after the deadline is refused as expired.",
    "bad:requester-approves": "The requester cannot approve where policy asks for another person.",
    "bad:wrong-typed-name": "A missing or wrong typed name is refused, and the plan keeps waiting.",
    "bad:racing-approvals": "Of approvals that race, the plan is applied once.",
    "bad:second-apply-queued": "A second apply on a state waits its turn and tells its position.",
    "bad:key-reused": "A key used with other arguments is refused, naming the fields.",
    "bad:plan-made-stale": "A plan made stale by another run is planned again, and an unequal one asks again.",
    "bad:temporal-down": "With Temporal down the answer is unavailable, and nothing is lost.",
    "bad:provider-not-there": "A provider that the mirror lacks, or that the lock file does not pin, is named with what to do.",
    "bad:disk-full": "A full disk ends in an honest state, never in a plan or an apply that counts as done.",
    "bad:huge-plan": "A plan of 20 MB is summarised within its bounds.",
    "bad:control-characters": "Control, bidi and invisible characters in names reach nobody who reads.",
    "bad:newer-data-folder": "A data folder of a newer version is refused and left as it is.",
    "bad:database-restarted": "A database restarted in mid-plan, at the claim or in mid-apply loses and doubles nothing.",
    "bad:bucket-away": "A bucket that is away at the plan, at the claim or at the record delays the run and changes nothing.",
    "bad:ports-taken": "Taken ports are named, with the setting that changes them.",
    "bad:repository-address": "An address of another kind, an option or a password in its place is refused before anybody connects.",
    "bad:git-ref": "A ref that is an option, a commit or anything but a branch or a tag is refused.",
    "bad:repository-path": "A path that leads out of its repository is refused.",
    "bad:gone-repository": "A repository, ref or folder that is not there is named, at once.",
    "bad:foreign-commit": "A commit of another branch or of a fork is refused, whatever the mirror holds.",
    "bad:moved-back-ref": "A ref that moved back is told to who approves, and a commit it lost is refused.",
    "bad:link-leads-out": "A link to what is no file of its commit is refused.",
    "bad:submodule": "Submodules and contents in LFS are left out and told; filters and attributes change nothing.",
    "bad:huge-repository": "A source of too many files, or a fetch of too many bytes, is refused.",
    "bad:unsound-object": "An object that would trick a checkout is not taken into the mirror.",
    "bad:wrong-git-key": "A key that does not open a repository, or is none, is told at once and not repeated.",
    "bad:module-without-key": "A module that asks for a password nobody gave fails at once, with who can give it.",
    "bad:module-of-a-module": "A module of a module is not fetched from where the operator does not allow.",
    "bad:slow-repository": "A repository that is too slow, or stops in mid-sentence, is given up and told.",
    "bad:killed-fetch": "A fetch that was killed, or a mirror that was damaged, costs another fetch and nothing else.",
}

_BEHAVIOUR = {
    "ui:approve-by-signal": ("People approve with a signal from the Temporal UI where that is trusted.", "design §2"),
    "ui:list": (
        "The list of runs that wait for approval shows stack, environment, change class and requester without opening one.",
        "issue, operator",
    ),
    "ui:page": (
        "The run's page in the Temporal UI shows what is destroyed first, the digest and what to send where.",
        "issue, operator",
    ),
    "ui:approve-by-update": ("The data the run's page shows, pasted into an Update, approves or rejects that plan.", "issue, operator"),
    "ui:terminate": ("A workflow terminated in the Temporal UI leaves a truthful record and stops no apply that runs.", "issue, operator"),
    "ui:off": ("Where ui_approvals is off, decisions from the UI are refused with the way that works.", "design §2"),
    "ui:protected": ("An unnamed person from the UI never approves a protected environment, nor as another person.", "design §2"),
    "run:replays": ("Every recorded history replays on the workflow of today.", "design §4"),
    "run:transitions": (
        "A run only ever moves as the one table allows; every state can reach an end, and ends have no exits.",
        "design §2",
    ),
    "approval:bound-to-document": ("Any change of what was approved changes the digest people agreed to.", "design §2"),
    "approval:order-and-repetition": ("Order and repetition of approvals never change the verdict.", "design §2"),
    "policy:floors": (
        "Whatever the rules: what destroys asks a person who types the name, protected asks another, unmatched is denied.",
        "design §2",
    ),
    "ids:no-collisions": ("No two lists of parts make the same id.", "design §6"),
    "digest:canonical": ("Equal documents give equal bytes, whatever the order of their keys; floats are refused.", "design §2"),
    "details:foreign-text": (
        "Foreign text in the run's page cannot leave its code span, begin markup or outgrow the page.",
        "temporal-python §4",
    ),
    "details:what-to-send": ("The page of a waiting run says who must agree and what to send where.", "design §2"),
    "redaction:every-spelling": ("A known secret does not survive in JSON, in a URL, in base64 or line by line.", "terraform §2.3"),
    "redaction:shapes": ("What has the shape of a credential is hidden without being known.", "terraform §2.3"),
    "plan:semantic-digest": ("Plans that mean the same have one digest; any change of meaning changes it.", "terraform §2.2"),
    "plan:classes": ("Every action has the class of the table; what has no name is unknown and denied.", "terraform §2.2"),
    "plan:view-hides": ("No sensitive value is in the view or the semantic document, only keyed fingerprints.", "terraform §2.3"),
    "plan:counts-and-risks": ("Counts and risk notes tell what a reviewer must know first, without values.", "design §2"),
    "source:judged": ("Providers, modules, data sources and backends are judged by the operator's list before init.", "design §4"),
    "ask:the-person-types": (
        "Where a client can ask, the person before it types the name, whatever a model filled in.",
        "issue 5",
    ),
    "ask:declining-decides-nothing": ("A question that is declined or closed decides nothing and rejects nothing.", "issue 5"),
    "ask:link-and-refusal": ("Where nobody can be asked, a missing name is refused with the link to the run's page.", "issue 5"),
    "ask:own-authority": ("An answer has the authority of its connection, for exactly what was asked.", "design §2"),
    "ask:any-front": ("Any front takes the answer to a question that another front asked.", "issue 5"),
    "reconcile:by-itself": ("A killed apply is finished under its approval, and nothing it made is made twice.", "issue 6"),
    "reconcile:operator-tells": ("What an operator found counts for the attempt it is about; of two answers the later.", "terraform §5"),
    "reconcile:unstored-state": ("A state that a lost apply could not store is stored before anything is planned.", "terraform §5"),
    "reconcile:look-up": ("What was in flight is looked up where the operator said how; a hit counts only if it is ours.", "terraform §5"),
    "reconcile:unknown-object": ("What nobody can look up is an operator's, with the commands that tell the run.", "issue 6"),
    "reconcile:destroying": ("A destruction that was lost is finished, and destroys nothing twice.", "issue 6"),
    "reconcile:replacing": ("A replacement that was lost between its halves ends with one object.", "issue 6"),
    "reconcile:again": ("Testimonies of several lost applies count together; after the third a person lets it go on.", "terraform §5"),
    "reconcile:difference": ("What differs from what was approved is asked, and only that is shown.", "issue 6"),
    "reconcile:expired": ("An approval that expired meanwhile is asked for again.", "design §2"),
    "reconcile:canceled": ("A canceled apply that is lost records what it made, and makes no more.", "issue 6"),
    "reconcile:zombie": ("An apply that hangs is ended before anything is planned past it.", "issue 6"),
    "reconcile:foreign-lock": ("A lock that is not the lost attempt's own stops the run and stays.", "terraform §5"),
    "read:same-rights": ("What one may not see is no resource, completion or subscription either.", "issue 5"),
    "prompts:exist": ("Prompts name only tools, states and codes that exist for the role.", "issue 5"),
    "tasks:are-runs": ("A client that declares tasks gets a run as a task of the same id, to its end.", "issue 5"),
    "tasks:owner": ("A task is looked at and cancelled with the rights to its run, and is unknown to everybody else.", "issue 5"),
    "subscriptions:told": ("Who subscribed to a run they may read is told when it moves, in both protocol eras.", "issue 5"),
    "cancel:the-wait-only": ("Cancelling a request cancels the wait, never the run.", "issue 5"),
    "reconcile:testimony": ("Of a lost apply's journal is kept what it did, and nothing that was printed.", "terraform §5"),
    "reconcile:same-inputs": ("What is left is planned from what was approved, whatever source, variables and secrets are now.", "issue 6"),
    "journal:shipped": (
        "What an apply does is in the store within a second, sealed, with its machine, process, lock and epoch.",
        "issue 6",
    ),
    "journal:machine-gone": (
        "Where the machine of a lost apply never comes back, an operator is told what it did, and another worker goes on from that.",
        "issue 6",
    ),
    "journal:late": ("What a superseded apply still tells is kept apart as testimony, and counts for nothing by itself.", "issue 6"),
    "guard:alarm": ("What an apply does outside of what was approved raises an alarm at once, on every front.", "issue 6"),
    "guard:interrupt": ("Where policy says so, an apply that does what nobody approved is interrupted, once.", "issue 6"),
    "cancel:at-any-moment": ("A cancel reaches the engine within three seconds, whoever follows it; what was done is told.", "issue 6"),
    "cancel:force": ("An apply is ended by force only after it had its time to stop, and is reconciled then.", "issue 6"),
    "reconcile:decided-at-once": ("A decision that comes before the workflow hears of a reconciled plan waits for it.", "issue 6"),
    "claim:temporal-restored": ("A Temporal restored from an older copy, or emptied, applies nothing twice.", "issue 6"),
    "reconcile:reboot": ("After a reboot no journal is whole, so whatever it does not tell is looked up.", "issue 6"),
    "reconcile:state-moved": ("A plan of what is left that got stale is made again by reconciling, never by planning.", "issue 6"),
    "reconcile:survivors": ("Beside what cannot be ended nothing is planned, and its lock stays.", "terraform §5"),
    "page:sign-in": ("One signs in to the page with a person's key, of which no cookie holds anything.", "issue 5"),
    "page:open": ("`countersign open` signs its person in once, within a minute and after a click.", "issue 5"),
    "page:people-only": ("Keys of agents and machines do not sign in to decide, and are told so.", "issue 5"),
    "page:sessions": ("A session ends by idleness, for good after a day's work, with its key, and where one signs out.", "issue 5"),
    "page:csrf": ("What another site or another session sends with somebody's cookie does nothing.", "issue 5"),
    "page:no-open-redirect": ("Signing in leads to a page of ours, whatever a link says.", "issue 5"),
    "page:list": ("The list shows what waits for the reader first.", "issue 5"),
    "page:reads": ("A run's page tells who asked and why, what is destroyed first, and who has to agree.", "issue 5"),
    "page:foreign-text": ("Plans, messages and comments stay text on the page, and no character of them lies.", "issue 5"),
    "page:decides": ("A form approves exactly the plan it stood under, in the name of who is signed in.", "issue 5"),
    "page:live": ("The page tells how an apply goes on while it goes on.", "issue 5"),
    "page:keyboard": ("A run is read and decided with the keyboard alone, and the browser has nothing to complain about.", "issue 5"),
    "clients:main-job": ("Other people's clients do the main job unaided, over HTTP and stdio, in both protocol eras.", "issue 5"),
    "clients:config": ("`countersign mcp-config` writes entries that the common clients read, and no secret into them.", "issue 5"),
    "adopt:asks-for-itself": ("A run that adopts a plan asks for its own approval, and applies exactly that plan.", "catalogue, terraform"),
    "adopt:or-stale": ("A plan is adopted only while state, inputs and credentials are those it was made with.", "catalogue, terraform"),
    "adopt:whole-plans": ("A plan with targets, or of a destruction, is never adopted.", "catalogue, terraform"),
    "agents:choose-right": ("What a tool says of itself leads people's own words to it, and no question to a change.", "issue 5"),
    "door:patience": ("Who sends or reads slowly, or not at all, is left after a while, and delays nobody meanwhile.", "issue 5"),
    "door:bounds": ("Requests are bounded in size, depth and number, of each principal and of all.", "issue 5"),
    "door:disconnects": ("A client may go in any phase of a request; the front forgets it and goes on.", "issue 5"),
    "door:one-answer": ("Each request is heard whole and answered once, in its turn, and no part of one is taken for another.", "issue 5"),
    "door:many": ("Two hundred sessions at once are served.", "issue 5"),
    "door:fuzz": ("No request, however it was made up, breaks the front, shows a traceback, or learns what it must not.", "issue 5"),
    "webhook:what-is-told": ("Outside it is told who waits for whom, and where to look, and nothing that a plan says.", "issue 5"),
    "webhook:signed": ("A receiver that read the Standard Webhooks specification can verify every delivery.", "issue 5"),
    "webhook:at-least-once": ("What was to be told is delivered at least once, always under the same id.", "issue 5"),
    "webhook:dead-letters": ("What could not be delivered is a dead letter that is shown and can be sent again.", "issue 5"),
    "webhook:delays-nothing": ("A dead or slow receiver delays no run, no worker and no other receiver.", "issue 5"),
    "drift:found": (
        "Drift is found by address, with who applied it last, and nothing is changed by looking.",
        "catalogue, terraform",
    ),
    "drift:event": ("Drift that the check before had not found is an event, once.", "issue 4"),
    "drift:scheduled": ("A stack with drift_every is looked at by a schedule that follows its record, unless a run is at work.", "issue 4"),
    "run:policy-alone": (
        "What policy alone agrees to is planned and applied by one step; losing, canceling, refusing or failing it ends as for any other.",
        "issue 4",
    ),
    "worker:succeeds": ("A worker that takes the place of a dead one hands back at once what that had in its hands.", "issue 6"),
    "chaos:matrix": (
        "kill -9 of any part at any boundary of a run costs no resource, no duplicate, no approval and no secret, and ends as foretold.",
        "issue 6",
    ),
    "chaos:notices": ("Without claim, fencing, journal, proof or open attempts a point of the kill matrix fails.", "issue 6"),
    "chaos:releases": (
        "kill -9 of helm, its worker or its cluster at any boundary leaves one deployed revision, nothing of another, and no lock.",
        "issue 7",
    ),
    "plan:made-again": ("A plan whose engine or provider is killed is made again, and not for ever.", "issue 6"),
    "import:a-run": ("An import is planned, countersigned and applied as any other change, with what else is due.", "catalogue, terraform"),
    "import:already": ("What is managed already, or cannot be imported, is refused in words.", "catalogue, terraform"),
    "postgres:schema": ("On Postgres one process migrates at a time, and who may not is told how it is done.", "issue 4"),
    "postgres:password": ("No error, setting shown or argument list holds the password of the database.", "issue 4"),
    "postgres:serial": ("On Postgres what a transaction read is true when it writes, and a reader of events misses none.", "issue 4"),
    "postgres:bounded": (
        "Nobody waits for a lock of the database without end, also where its holder stopped in mid-transaction.",
        "issue 4",
    ),
    "waiting:of-one-run": ("Who waits for a run is told of its news at once, of no other's, and also where nobody can tell.", "issue 4"),
    "postgres:told": ("Who waits for a run is told by the database, and looks again after it was away.", "issue 4"),
    "postgres:restart": ("A database that dies and comes back loses and doubles nothing: steps and callers ask again.", "issue 4"),
    "postgres:two-of-each": ("Several fronts, workers and state services work on one database as one would.", "issue 4"),
    "artifacts:bucket": ("Artifacts lie in a bucket as in a folder: sealed, whole or not at all, and no credential is told.", "issue 4"),
    "reads:outputs": ("A stack gets the outputs of those it reads, sensitive ones in a sensitive variable only.", "catalogue, terraform"),
    "reads:protected": ("Outputs of a protected environment are read by stacks of protected environments only.", "design §1, promise 6"),
    "reads:stale": ("A plan made with outputs of a stack that moved since is planned again before anything is applied.", "issue 4"),
    "providers:mirror": ("Provider packages come from the operator's mirror, and the plan tells which.", "issue 4"),
    "vars:files": ("Values of the environment's file, the record and the request count in this order.", "issue 4"),
    "secrets:killed-worker": ("What a killed worker left in clear is removed by the next one, as soon as nobody uses it.", "core"),
    "secrets:output-off-disk": ("What a command that only reads says, such as a plan as JSON, is in no file that has a name.", "core"),
    "vars:secrets": ("A sealed secret is named anywhere in a value, and its own value shows nowhere.", "issue 4"),
    "apply:verdict": ("Exit code and journal together say how an apply ended; what they do not prove is interrupted.", "terraform §1.2"),
    "recovery:commands": ("Every command of docs/recovery.md does what the document says, after the loss it is about.", "issue 6"),
    "ops:clock": ("A worker whose clock is off does nothing and says so; a jump in mid-apply changes nothing.", "issue 6"),
    "ops:pause": ("An activity that is paused and let go in Temporal applies nothing twice and loses nothing.", "issue 6"),
    "ops:rolling-restart": ("Workers that are stopped one after the other, in a plan or an apply, lose nothing.", "issue 6"),
    "ops:reboot": ("A machine that rebooted in mid-apply accounts for the apply, and believes no journal of the boot before.", "issue 6"),
    "backup:whole": ("A backup of a running service holds all that its store names, and is refused where it is damaged.", "issue 6"),
    "restore:fenced": ("What was granted before a restore opens nothing after it.", "issue 6"),
    "state:by-hand": ("A state is replaced by hand only by an administrator, attributed, and never beside an apply that lives.", "issue 6"),
    "state:adopted": (
        "A state kept elsewhere is taken over as it is, with both serials recorded, and only where nothing here is lost.",
        "issue 4",
    ),
    "state:size": ("A state of 64 MiB is stored and read, in memory that is bounded and given back.", "issue 4"),
    "state:released": ("A state is given back as it is, and nothing is planned or applied until it is taken over again.", "issue 4"),
    "engine:version": ("A stack that asks for a version of its engine is planned by one that fits, or not at all.", "issue 4"),
    "retention:lets-go": ("What runs leave that only looked goes by its time, and is told to have lapsed.", "catalogue, core"),
    "retention:evidence-stays": ("What proves a change, or a refusal of one, is never let go, nor is any state.", "design §1"),
    "state:kept": ("A state may stay in the backend its configuration declares: planned, applied and destroyed there.", "issue 4"),
    "state:kept-told": ("Who agrees to a plan on such a state is told what is weaker there, and no secret of it.", "terraform §4.3"),
    "state:kept-claim": ("Such a state is looked at again by the claim, and a plan of another one is stale.", "terraform §4.3"),
    "state:kept-lock": ("A lock in such a backend is freed only where it proves to be that of our own dead apply.", "design §2, I5"),
    "state:kept-lost": ("A lost apply on such a state is accounted for as far as its lock allows, else by an operator.", "terraform §5"),
    "state:restored": (
        "An earlier state becomes the newest one by a run: its difference approved, claimed, under a new serial.",
        "issue 4",
    ),
    "restore:found": ("After a restore, an apply that the backup did not know is found, and nothing is silently made twice.", "issue 6"),
    "state:read-safely": ("A state is told without its secrets, and what may be stored is checked.", "terraform §4.2"),
    "state:fencing": ("Only the live attempt of the current epoch locks and writes a state.", "terraform §4.2"),
    "charts:example-released": ("The example app is released and upgraded through the gate, and its password is shown nowhere.", "issue 7"),
    "charts:countersign": (
        "Our chart is rolled out where pods have to be restricted: no root, no token, files written where something is mounted.",
        "issue 7",
    ),
    "keys:apart": ("Keys made once serve parts that run apart, each with those of its role.", "issue 7"),
    "worker:drains": ("A worker that is told to end can stay with its applies; the next one tells how they ended.", "issue 7"),
    "charts:processes": (
        "What the chart starts runs: each container's command, environment and probes, as processes, with a call through the front.",
        "issue 7",
    ),
    "charts:example": ("The example app installs, migrates, upgrades and tests itself where pods have to be restricted.", "issue 7"),
    "kubernetes:dev-cluster": (
        "A control plane for releases comes up by one command, is made anew when a part of it died, and leaves nothing behind.",
        "issue 7",
    ),
    "helm:plan-of-a-release": ("What a release would lose, force and run is told before what it would change.", "issue 7"),
    "helm:secrets": ("Secrets of a release are keyed fingerprints wherever they turn up, in values and manifests alike.", "issue 7"),
    "helm:drift": ("What was changed outside of a release is told object by object, and changed back by nothing but a deploy.", "issue 7"),
    "helm:chart-sources": ("Charts come from sources the operator lists, by name; nothing else is fetched or followed.", "issue 7"),
    "helm:failures": ("Helm's words have one meaning each, and an answer says what to do next.", "kubernetes §3.2"),
    "helm:through-the-gate": ("A release is deployed, rolled back and uninstalled exactly as a person agreed to it.", "issue 7"),
    "helm:canceled": ("A canceled release is undone by helm itself, and says what it is at afterwards.", "issue 7"),
    "helm:refused-in-the-plan": (
        "What the cluster would not take is told by the plan, object by object, before anybody agrees.",
        "issue 7",
    ),
    "helm:recovered-by-evidence": (
        "A lost operation is accounted for by history, number and label together, never by age.",
        "kubernetes §5",
    ),
    "helm:stale-by-generation": (
        "A plan is stale where an object of it became another one, and not where a pod restarted.",
        "kubernetes §4",
    ),
    "git:allow-list": ("Nothing is fetched that the operator does not list.", "issue 4"),
    "git:planned-commit": ("A stack of a repository is planned at a commit of its ref, and plan and frozen inputs name both.", "issue 4"),
    "git:pinned-commit": ("A commit that is named is planned where it is part of the ref, and that it is old is told.", "issue 4"),
    "git:apply-without-git": ("What was planned from a repository is applied without it.", "issue 4"),
    "git:credentials": ("A secret opens only the addresses it is for, and shows in no argument, environment, file or text.", "issue 4"),
    "git:private-modules": ("Private modules are fetched by secret, and frozen into what is approved and applied.", "issue 4"),
    "git:ssh": ("Over ssh a host is talked to only where the operator pinned its key.", "issue 4"),
    "git:shared-mirror": ("Plans of one repository share one mirror, and fetch a commit once.", "issue 4"),
    "git:monorepo": ("Of a large repository only what the stack uses is fetched.", "issue 4"),
}

REQUIREMENTS: Mapping[str, Requirement] = {
    **{name: Requirement(sentence, "design §2, invariants") for name, sentence in _INVARIANTS.items()},
    **{name: Requirement(sentence, "design §1") for name, sentence in _PROMISES.items()},
    **{name: Requirement(sentence, "issue, bad input") for name, sentence in _BAD_INPUT.items()},
    **{name: Requirement(sentence, "issue, queue at scale") for name, sentence in _QUEUE.items()},
    **{name: Requirement(sentence, "issue 7, composition") for name, sentence in _COMPOSITE.items()},
    **{name: Requirement(*said) for name, said in _BEHAVIOUR.items()},
}
