@0xb83e5a7fd60c1492;
# What a pool remembers. Each entry of its log is one `Record`; each row of its history holds a `TaskEnded` or a
# `JobEnded`. Nothing of this travels: it is read by later versions of the same program, for ever. So a field keeps its
# meaning, a new one is read as its default from older records, and a member of a union is never taken away.
#
# A record is carried out in the order of the log, on what the records before it have made. The log is shortened from
# its front: `counters`, `job`, `worker`, `client` and `token` hold a whole state, and are repeated so that what is
# before them may go. Durations are kept, never deadlines: on load each begins again. Times of day are for people.

using Types = import "types.capnp";
using Worker = import "worker.capnp";
using Pool = import "pool.capnp";

struct Record {
  # One change of what is durable.
  union {
    poolStarted @0 :UInt64;
    # A pool process took over the state; holds its epoch.
    counters @1 :Counters;
    # Recorded at each start of a pool.
    submitted @2 :Submission;
    # A job was accepted; all its tasks wait.
    assigned @3 :Assignment;
    # Tasks were given to a worker. Recorded before they are sent.
    ended @4 :TaskEnded;
    # A task ended. Recorded when all its output is durable.
    putBack @5 :PutBack;
    # An attempt is over without an outcome, and its task waits again.
    cancelWanted @6 :CancelWanted;
    # Somebody wants tasks ended: those that wait are cancelled by this, those at workers are marked.
    job @7 :JobState;
    worker @8 :WorkerState;
    # It joined, was removed, says something else of itself, or is repeated.
    client @9 :ClientState;
    # It was let in, was removed, or is repeated.
    token @10 :TokenState;
    # It was made, used, revoked, or is repeated.
    tokenForgotten @11 :UInt64;
    # The time of this token has been over for long.
    clientRenewed @12 :ClientRenewed;
    # A client has another key.
    workerForgotten @13 :UInt64;
    # An ephemeral worker left long ago, and held nothing.
  }
}

struct Counters {
  # The highest ids given out so far; none is ever given out again.
  job @0 :UInt64;
  worker @1 :UInt64;
  token @2 :UInt64;
}

struct Submission {
  # A job as it was accepted.
  job @0 :UInt64;
  nonce @1 :UInt64;
  # Random; part of every fence of the job.
  owner @2 :Text;
  request @3 :Data;
  # 16 bytes, as the client chose them: with the same owner, the same job.
  spec @4 :Types.JobSpec;
  atMs @5 :Int64;
}

struct Assignment {
  # Tasks of one job, given to one worker in one turn.
  job @0 :UInt64;
  worker @1 :UInt64;
  incarnation @2 :UInt64;
  # Of the executor that takes them.
  tasks @3 :List(Given);
  atMs @4 :Int64;
}

struct Given {
  # A task that was given out, with the number of the attempt.
  index @0 :UInt32;
  attempt @1 :UInt32;
}

struct TaskEnded {
  # The end of a task that had an attempt.
  end @0 :Worker.Ended;
  worker @1 :Text;
  # Its name; the worker may be gone when this is read.
  startedMs @2 :Int64;
  endedMs @3 :Int64;
}

struct PutBack {
  # Why a task waits again.
  fence @0 :Types.Fence;
  # The attempt that is over.
  union {
    retry @1 :Text;
    # It is lost, for this reason, and counts as one of those that were allowed.
    neverStarted @2 :Void;
    # It is proven that bash was not started: it does not count.
    workerLost @3 :Text;
    # As `retry`, and its worker went down with it.
  }
}

struct CancelWanted {
  # A wish to end tasks.
  job @0 :UInt64;
  ranges @1 :List(Types.Range);
  # Those of them that have ended are left alone.
  how @2 :Types.Cancel;
  # The strongest that was wanted counts.
  atMs @3 :Int64;
}

struct JobState {
  # A job that has not ended, with all that is remembered of its tasks: each of them waits, is active, or is over.
  submission @0 :Submission;
  waiting @1 :List(Types.Range);
  active @2 :List(Active);
  tried @3 :List(Tried);
  # Those of the waiting that had attempts.
  over @4 :Pool.Counts;
  failed @5 :List(Types.Range);
  # Those of the over that ended otherwise than with exit 0.
  startedMs @6 :Int64;
  # When its first task was given out; 0: not yet.
}

struct Active {
  # A task that was given to a worker and has not ended.
  index @0 :UInt32;
  attempt @1 :UInt32;
  used @2 :UInt32;
  # Attempts before this one that count.
  worker @3 :UInt64;
  incarnation @4 :UInt64;
  # Of the executor that it was given to.
  atMs @5 :Int64;
  unknownMs @6 :UInt64;
  # For how long its worker has been silent in all; stands in no other record.
  union {
    wanted @7 :Void;
    cancelled @8 :Types.Cancel;
    # Somebody wants it ended, and it has not yet.
  }
  workers @9 :UInt32;
  # Attempts before this one whose worker went down with them.
}

struct Tried {
  # A task that waits and had attempts.
  index @0 :UInt32;
  last @1 :UInt32;
  # The highest number of an attempt.
  used @2 :UInt32;
  # Attempts that count.
  workers @3 :UInt32;
  # Of these, whose worker went down with them.
}

struct WorkerState {
  # A worker's membership.
  id @0 :UInt64;
  name @1 :Text;
  key @2 :Data;
  # 32 bytes, or none for a worker of the pool's own machine.
  bound @3 :List(Types.Label);
  # Given to it by its token; they go over its own.
  joinedMs @4 :Int64;
  revoked @5 :Bool;
  # Its key and its name are kept, so that neither comes back.
  facts @6 :Worker.Facts;
  # Null until it has registered.
  drained @7 :Bool;
  # A person has taken it out of service.
  drainedForMs @8 :UInt64;
  # Then what runs there is ended after so long; 0: it goes on.
}

struct ClientState {
  # A client's key.
  key @0 :Data;
  # 32 bytes.
  name @1 :Text;
  owner @2 :Text;
  # Whose jobs it submits and sees.
  joinedMs @3 :Int64;
  revoked @4 :Bool;
  # Its key and its name are kept, so that neither comes back.
}

struct ClientRenewed {
  # A client has another key.
  before @0 :Data;
  # The key that it had, 32 bytes: let in no longer.
  client @1 :ClientState;
  # As it stands.
}

struct TokenState {
  # A token, without its secret.
  id @0 :UInt64;
  role @1 :Pool.Role;
  secretHash @2 :Data;
  # 32 bytes.
  name @3 :Text;
  # As in `TokenWish`, like the owner and the labels.
  owner @4 :Text;
  labels @5 :List(Types.Label);
  bounded @6 :Bool;
  # Whether `usesLeft` counts.
  usesLeft @7 :UInt32;
  expiresMs @8 :Int64;
  # On the wall clock: a person's promise to a person.
  revoked @9 :Bool;
  admitted @10 :List(Data);
  # Keys that a bounded one has let in, of 32 bytes each: the same key again is the same use.
}

struct JobEnded {
  # A job that has ended.
  submission @0 :Submission;
  counts @1 :Pool.Counts;
  failed @2 :List(Types.Range);
  # Tasks that ended otherwise than with exit 0.
  startedMs @3 :Int64;
  # When its first task was given out; 0: none was.
  endedMs @4 :Int64;
}

struct AuditEntry {
  # What somebody did, or what was decided about somebody at the door. A row of the audit trail holds one; the trail is a
  # chain of its own beside the log: each row has BLAKE3 of the value before it (32 zero bytes at first), its number (8
  # bytes, little end first) and its bytes.
  atMs @0 :Int64;
  what @1 :AuditKind;
  who @2 :Text;
  # The name of a client or worker, or the pool's own user; empty: nobody who is known.
  source @3 :Text;
  # An address, or `socket`.
  about @4 :Text;
  # As `job 42`.
  detail @5 :Text;
  # As the hash of a script, or why somebody was not let in.
  count @6 :UInt32;
  # How often it came, within a minute.
}

enum AuditKind {
  # What an entry of the audit trail tells.
  enrolled @0;
  notEnrolled @1;
  connected @2;
  notConnected @3;
  tokenCreated @4;
  tokenRevoked @5;
  submitted @6;
  cancelled @7;
  abandoned @8;
  workerRemoved @9;
  clientRevoked @10;
  keyRenewed @11;
  poolKeyRenewed @12;
  workerDrained @13;
  workerResumed @14;
  workerForgotten @15;
}
