@0xd0c4b7a1e5936f28;
# What a client may hold. The key that a client's TLS connection proved decides which `Door` it is given; no field of a
# message says who somebody is. Every call is answered within 20 s; what may take longer is asked again.

using Types = import "types.capnp";
using Worker = import "worker.capnp";

interface ClientDoor @0xb1c3dc2c3f1a7e04 {
  # The bootstrap object of a client's connection. It gives nothing but what `hello` returns.

  hello @0 (hello :Types.Hello) -> (welcome :Types.Welcome, pool :Pool, admin :Admin, refused :Types.Refusal);
  # The first call. `refused` is null unless the versions do not fit together; then the capabilities are null.
  # `admin` is null unless the peer came in by the local socket; it is the same object as `pool`, with more methods.
}

interface Pool @0xa7d0e25ac9d14b11 {
  # Jobs of the owner that the connection stands for. Dropping it changes nothing: jobs do not end with their client.

  submit @0 (request :Data, spec :Types.JobSpec) -> (job :UInt64, handle :Job, refused :Types.Refusal);
  # Accepts a job. It is durable when this returns. `request` is 16 random bytes that the client chose: the same bytes
  # with the same spec again are the same job, with another spec they are refused.

  job @1 (id :UInt64) -> (handle :Job, refused :Types.Refusal);
  # A capability to one job. An id that does not exist and one that the caller may not see give the same refusal.

  jobs @2 (filter :JobFilter, before :UInt64, limit :UInt32) -> (jobs :List(JobInfo), older :UInt64, newest :UInt64);
  # Jobs, newest first, below id `before` (0: from the newest), at most `limit` (0: 100, at most 1000). `older` is how
  # many more match. `newest` is the highest id that the caller may see, 0 if there is none.

  wait @3 (ids :List(UInt64)) -> (ended :List(JobInfo), unknown :List(UInt64));
  # Answers when at least one of the jobs has ended, with all of them that have, or after 20 s with none.
  # `unknown` names ids that the caller may not see.

  workers @4 (after :Text, limit :UInt32) -> (workers :List(WorkerInfo), more :Bool);
  # Workers, by name, after the name `after`.

  status @5 () -> (status :PoolStatus);

  cancel @6 (ids :List(UInt64), how :Types.Cancel) -> (results :List(CancelResult));
  # As `Job.cancel`, for many.
}

interface Job @0x9c8c0a2dfb3e0b76 {
  # One job. Dropping it changes nothing.

  info @0 () -> (info :JobInfo);

  spec @1 () -> (spec :Types.JobSpec);

  tasks @2 (after :UInt32, fromStart :Bool, limit :UInt32, state :TaskState, anyState :Bool)
      -> (tasks :List(TaskInfo), more :Bool);
  # Tasks in the order of their index, after index `after` (ignored with `fromStart`).

  why @3 (task :UInt32) -> (why :Why);
  # Why a task is not running.

  cancel @4 (tasks :List(Types.Range), how :Types.Cancel) -> (result :CancelResult);
  # Ends what runs and keeps from starting what waits, of the given tasks; none given: all. Durable when it returns;
  # calling it again is harmless, and a stronger `how` counts.

  abandon @5 (tasks :List(Types.Range)) -> (abandoned :List(Types.Range), refused :Types.Refusal);
  # A person's decision that unknown attempts are lost. Tasks that are not unknown are left alone.

  retry @6 (request :Data, onlyFailed :Bool) -> (job :UInt64, handle :Job, refused :Types.Refusal);
  # Submits a new job of the same spec; with `onlyFailed`, of an array's failed indices.

  follow @7 (sink :Sink, from :Resume, what :FollowWhat) -> (following :Following, refused :Types.Refusal);
  # Sends the job's events and output to `sink`, first what has happened, then what happens.
  # Dropping `following` ends it.
}

struct FollowWhat {
  tasks @0 :List(Types.Range);
  # None: all.
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
}

struct TaskPosition {
  task @0 :UInt32;
  attempt @1 :UInt32;
  position @2 :UInt64;
}

interface Following @0xc9a6b3d2f0e14c85 {
  # A follower's place. Dropping it ends the following.
}

interface Sink @0xe2b5c7f9a1d03468 {
  # A client's end of a following. The pool calls it; a client that does not answer is slowed, nobody else is.

  write @0 (task :UInt32, attempt :UInt32, chunk :Types.Chunk) -> stream;
  # Bytes, in the order in which they arrived at the worker, without a gap and without a repetition.

  event @1 (event :TaskEvent) -> stream;

  gone @2 (task :UInt32, attempt :UInt32, position :UInt64, refused :Types.Refusal) -> stream;
  # Output up to `position` is no longer kept.

  done @3 (info :JobInfo) -> ();
  # The last call: the job has ended (or all that was asked for was sent).
}

struct TaskEvent {
  # Something that happened to a task.
  task @0 :UInt32;
  attempt @1 :UInt32;
  worker @2 :Text;
  union {
    queued @3 :Void;
    # It waits; `Job.why` tells for what.
    started @4 :Void;
    unknown @5 :UInt64;
    # Its worker has been silent; holds the milliseconds until it may start elsewhere, 0 if it never will by itself.
    returned @6 :Void;
    # Its worker is heard again.
    attemptLost @7 :Text;
    # This attempt is lost and another is allowed.
    cancelling @8 :Types.Cancel;
    ended @9 :TaskEnd;
  }
}

struct TaskEnd {
  outcome @0 :Types.Outcome;
  usage @1 :Types.Usage;
  totals @2 :Types.OutputTotals;
}

enum TaskState {
  queued @0;
  starting @1;
  running @2;
  unknown @3;
  done @4;
  failed @5;
  cancelled @6;
  lost @7;
}

struct TaskInfo {
  index @0 :UInt32;
  state @1 :TaskState;
  attempt @2 :UInt32;
  # 0: none yet.
  worker @3 :Text;
  startedMs @4 :Int64;
  # Wall clock, milliseconds since 1970; 0: not yet.
  endedMs @5 :Int64;
  end @6 :TaskEnd;
  # Null unless it has ended.
  cancelling @7 :Bool;
}

struct JobInfo {
  id @0 :UInt64;
  owner @1 :Text;
  name @2 :Text;
  state @3 :TaskState;
  # Of an array: running if any task runs, else queued if any waits, else the worst of the ends.
  script @4 :Data;
  # At most the first 256 bytes.
  where @5 :Text;
  priority @6 :Int8;
  retries @7 :UInt32;
  submittedMs @8 :Int64;
  startedMs @9 :Int64;
  # The first start; 0: none yet.
  endedMs @10 :Int64;
  array @11 :List(Types.Range);
  counts @12 :Counts;
  task @13 :TaskInfo;
  # Of a plain job its task; of an array the first that failed, or null.
  queuedUs @14 :UInt64;
  # From submit to the first start, on the pool's clock.
  failed @15 :List(Types.Range);
  # Of an array, the first 1000 ranges of tasks that ended otherwise than with exit 0.
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
  job @0 :UInt64;
  cancelled @1 :UInt64;
  # Tasks that were waiting and will never start.
  cancelling @2 :UInt64;
  # Tasks that are being ended at their worker, or at one that is silent.
  refused @3 :Types.Refusal;
  # Null unless nothing could be done.
}

struct Why {
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
  text @0 :Text;
  # One term of the constraint, as `gpu=h100`.
  met @1 :UInt32;
  # Workers that meet it.
  seen @2 :List(Seen);
  # Values of its label that workers do have.
}

struct Seen {
  text @0 :Text;
  # As `gpu=a100`.
  count @1 :UInt32;
}

struct WorkerInfo {
  name @0 :Text;
  state @1 :WorkerState;
  slots @2 :UInt32;
  used @3 :UInt32;
  labels @4 :List(Types.Label);
  memoryBytes @5 :UInt64;
  seenMs @6 :UInt64;
  # Milliseconds since a byte came from it; 0 if never.
  tasks @7 :List(Types.TaskId);
  # What it holds, at most 1000.
  onlyOwner @8 :Text;
  # Takes only this owner's jobs; empty: everybody's.
  joinedMs @9 :Int64;
  fingerprint @10 :Data;
}

enum WorkerState {
  ready @0;
  draining @1;
  silent @2;
  away @3;
  # Known, not connected since the pool's start or gone on purpose.
}

struct PoolStatus {
  name @0 :Text;
  pid @1 :UInt32;
  state @2 :Text;
  # Its state directory.
  listening @3 :Text;
  # Empty: the local socket only.
  sinceMs @4 :Int64;
  workers @5 :UInt32;
  silent @6 :UInt32;
  slots @7 :UInt32;
  used @8 :UInt32;
  queued @9 :UInt64;
  running @10 :UInt64;
  unknown @11 :UInt64;
  build @12 :Text;
  outputBytes @13 :UInt64;
  outputLimitBytes @14 :UInt64;
  fingerprint @15 :Data;
  newest @16 :UInt64;
  # The highest job id, 0 if there is none.
}

interface Admin @0xf7e61d3b0a9c5284 extends(Pool) {
  # What the pool's own user may do, over the local socket. Sees and decides about every owner's jobs.

  createToken @0 (wish :TokenWish) -> (token :Text, info :TokenInfo, refused :Types.Refusal);
  # The token is shown here and never again.

  tokens @1 () -> (tokens :List(TokenInfo));

  revokeToken @2 (id :UInt64) -> (refused :Types.Refusal);

  localWorker @3 (name :Text, given :Bool) -> (registrar :Worker.Registrar, refused :Types.Refusal);
  # A worker on the pool's machine that needs no token. The one place where a name comes from a message. Without
  # `given` a name in use gets `-2`.

  removeWorker @4 (name :Text) -> (lost :UInt64, refused :Types.Refusal);
  # Forgets a worker for good: its attempts are lost, its key is not let in again.

  stop @5 (why :StopReason) -> (running :UInt64, queued :UInt64);
  # Commits, then ends the pool within 5 s; jobs at workers go on.
}

enum StopReason {
  asked @0;
  handover @1;
  # Another process opens the same state.
}

struct TokenWish {
  role @0 :Role;
  name @1 :Text;
  # The name that the new key gets; empty: as it wishes.
  owner @2 :Text;
  # Of a client: whose jobs it submits and sees; empty: its name.
  labels @3 :List(Types.Label);
  # Of a worker: given to it by the pool.
  uses @4 :UInt32;
  # 0: any number.
  ttlMs @5 :UInt64;
  # 0: one hour; at most a day.
}

enum Role {
  worker @0;
  client @1;
}

struct TokenInfo {
  id @0 :UInt64;
  role @1 :Role;
  name @2 :Text;
  usesLeft @3 :UInt32;
  # Counts only if it is `bounded`.
  expiresMs @4 :Int64;
  state @5 :TokenState;
  bounded @6 :Bool;
  # Otherwise it lets in any number of keys.
}

enum TokenState {
  valid @0;
  spent @1;
  expired @2;
  revoked @3;
}
