@0xd0c4b7a1e5936f28;
# What a client may hold, and calls. The key that a client's TLS connection proved decides which door it is given; no
# field of a message says who somebody is. Every call is answered within 20 s; what may take longer is asked again.
# Dropping a capability changes nothing unless it says so. Lists are paged: a call says after what, and how many at most
# (0: 100, at most 1000); a page of large items is shorter.

using Types = import "types.capnp";
using Worker = import "worker.capnp";

interface ClientDoor @0xb1c3dc2c3f1a7e04 {
  # The bootstrap object of a client's connection. It gives nothing but what `hello` returns.

  hello @0 (hello :Types.Hello) -> (welcome :Types.Welcome, pool :Pool, admin :Admin, refused :Types.Refusal);
  # The first call of a connection. `refused` is null unless the versions do not fit together; then the others are null.
  # `admin` is null unless the peer came in by the local socket; it is the same object as `pool`, with more methods.
}

interface Pool @0xa7d0e25ac9d14b11 {
  # Jobs of the owner that the connection stands for. Dropping it changes nothing: jobs do not end with their client.

  submit @0 (request :Data, spec :Types.JobSpec) -> (job :UInt64, handle :Job, refused :Types.Refusal);
  # Accepts a job. It is durable when this returns. `request` is 16 random bytes that the client chose: the same bytes
  # with the same spec again are the same job, with another spec they are refused. So a client whose connection broke
  # calls again.

  job @1 (id :UInt64) -> (handle :Job, refused :Types.Refusal);
  # A capability to one job. An id that does not exist and one that the caller may not see give the same refusal.

  jobs @2 (filter :JobFilter, before :UInt64, limit :UInt32) -> (jobs :List(JobInfo), older :UInt64, newest :UInt64);
  # Jobs, newest first, below id `before` (0: from the newest). `older` is how many more match. `newest` is the highest
  # id that was given out, 0 if there is none.

  wait @3 (ids :List(UInt64)) -> (ended :List(JobInfo), unknown :List(UInt64));
  # Answers when at least one of the jobs has ended, with those that have, or after 20 s with none; at once if there is
  # none to wait for. Of many, as many as go in one answer: ask again for the others. At most 1000 ids. `unknown` names
  # those that do not exist or that the caller may not see.

  workers @4 (after :Text, limit :UInt32) -> (workers :List(WorkerInfo), more :Bool);
  # Workers, by name, after the name `after`.

  status @5 () -> (status :PoolStatus);
  # The pool as a whole.

  cancel @6 (ids :List(UInt64), how :Types.Cancel) -> (results :List(CancelResult));
  # As `Job.cancel` of all tasks, for at most 1000 jobs; the results are in the order of the ids.

  renewKey @7 (key :Data, signature :Data) -> (refused :Types.Refusal);
  # Another key takes the place of the one that this connection was made with, for everything: that one is let in no
  # longer, and its connections are cut, this one too, perhaps before the answer. `key` is a SubjectPublicKeyInfo in
  # DER, of P-256; `signature` is by it, ECDSA with SHA-256 in ASN.1, of "clusterctl-renewal/1", the fingerprint by
  # which the pool is known, that of the old key, and that of the new one. `refused` if it does not verify, or the new
  # key is or was known to the pool.
}

interface Job @0x9c8c0a2dfb3e0b76 {
  # One job, live or ended, for somebody who may see it.

  info @0 () -> (info :JobInfo);
  # The job as it is.

  spec @1 () -> (spec :Types.JobSpec);
  # The whole request, as it was submitted.

  tasks @2 (after :UInt32, fromStart :Bool, limit :UInt32, state :TaskState, anyState :Bool)
      -> (tasks :List(TaskInfo), more :Bool);
  # Tasks in the order of their index, after index `after` (ignored with `fromStart`); of these only those in `state`,
  # unless `anyState`. A task that was cancelled while it waited is not among them.

  why @3 (task :UInt32) -> (why :Why);
  # Why a task is not running; of one that runs or has ended, that it does.

  cancel @4 (tasks :List(Types.Range), how :Types.Cancel) -> (result :CancelResult);
  # Ends what runs and keeps from starting what waits, of the given tasks (at most 1000 ranges); none given: all.
  # Durable when it returns; calling it again is harmless, and a stronger `how` counts.

  abandon @5 (tasks :List(Types.Range)) -> (abandoned :List(Types.Range), refused :Types.Refusal);
  # A person's decision that unknown attempts are lost, whatever the retries. Tasks that are not unknown are left alone;
  # it is refused if there is none that is. `abandoned` has the first 1000 ranges. Durable when it returns.

  retry @6 (request :Data, onlyFailed :Bool) -> (job :UInt64, handle :Job, refused :Types.Refusal);
  # Submits a new job of the same spec; with `onlyFailed`, of an array's failed indices. `request` as for `Pool.submit`.

  follow @7 (sink :Sink, from :Resume, what :FollowWhat) -> (following :Following, refused :Types.Refusal);
  # Sends the job's events and output to `sink`, first what has happened, then what happens.
  # Dropping `following` ends it.
}

struct FollowWhat {
  # What a follower wants.
  tasks @0 :List(Types.Range);
  # At most 1000 ranges; none: all.
  live @1 :Bool;
  # Output as it comes, of all tasks at once. Otherwise each task's output whole, when it has ended.
  attempt @2 :UInt32;
  # Only this attempt; 0: all, in order.
  untilNow @3 :Bool;
  # `done` comes when what has been written so far has been sent, instead of at the job's end.
}

struct Resume {
  # What a follower has seen already, after a broken connection.
  tasks @0 :List(Types.Range);
  # Tasks that it has seen to their end.
  partly @1 :List(TaskPosition);
  # Of others, how far; at most 4096.
}

struct TaskPosition {
  # A place in a task's output: in this attempt, so many bytes of both streams.
  task @0 :UInt32;
  attempt @1 :UInt32;
  position @2 :UInt64;
}

interface Following @0xc9a6b3d2f0e14c85 {
  # A follower's place. Dropping it ends the following.
}

interface Sink @0xe2b5c7f9a1d03468 {
  # A client's end of a following. The pool calls it; a client that does not answer is slowed, nobody else is. The pool
  # drops it when the following has ended, be that by `done` or not.

  write @0 (task :UInt32, attempt :UInt32, chunk :Types.Chunk) -> stream;
  # Bytes, in the order in which they arrived at the worker, without a gap and without a repetition.

  event @1 (event :TaskEvent) -> stream;
  # Something that happened to a task. Its end comes after all its output.

  gone @2 (task :UInt32, attempt :UInt32, position :UInt64, refused :Types.Refusal) -> stream;
  # Output up to `position` is no longer kept; `refused` says so in words. What is kept follows from there.

  done @3 (info :JobInfo) -> ();
  # The last call: the job has ended (or all that was asked for was sent).

  failed @4 (refused :Types.Refusal) -> ();
  # The last call instead of `done`: the pool cannot go on with this following. The job does.
}

struct TaskEvent {
  # Something that happened to a task.
  task @0 :UInt32;
  attempt @1 :UInt32;
  # The attempt that it is about; 0: none.
  worker @2 :Text;
  # Where that is or was; empty: nowhere.
  union {
    queued @3 :Void;
    # It waits; `Job.why` tells for what.
    started @4 :Void;
    # Bash runs.
    unknown @5 :UInt64;
    # Its worker has been silent; holds the milliseconds until it may start elsewhere, 0 if it never will by itself.
    returned @6 :Void;
    # Its worker is heard again.
    attemptLost @7 :Text;
    # This attempt is lost and another is allowed.
    cancelling @8 :Types.Cancel;
    # It is being ended.
    ended @9 :TaskEnd;
    # The last event of a task.
  }
}

struct TaskEnd {
  # How a task ended, with what its last attempt used and wrote.
  outcome @0 :Types.Outcome;
  usage @1 :Types.Usage;
  totals @2 :Types.OutputTotals;
}

enum TaskState {
  # What a task is doing, or how it ended.
  queued @0;
  # It waits for a worker.
  starting @1;
  # It was given to a worker that has not reported its start.
  running @2;
  # Bash runs.
  unknown @3;
  # Its worker is silent.
  done @4;
  # It ended with exit 0.
  failed @5;
  # It ended with another exit, a signal or a time-out, or could not be started.
  cancelled @6;
  # Somebody cancelled it.
  lost @7;
  # Nobody knows what became of it, and nobody will.
}

struct TaskInfo {
  # One task as it is.
  index @0 :UInt32;
  state @1 :TaskState;
  attempt @2 :UInt32;
  # The newest; 0: none yet.
  worker @3 :Text;
  # Where that is or was.
  startedMs @4 :Int64;
  # Wall clock, milliseconds since 1970; 0: not yet.
  endedMs @5 :Int64;
  end @6 :TaskEnd;
  # Null unless it has ended.
  cancelling @7 :Bool;
  # Somebody wants it ended, and it has not yet.
}

struct JobInfo {
  # One job as it is. All of its spec has `Job.spec`.
  id @0 :UInt64;
  owner @1 :Text;
  name @2 :Text;
  state @3 :TaskState;
  # Of an array: running if any task runs, else queued if any waits, else the worst of the ends.
  script @4 :Data;
  # At most the first 256 bytes.
  where @5 :Text;
  # These as in its spec, like the array.
  priority @6 :Int8;
  retries @7 :UInt32;
  submittedMs @8 :Int64;
  # Wall clock, milliseconds since 1970.
  startedMs @9 :Int64;
  # The first start; 0: none yet.
  endedMs @10 :Int64;
  # Of its last task; 0: it has not ended.
  array @11 :List(Types.Range);
  counts @12 :Counts;
  task @13 :TaskInfo;
  # Of a plain job its task; of an array the first that failed, or null.
  queuedUs @14 :UInt64;
  # From submit to the first start, on the pool's clock; 0: not yet.
  failed @15 :List(Types.Range);
  # Of an array, the first 1000 ranges of tasks that ended otherwise than with exit 0.
  timeoutMs @16 :UInt64;
  # As in its spec; 0: none.
}

struct Counts {
  # Tasks of a job by state.
  queued @0 :UInt64;
  starting @1 :UInt64;
  running @2 :UInt64;
  unknown @3 :UInt64;
  done @4 :UInt64;
  failed @5 :UInt64;
  cancelled @6 :UInt64;
  lost @7 :UInt64;
}

struct JobFilter {
  # Which jobs are listed: those that meet all of it.
  all @0 :Bool;
  # Otherwise those that have not ended, and those that ended within the last hour.
  states @1 :List(TaskState);
  # Empty: any.
  name @2 :Text;
  # Empty: any.
  sinceMs @3 :Int64;
  # Submitted at or after; 0: any.
}

struct CancelResult {
  # What a cancel did to one job.
  job @0 :UInt64;
  cancelled @1 :UInt64;
  # Tasks that were waiting and will never start.
  cancelling @2 :UInt64;
  # Tasks that are being ended at their worker, or at one that is silent.
  refused @3 :Types.Refusal;
  # Null unless nothing could be done.
}

struct Why {
  # Why a task is not running.
  state @0 :TaskState;
  text @1 :Text;
  # One sentence, for people.
  ahead @2 :UInt64;
  # Tasks that go first.
  constraints @3 :List(Unmet);
  # The parts of the constraint, with how many workers meet each.
  fitting @4 :UInt32;
  # Workers that meet all of it.
  workers @5 :UInt32;
  # Workers that there are.
}

struct Unmet {
  # A part of a constraint.
  text @0 :Text;
  # One term of the constraint, as `gpu=h100`.
  met @1 :UInt32;
  # Workers that meet it.
  seen @2 :List(Seen);
  # Values of its label that workers do have, the most frequent first, at most 5.
}

struct Seen {
  # A label that workers have.
  text @0 :Text;
  # As `gpu=a100`.
  count @1 :UInt32;
  # How many of them.
}

struct WorkerInfo {
  # One worker as it is.
  name @0 :Text;
  state @1 :WorkerState;
  slots @2 :UInt32;
  used @3 :UInt32;
  labels @4 :List(Types.Label);
  # Its own, those of its token, and its name.
  memoryBytes @5 :UInt64;
  seenMs @6 :UInt64;
  # Milliseconds since a byte came from it; 0 if never.
  tasks @7 :List(Types.TaskId);
  # What it holds of the caller's jobs, at most 1000.
  onlyOwner @8 :Text;
  # Takes only this owner's jobs; empty: everybody's.
  joinedMs @9 :Int64;
  fingerprint @10 :Data;
  # Of its key, 32 bytes; empty: it is one of the pool's own machine.
  ephemeral @11 :Bool;
  # It is forgotten ten minutes after it left, when it holds nothing.
  sharing @12 :Sharing;
}

enum Sharing {
  # Whether a worker's jobs can read the pool's state.
  unknown @0;
  # It has not registered since the pool's start, or the pool is too old to tell. Nobody may take it for `apart`.
  apart @1;
  # They cannot.
  user @2;
  # They can: they run on the pool's machine, as the pool's user.
  root @3;
  # They can: they run on the pool's machine, as root, which the pool is not.
}

enum WorkerState {
  # Whether a worker takes tasks.
  ready @0;
  # It does.
  draining @1;
  # It finishes what it has.
  silent @2;
  # Nothing was heard of it for 15 s.
  away @3;
  # Known, not connected since the pool's start or gone on purpose.
  drained @4;
  # It takes nothing, and has finished what it had.
  full @5;
  # It has no room for more on its disk.
}

struct PoolStatus {
  # The pool as a whole.
  name @0 :Text;
  pid @1 :UInt32;
  state @2 :Text;
  # Its state directory.
  listening @3 :Text;
  # Empty: the local socket only.
  sinceMs @4 :Int64;
  # When its process started.
  workers @5 :UInt32;
  # Connected ones; so are the slots, and those in use.
  silent @6 :UInt32;
  slots @7 :UInt32;
  used @8 :UInt32;
  queued @9 :UInt64;
  # Tasks, like the next two.
  running @10 :UInt64;
  unknown @11 :UInt64;
  build @12 :Text;
  outputBytes @13 :UInt64;
  # Kept, and at most.
  outputLimitBytes @14 :UInt64;
  fingerprint @15 :Data;
  newest @16 :UInt64;
  # The highest job id, 0 if there is none.
  diskFreeBytes @17 :UInt64;
  # On the disk of its state, and what has to be; both are 0 unless `disk` is low.
  diskNeededBytes @18 :UInt64;
  disk @19 :Disk;
}

enum Disk {
  # Whether the pool's disk has room for new jobs.
  unknown @0;
  # The pool is too old to tell. Nobody may take it for `enough`.
  enough @1;
  low @2;
  # Until there is more, new jobs are refused.
}

interface Admin @0xf7e61d3b0a9c5284 extends(Pool) {
  # What the pool's own user may do, over the local socket. Sees and decides about every owner's jobs.

  createToken @0 (wish :TokenWish) -> (token :Text, info :TokenInfo, refused :Types.Refusal);
  # Makes a token, which lets keys in. It is shown here and never again. Durable when it returns.

  tokens @1 () -> (tokens :List(TokenInfo));
  # All that are kept, oldest first: at most 10,000, and none whose time has been over for more than a day.

  revokeToken @2 (id :UInt64) -> (refused :Types.Refusal);
  # It lets nobody in any more; whom it has let in stays. `refused` is null if it is revoked.

  localWorker @3 (name :Text, given :Bool) -> (registrar :Worker.Registrar, refused :Types.Refusal);
  # A worker on the pool's machine that needs no token; called by that worker itself. The one place where a name comes
  # from a message. Without `given` a name in use gets `-2`.

  removeWorker @4 (name :Text) -> (lost :UInt64, refused :Types.Refusal);
  # Forgets a worker for good: its attempts are lost, its key is not let in again.

  stop @5 (why :StopReason) -> (running :UInt64, queued :UInt64);
  # Commits, then ends the pool within 5 s; jobs at workers go on. Tells how many tasks run and wait.

  clients @6 (after :Text, limit :UInt32) -> (clients :List(ClientInfo), more :Bool);
  # Those that tokens let in, by name, after the name `after`; also those that were revoked.

  revokeClient @7 (name :Text) -> (refused :Types.Refusal);
  # Its key is let in no longer, its connections are cut, its name is never given to another key; its jobs go on.
  # `refused` is null if it is revoked. Durable when it returns.

  audit @8 (after :UInt64, limit :UInt32) -> (rows :List(AuditRow), newest :UInt64);
  # Rows of the audit trail after number `after`, oldest first, and the number of the newest, 0 if there is none. The
  # oldest rows are dropped when there are more than a million.

  drainWorker @10 (name :Text, deadline :Bool, deadlineMs :UInt64) -> (running :UInt64, refused :Types.Refusal);
  # A worker is given nothing new until it is resumed, also over restarts. `running` tasks go on there; with `deadline`
  # what is left after `deadlineMs` is ended by TERM, and KILL after 10 s: it is lost, or runs elsewhere if retries are
  # left. The deadline restarts in full with the pool. Durable when it returns.

  resumeWorker @11 (name :Text) -> (refused :Types.Refusal);
  # A worker that was drained is given tasks again. Durable when it returns.

  renewPoolKey @9 (answerMs :UInt64) -> (fingerprint :Data, refused :Types.Refusal);
  # Gives the pool another key, whose fingerprint (32 bytes) it returns. The pool answers to the present one for
  # `answerMs` from now; whoever comes by it learns of the new one by `Welcome.successions`, workers that are connected
  # by `Worker.renewed`. `refused` if the pool has too many former keys. Durable when it returns.
}

struct AuditRow {
  # One row of the audit trail, as it is kept: whoever has all of them can verify the chain.
  number @0 :UInt64;
  # From 1, without a gap.
  before @1 :Data;
  # The chain's value before it, 32 bytes.
  body @2 :Data;
  # An `AuditEntry` of record.capnp, as a message of its own.
  chain @3 :Data;
  # The chain's value with it, 32 bytes.
}

struct ClientInfo {
  # A person or a script that a token let in.
  name @0 :Text;
  owner @1 :Text;
  # Whose jobs it submits and sees.
  fingerprint @2 :Data;
  # Of its key, 32 bytes.
  joinedMs @3 :Int64;
  # Wall clock, milliseconds since 1970.
  connections @4 :UInt32;
  # How many it has now.
  revoked @5 :Bool;
  # It is let in no longer.
}

enum StopReason {
  # Why a pool is to end.
  asked @0;
  # Somebody wants it to.
  handover @1;
  # Another process opens the same state.
}

struct TokenWish {
  # A token that somebody wants.
  role @0 :Role;
  name @1 :Text;
  # The name that the new key gets; empty: as it wishes.
  owner @2 :Text;
  # Of a client: whose jobs it submits and sees; empty: its name.
  labels @3 :List(Types.Label);
  # Of a worker: given to it by the pool.
  uses @4 :UInt32;
  # How many keys it lets in, at most 10,000; 0: any number.
  ttlMs @5 :UInt64;
  # 0: one hour; at most a day.
}

enum Role {
  # What a token makes of a key.
  worker @0;
  client @1;
}

struct TokenInfo {
  # A token as it is listed, without its secret.
  id @0 :UInt64;
  role @1 :Role;
  name @2 :Text;
  # That it gives; empty: as the key wishes.
  usesLeft @3 :UInt32;
  # Counts only if it is `bounded`.
  expiresMs @4 :Int64;
  state @5 :TokenState;
  bounded @6 :Bool;
  # Otherwise it lets in any number of keys.
}

enum TokenState {
  # Whether a token still lets keys in.
  valid @0;
  # It does.
  spent @1;
  # It was used as often as it may be.
  expired @2;
  # Its time is over.
  revoked @3;
  # Somebody revoked it.
}
